// 3 x 3 convolutions over two axes by minimal filtering in both: F(4 x 4, 3 x 3), 36 products for 16 outputs instead of
// 144 (A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2016).
//
// Weights stay as they are, in single or half precision, and are transformed as they are used: transformed ones would take
// four times the memory, and the widest layers see so few places that reading them would take longer than making them.
#pragma once
#include <algorithm>
#include <type_traits>

#include "linear.h"
#include "matmul.h"
#include "menura_kernels.h"
#include "threads.h"
#include "toom_cook_matrices.h"

namespace menura {
namespace MENURA_PATH {

using ImageMatrices = ToomCook_4_3;

constexpr int kImageTile = ImageMatrices::kInputs;      // 6 x 6 inputs
constexpr int kImageOutputs = ImageMatrices::kOutputs;  // 4 x 4 outputs
constexpr int kImagePoints = kImageTile * kImageTile;
constexpr int kImageTaps = 3;
constexpr int64_t kImageBlockBytes = 5 << 17;  // of transformed samples: with weights and products in a second-level cache
constexpr int64_t kFewestTiles = 24;           // of a block: transformed weights have to be worth their while
constexpr int kImageDepth = 128;               // channels whose weights are transformed at once
constexpr int kWideChannels = 128;             // more outputs than this are divided among threads, fewer share tiles

MENURA_INLINE Vec load_weights(const float* p) { return load(p); }
MENURA_INLINE Vec load_weights(const uint16_t* p) { return load_half(p); }

// A transform along one axis and then along the other.
template <const auto& kMatrix, class Load, class Store>
MENURA_INLINE void transform_square(const Load& value, const Store& emit) {
  using Transform = Linear<kMatrix>;
  constexpr int kRows = Transform::kRows, kColumns = Transform::kColumns;
  Vec halfway[kColumns][kRows];
  unrolled<kColumns>([&](auto i) __attribute__((always_inline)) {
    Vec line[kColumns];
    unrolled<kColumns>([&](auto j) __attribute__((always_inline)) { line[j] = value(i, j); });
    Transform::apply(line, halfway[i]);
  });
  unrolled<kRows>([&](auto q) __attribute__((always_inline)) {
    Vec line[kColumns], made[kRows];
    unrolled<kColumns>([&](auto i) __attribute__((always_inline)) { line[i] = halfway[i][q]; });
    Transform::apply(line, made);
    unrolled<kRows>([&](auto p) __attribute__((always_inline)) { emit(p, q, made[p]); });
  });
}

// Where the tiles of a batch of images lie.
struct ImageTiling {
  int64_t images, height, width;
  int64_t down = (height + kImageOutputs - 1) / kImageOutputs, across = (width + kImageOutputs - 1) / kImageOutputs;

