// Convolutions whose every block does all its steps while its data are in the cache: leaky ReLU, convolution, bias,
// residual, mean.
#pragma once
#include <algorithm>

#include "matmul.h"
#include "menura_kernels.h"
#include "threads.h"
#include "transforms.h"

namespace menura {
namespace MENURA_PATH {

// Bytes that a block works on: a small part of a core's second-level cache. The weights pass through it for every block,
// and of a larger one what was transformed would be gone before its product is made.
constexpr int64_t kBlockBytes = 1 << 17;

// How the sums of a convolution become its output; one of menura_mode.
template <int kMode>
struct Finish {
  float* output;
  const float* residual;
  Vec scale;

  MENURA_INLINE void operator()(size_t at, Vec sums) const {
    if constexpr (kMode != MENURA_STORE) sums = sums + load(residual + at);
    if constexpr (kMode == MENURA_START_MEAN) sums = sums * scale;
    if constexpr (kMode == MENURA_ADD_TO_MEAN) sums = multiply_add(sums, scale, load(output + at));
    store(output + at, sums);
  }
};

template <class F>
int32_t with_finish(const menura_call& call, const F& run) {
  const Vec scale = broadcast(call.scale);
  switch (call.mode) {
    case MENURA_STORE: return run(Finish<MENURA_STORE>{call.output, nullptr, scale});
    case MENURA_ADD_RESIDUAL: return run(Finish<MENURA_ADD_RESIDUAL>{call.output, call.residual, scale});
    case MENURA_START_MEAN: return run(Finish<MENURA_START_MEAN>{call.output, call.residual, scale});
    case MENURA_ADD_TO_MEAN: return run(Finish<MENURA_ADD_TO_MEAN>{call.output, call.residual, scale});
    default: return MENURA_BAD_ARGUMENT;
  }
}

// Units a block: whole tiles of the matrix product, in as many blocks as keep every thread busy to the end.
inline int64_t block_size(int64_t units, int64_t largest, int threads) {
  largest = std::max<int64_t>(largest / kTileRows, 1) * kTileRows;
  int64_t blocks = (units + largest - 1) / largest;
  blocks = round_up(blocks, threads);
  return std::max<int64_t>(round_up((units + blocks - 1) / blocks, kTileRows), kTileRows);
}

// Where the tiles of a dilated convolution lie. Rows of equal remainder by the dilation form a signal of their own, cut
// into tiles; neighbouring tiles in memory have neighbouring numbers.
struct Tiling {
  int64_t steps;
  int dilation, outputs, left;  // outputs of a tile, and rows (of its remainder) it sees before its first output

  int64_t count() const {
    const int64_t rows = (steps + dilation - 1) / dilation;
    return (rows + outputs - 1) / outputs * dilation;
  }
  int64_t first_output(int64_t tile) const { return tile % dilation + tile / dilation * outputs * dilation; }
  // Outputs of tile `tile` and those after it lie from here on, those of the tiles before it lie before `end_output`.
  int64_t begin_output(int64_t tile) const { return tile / dilation * outputs * dilation; }
  int64_t end_output(int64_t tile) const { return (tile + dilation - 1) / dilation * outputs * dilation; }
  int64_t first_input(int64_t tile) const { return first_output(tile) - static_cast<int64_t>(left) * dilation; }
};

// A tile's samples, transformed: channels innermost. Rows outside the signal are zeros.
template <class Transform>
MENURA_INLINE void transform_tile(const float* x, int64_t steps, int channels, int64_t first_row, int dilation, Vec slope,
                                  const float* zeros, float* points, size_t pitch) {
  constexpr int kTile = Transform::kTile;
  const size_t stride = static_cast<size_t>(dilation) * channels;
  const bool inside = first_row >= 0 && first_row + static_cast<int64_t>(dilation) * (kTile - 1) < steps;
  if (inside) {
    const float* rows = x + first_row * channels;
    for (int c = 0; c < channels; c += kLanes) {
      Vec samples[kTile];
      unrolled<kTile>([&](auto i) __attribute__((always_inline)) {
        samples[i] = leaky_relu(load(rows + i * stride + c), slope);
      });
      Transform::forward(samples, points + c, pitch);
    }
    return;
  }
  const float* rows[kTile];
  for (int i = 0; i < kTile; ++i) {
    const int64_t row = first_row + static_cast<int64_t>(dilation) * i;
    rows[i] = row >= 0 && row < steps ? x + row * channels : zeros;
  }
  for (int c = 0; c < channels; c += kLanes) {
    Vec samples[kTile];
    for (int i = 0; i < kTile; ++i) samples[i] = leaky_relu(load(rows[i] + c), slope);
    Transform::forward(samples, points + c, pitch);
  }
}

template <class Transform, class Finishing>
MENURA_INLINE void finish_tile(const float* points, size_t pitch, const float* bias, int channels, int64_t first_row,
                               int dilation, int64_t outputs, const Finishing& finish) {
  for (int c = 0; c < channels; c += kLanes) {
    Vec sums[Transform::kTile];
    Transform::inverse(points + c, pitch, sums);
    const Vec offset = load(bias + c);
    for (int64_t i = 0; i < outputs; ++i)
      finish((first_row + dilation * i) * channels + c, sums[i] + offset);
  }
}

// What tiles [first, first + count) read and write.
inline Ahead ahead_of(const menura_layer& layer, const menura_call& call, const Tiling& tiling, int64_t first,
                      int64_t count) {
  Ahead ahead;
  const int64_t from = tiling.begin_output(first), to = tiling.end_output(first + count);
  const int64_t reach = static_cast<int64_t>(tiling.left) * layer.dilation;
  ahead.add(call.input, call.steps_in, layer.channels_in, from + call.offset - reach, to + call.offset + reach);
  if (call.mode != MENURA_STORE) ahead.add(call.residual, call.steps_out, layer.channels_out, from, to);
  ahead.add(call.output, call.steps_out, layer.channels_out, from, to);
  return ahead;
}

// A convolution by minimal filtering.
template <class Transform, class Finishing>
int32_t convolve_filtered(const menura_layer& layer, const menura_call& call, const Finishing& finish) {
  constexpr int kPoints = Transform::kPoints;
  const int in = layer.channels_in, out = layer.channels_out, outputs = Transform::kTile - layer.taps + 1;
  const Tiling tiling{call.steps_out, layer.dilation, outputs, (layer.taps - 1) / 2};
  const int64_t tiles = tiling.count();
  const int widest = std::max(in, out);
  const int64_t tile_bytes = static_cast<int64_t>(kPoints + 1) * widest * sizeof(float);
  const int64_t block = block_size(tiles, kBlockBytes / tile_bytes, call.threads);
  // A few floats more than a round number: points of equal offset would compete for the same lines of the cache.
  const size_t pitch = block * widest + 16;
  std::atomic<bool> out_of_memory{false};
  for_each_block((tiles + block - 1) / block, call.threads, [&](int64_t index) {
    const FlushDenormals flush;
    float* zeros = Scratch::of_this_thread().floats((kPoints + 1) * pitch + in);
    if (zeros == nullptr) {
      out_of_memory = true;
      return;
    }
    std::fill_n(zeros, in, 0.0f);
    // Products take the place of the transformed samples that were used before: one slot behind them.
    float* products = zeros + in;
    float* transformed = products + pitch;
    const int64_t first = index * block, count = std::min(block, tiles - first);
    const Vec slope = broadcast(call.slope);
    for (int64_t i = 0; i < count; ++i)
      transform_tile<Transform>(call.input, call.steps_in, in, tiling.first_input(first + i) + call.offset, layer.dilation, slope, zeros,
                                transformed + i * in, pitch);
    const auto multiply_points = [&](auto&& ahead) {
      for (int point = 0; point < kPoints; ++point)
        multiply<false>(transformed + point * pitch, in, layer.weights + static_cast<size_t>(point) * in * out,
                        products + point * pitch, out, in, out, count, ahead);
    };
    Ahead ahead = ahead_of(layer, call, tiling, first + call.threads * block, block);
    ahead.spread(kPoints * tiles_of(count, out));
    ahead.empty() ? multiply_points(NothingAhead{}) : multiply_points(ahead);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = tiling.first_output(first + i);
      const int64_t left = (call.steps_out - row + layer.dilation - 1) / layer.dilation;
      finish_tile<Transform>(products + i * out, pitch, layer.bias, out, row, layer.dilation,
                             std::clamp<int64_t>(left, 0, outputs), finish);
    }
  });
  return out_of_memory ? MENURA_OUT_OF_MEMORY : MENURA_OK;
}

// Rows [first, first + count) through the leaky ReLU; zeros outside the signal.
MENURA_INLINE void stage_rows(const menura_call& call, int channels, int64_t first, int64_t count, float* staged) {
  const Vec slope = broadcast(call.slope);
  for (int64_t i = 0; i < count; ++i, staged += channels) {
    const int64_t row = first + i;
    if (row < 0 || row >= call.steps_in) {
      std::fill_n(staged, channels, 0.0f);
      continue;
    }
    const float* x = call.input + row * channels;
    for (int c = 0; c < channels; c += kLanes) store(staged + c, leaky_relu(load(x + c), slope));
  }
}

// A convolution as one matrix product for each tap: for few taps, and for those that no transform takes.
template <class Finishing>
int32_t convolve_direct(const menura_layer& layer, const menura_call& call, const Finishing& finish) {
  const int in = layer.channels_in, out = layer.channels_out;
  const int64_t reach = static_cast<int64_t>(layer.taps - 1) * layer.dilation, steps = call.steps_out;
  const int64_t row_bytes = static_cast<int64_t>(in + out) * sizeof(float);
  const int64_t block = block_size(steps, std::min<int64_t>(kBlockBytes / row_bytes, 96), call.threads);
  std::atomic<bool> out_of_memory{false};
  for_each_block((steps + block - 1) / block, call.threads, [&](int64_t index) {
    const FlushDenormals flush;
    float* staged = Scratch::of_this_thread().floats((block + reach) * in + block * out);
    if (staged == nullptr) {
      out_of_memory = true;
      return;
    }
    float* products = staged + (block + reach) * in;
    const int64_t first = index * block, count = std::min(block, steps - first);
    stage_rows(call, in, first - reach / 2 + call.offset, block + reach, staged);
    for (int tap = 0; tap < layer.taps; ++tap) {
      const float* rows = staged + static_cast<int64_t>(tap) * layer.dilation * in;
      const float* weights = layer.weights + static_cast<size_t>(tap) * in * out;
      if (tap == 0)
        multiply<false>(rows, in, weights, products, out, in, out, count);
      else
        multiply<true>(rows, in, weights, products, out, in, out, count);
    }
    for (int64_t i = 0; i < count; ++i)
      for (int c = 0; c < out; c += kLanes)
        finish((first + i) * out + c, load(products + i * out + c) + load(layer.bias + c));
  });
  return out_of_memory ? MENURA_OUT_OF_MEMORY : MENURA_OK;
}

inline int32_t convolve(const menura_layer& layer, const menura_call& call) {
  return with_finish(call, [&](const auto& finish) -> int32_t {
    switch (layer.algorithm) {
      case MENURA_DIRECT: return convolve_direct(layer, call, finish);
      case MENURA_TOOM_COOK_6_3: return convolve_filtered<ToomCook<ToomCook_6_3>>(layer, call, finish);
      case MENURA_TOOM_COOK_4_5: return convolve_filtered<ToomCook<ToomCook_4_5>>(layer, call, finish);
      case MENURA_FOURIER_32: return convolve_filtered<Fourier<32>>(layer, call, finish);
      case MENURA_FOURIER_64: return convolve_filtered<Fourier<64>>(layer, call, finish);
      default: return MENURA_BAD_ARGUMENT;
    }
  });
}

// A transposed convolution. Output n takes inputs (n + padding - k) / rate for every tap k that makes it whole: so
// outputs of equal remainder by the rate are a plain convolution with every rate-th tap.
inline int32_t upsample(const menura_layer& layer, const menura_call& call) {
  const int in = layer.channels_in, out = layer.channels_out, rate = layer.rate;
  const int most_taps = (layer.taps + rate - 1) / rate;
  // To the last output, also if no input reaches it: it is the bias.
  const int64_t bases = std::max(call.steps_in + most_taps - 1, (call.steps_out + layer.padding + rate - 1) / rate);
  const int64_t row_bytes = static_cast<int64_t>(in + out) * sizeof(float);
  const int64_t block = block_size(bases, std::min<int64_t>(kBlockBytes / row_bytes, 96), call.threads);
  std::atomic<bool> out_of_memory{false};
  for_each_block((bases + block - 1) / block, call.threads, [&](int64_t index) {
    const FlushDenormals flush;
    const int64_t staged_rows = block + most_taps - 1;
    float* staged = Scratch::of_this_thread().floats(staged_rows * in + block * out);
    if (staged == nullptr) {
      out_of_memory = true;
      return;
    }
    float* products = staged + staged_rows * in;
    const int64_t first = index * block, count = std::min(block, bases - first);
    stage_rows(call, in, first - (most_taps - 1), staged_rows, staged);
    const float* weights = layer.weights;
    for (int remainder = 0; remainder < rate; ++remainder) {
      const int taps = remainder < layer.taps ? (layer.taps - remainder + rate - 1) / rate : 0;
      for (int tap = 0; tap < taps; ++tap, weights += static_cast<size_t>(in) * out) {
        const float* rows = staged + static_cast<int64_t>(most_taps - 1 - tap) * in;
        if (tap == 0)
          multiply<false>(rows, in, weights, products, out, in, out, count);
        else
          multiply<true>(rows, in, weights, products, out, in, out, count);
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = (first + i) * rate + remainder - layer.padding;
        if (row < 0 || row >= call.steps_out) continue;
        for (int c = 0; c < out; c += kLanes) {
          const Vec sums = taps > 0 ? load(products + i * out + c) : broadcast(0.0f);
          store(call.output + row * out + c, sums + load(layer.bias + c));
        }
      }
    }
  });
  return out_of_memory ? MENURA_OUT_OF_MEMORY : MENURA_OK;
}

}  // namespace MENURA_PATH
}  // namespace menura