  struct Place {
    int64_t image, y, x;  // of the first output
  };
  int64_t count() const { return images * down * across; }
  Place place(int64_t tile) const {
    return {tile / (down * across), tile / across % down * kImageOutputs, tile % across * kImageOutputs};
  }
};

// A tile's samples, transformed; zeros outside of the image.
inline void transform_image_tile(const float* input, const ImageTiling& tiling, int channels, int64_t tile,
                                 const float* zeros, float* points, size_t pitch) {
  const ImageTiling::Place place = tiling.place(tile);
  const float* image = input + place.image * tiling.height * tiling.width * channels;
  const int64_t top = place.y - 1, left = place.x - 1;
  const auto emit = [&](int64_t c) __attribute__((always_inline)) {
    return [=](auto p, auto q, Vec value) __attribute__((always_inline)) {
      store(points + (p * kImageTile + q) * pitch + c, value);
    };
  };
  if (top >= 0 && left >= 0 && top + kImageTile <= tiling.height && left + kImageTile <= tiling.width) {
    const size_t line = static_cast<size_t>(tiling.width) * channels;
    const float* corner = image + top * line + left * channels;
    for (int c = 0; c < channels; c += kLanes)
      transform_square<ImageMatrices::kInput>(
          [&](auto i, auto j) __attribute__((always_inline)) { return load(corner + i * line + j * channels + c); },
          emit(c));
    return;
  }
  const float* places[kImageTile][kImageTile];
  for (int i = 0; i < kImageTile; ++i)
    for (int j = 0; j < kImageTile; ++j) {
      const int64_t y = top + i, x = left + j;
      const bool inside = y >= 0 && y < tiling.height && x >= 0 && x < tiling.width;
      places[i][j] = inside ? image + (y * tiling.width + x) * channels : zeros;
    }
  for (int c = 0; c < channels; c += kLanes)
    transform_square<ImageMatrices::kInput>(
        [&](auto i, auto j) __attribute__((always_inline)) { return load(places[i][j] + c); }, emit(c));
}

// The weights of a panel's outputs and of some inputs: [points][depth][kVecs * kLanes].
template <int kVecs, class Weight>
void transform_weights(const Weight* panel, int channels_in, int first, int depth, float* transformed, size_t pitch) {
  constexpr size_t kWidth = kVecs * kLanes;
  for (int k = 0; k < depth; ++k)
    for (int v = 0; v < kVecs; ++v) {
      const Weight* weights = panel + (first + k) * kWidth + v * kLanes;
      float* made = transformed + k * kWidth + v * kLanes;
      transform_square<ImageMatrices::kWeight>(
          [&](auto i, auto j) __attribute__((always_inline)) {
            return load_weights(weights + static_cast<size_t>(i * kImageTaps + j) * channels_in * kWidth);
          },
          [&](auto p, auto q, Vec value) __attribute__((always_inline)) {
            store(made + (p * kImageTile + q) * pitch, value);
          });
    }
}

// relu(sums * scale + bias) + residual of a tile's outputs, for the channels of a vector.
inline void finish_image_tile(const menura_image_layer& layer, const menura_image_call& call, const ImageTiling& tiling,
                              int64_t tile, int channel, const float* points, size_t pitch) {
  const ImageTiling::Place place = tiling.place(tile);
  const Vec scale = load(layer.scale + channel), bias = load(layer.bias + channel), zero = broadcast(0.0f);
  const int64_t down = tiling.height - place.y, across = tiling.width - place.x;
  const size_t channels = layer.channels_out, line = tiling.width * channels;
  const size_t corner = ((place.image * tiling.height + place.y) * tiling.width + place.x) * channels + channel;
  transform_square<ImageMatrices::kOutput>(
      [&](auto i, auto j) __attribute__((always_inline)) { return load(points + (i * kImageTile + j) * pitch); },
      [&](auto p, auto q, Vec sums) __attribute__((always_inline)) {
        if (p >= down || q >= across) return;
        const size_t at = corner + p * line + q * channels;
        Vec value = maximum(zero, multiply_add(sums, scale, bias));  // the second, if it is no number
        if (call.residual != nullptr) value = value + load(call.residual + at);
        store(call.output + at, value);
      });
}

// Working memory for a block of tiles.
struct ImageScratch {
  size_t pitch_in, pitch_weights, pitch_out;  // floats from point to point
  float *transformed, *weights, *products, *zeros;

  ImageScratch(int64_t tiles, int channels_in) {
    // A few floats more than a round number: points of equal offset would compete for the same lines of the cache.
    pitch_in = round_up(tiles, kTileRows) * channels_in + 16;
    pitch_out = round_up(tiles, kTileRows) * kPanelChannels + 16;
    pitch_weights = std::min(channels_in, kImageDepth) * kPanelChannels + 16;
    float* memory =
        Scratch::of_this_thread().floats(kImagePoints * (pitch_in + pitch_weights + pitch_out) + channels_in);
    transformed = memory;
    if (memory == nullptr) return;
    products = transformed + kImagePoints * pitch_in;
    weights = products + kImagePoints * pitch_out;
    zeros = weights + kImagePoints * pitch_weights;
    std::fill_n(zeros, channels_in, 0.0f);
  }
};

// The outputs of kVecs vectors of channels from `channel` on, for the tiles in the scratch.
template <int kVecs, class Weight>
void convolve_image_panel(const menura_image_layer& layer, const menura_image_call& call, const ImageTiling& tiling,
                          int64_t first_tile, int64_t tiles, int channel, const ImageScratch& scratch) {
  constexpr int kWidth = kVecs * kLanes;
  const int in = layer.channels_in;
  const Weight* panel = static_cast<const Weight*>(layer.weights) + static_cast<size_t>(9) * in * channel;
  for (int first = 0; first < in; first += kImageDepth) {
    const int depth = std::min(in - first, kImageDepth);
    transform_weights<kVecs>(panel, in, first, depth, scratch.weights, scratch.pitch_weights);
    for (int point = 0; point < kImagePoints; ++point) {
      const float* samples = scratch.transformed + point * scratch.pitch_in + first;
      const float* weights = scratch.weights + point * scratch.pitch_weights;
      float* products = scratch.products + point * scratch.pitch_out;
      if (first == 0)
        multiply_panel<kVecs, false>(samples, in, weights, products, kWidth, depth, tiles);
      else
        multiply_panel<kVecs, true>(samples, in, weights, products, kWidth, depth, tiles);
    }
  }
  for (int64_t i = 0; i < tiles; ++i)
    for (int v = 0; v < kVecs; ++v)
      finish_image_tile(layer, call, tiling, first_tile + i, channel + v * kLanes,
                        scratch.products + i * kWidth + v * kLanes, scratch.pitch_out);
}

template <class Weight>
int32_t convolve_image_as(const menura_image_layer& layer, const menura_image_call& call) {
  const int in = layer.channels_in, out = layer.channels_out;
  const ImageTiling tiling{call.images, call.height, call.width};
  const int64_t tiles = tiling.count(), panels = (out + kPanelChannels - 1) / kPanelChannels;
  const int64_t parts = out > kWideChannels ? std::min<int64_t>(panels, call.threads) : 1;
  const int64_t tile_bytes = static_cast<int64_t>(kImagePoints) * in * sizeof(float);
  int64_t blocks = (tiles + kFewestTiles - 1) / kFewestTiles;
  blocks = std::min(blocks, (tiles * tile_bytes + kImageBlockBytes - 1) / kImageBlockBytes);
  if (parts == 1) blocks = round_up(blocks, call.threads);
  const int64_t block = round_up((tiles + blocks - 1) / blocks, kTileRows);
  blocks = (tiles + block - 1) / block;
  std::atomic<bool> out_of_memory{false};
  for_each_block(blocks * parts, call.threads, [&](int64_t index) {
    const FlushDenormals flush;
    const ImageScratch scratch(block, in);
    if (scratch.transformed == nullptr) {
      out_of_memory = true;
      return;
    }
    const int64_t part = index % parts, first = index / parts * block, count = std::min(block, tiles - first);
    for (int64_t i = 0; i < count; ++i)
      transform_image_tile(call.input, tiling, in, first + i, scratch.zeros, scratch.transformed + i * in,
                           scratch.pitch_in);
    const int64_t stop = std::min<int64_t>((part + 1) * panels / parts * kPanelChannels, out);
    int64_t channel = part * panels / parts * kPanelChannels;
    for (; channel + kPanelChannels <= stop; channel += kPanelChannels)
      convolve_image_panel<kPanelVecs, Weight>(layer, call, tiling, first, count, channel, scratch);
    for (; channel < stop; channel += kLanes)
      convolve_image_panel<1, Weight>(layer, call, tiling, first, count, channel, scratch);
  });
  return out_of_memory ? MENURA_OUT_OF_MEMORY : MENURA_OK;
}

inline int32_t convolve_image(const menura_image_layer& layer, const menura_image_call& call) {
  return layer.half ? convolve_image_as<uint16_t>(layer, call) : convolve_image_as<float>(layer, call);
}

}  // namespace MENURA_PATH
}  // namespace menura
