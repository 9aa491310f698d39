// Convolutions of few channels over two axes, "same" size: the places along a row are a vector's lanes, so that no lane is
// lost to channels that aren't there, and a layer's output channels are the rows of a tile of sums.
#pragma once
#include <algorithm>
#include <array>

#include "menura_kernels.h"
#include "simd.h"
#include "threads.h"

namespace menura {
namespace MENURA_PATH {

constexpr int kPlaneGroup = MENURA_PLANE_GROUP;
constexpr int kPlaneStrip = 64;  // places of a row that are computed for all rows before the next ones: they stay cached
constexpr int kPlaneParts = 4;   // of a strip's rows, for threads
static_assert(kPlaneGroup % kTileRows == 0 && kPlaneStrip % kPanelChannels == 0);

// kTileRows outputs from `first` on of a row, at kPanelChannels places from x on.
inline void plane_tile(const menura_plane_layer& layer, const menura_plane_call& call, int first, int64_t row, int64_t x) {
  const int in = layer.channels_in, wide = layer.wide;
  Vec sums[kTileRows][kPanelVecs];
  unrolled<kTileRows>([&](auto r) __attribute__((always_inline)) {
    const Vec bias = broadcast(layer.bias[first + r]);
    unrolled<kPanelVecs>([&](auto v) __attribute__((always_inline)) { sums[r][v] = bias; });
  });
  const float* group = layer.weights + static_cast<size_t>(first / kPlaneGroup) * layer.high * in * wide * kPlaneGroup;
  for (int i = 0; i < layer.high; ++i) {
    const int64_t from = row + static_cast<int64_t>(i - layer.high / 2) * layer.dilation;
    if (from < 0 || from >= call.height) continue;
    const float* line = call.input + from * in * call.pitch + x - wide / 2;
    const float* weights = group + static_cast<size_t>(i) * in * wide * kPlaneGroup + first % kPlaneGroup;
    for (int c = 0; c < in; ++c, line += call.pitch)
      for (int j = 0; j < wide; ++j, weights += kPlaneGroup) {
        Vec places[kPanelVecs];
        unrolled<kPanelVecs>([&](auto v) __attribute__((always_inline)) { places[v] = load(line + j + v * kLanes); });
        unrolled<kTileRows>([&](auto r) __attribute__((always_inline)) {
          const Vec weight = broadcast(weights[r]);
          unrolled<kPanelVecs>(
              [&](auto v) __attribute__((always_inline)) { sums[r][v] = multiply_add(weight, places[v], sums[r][v]); });
        });
      }
  }
  alignas(64) static constexpr auto kKept = [] {
    std::array<float, 2 * kPanelChannels> ones{};
    std::fill_n(ones.begin(), kPanelChannels, 1.0f);
    return ones;
  }();
  const float* kept = kKept.data() + kPanelChannels - std::clamp<int64_t>(call.width - x, 0, kPanelChannels);
  const int64_t place = (row * layer.channels_out + first) * call.pitch + x;
  const Vec slope = broadcast(layer.slope);
  const int rows = std::min(kTileRows, layer.channels_out - first);
  unrolled<kTileRows>([&](auto r) __attribute__((always_inline)) {
    if (r >= rows) return;
    unrolled<kPanelVecs>([&](auto v) __attribute__((always_inline)) {
      const int64_t at = place + r * call.pitch + v * kLanes;
      Vec value = sums[r][v];
      if (call.residual != nullptr) value = value + load(call.residual + at);
      store(call.output + at, leaky_relu(value, slope) * load(kept + v * kLanes));
    });
  });
}

inline int32_t convolve_plane(const menura_plane_layer& layer, const menura_plane_call& call) {
  const int64_t strips = (call.pitch + kPlaneStrip - 1) / kPlaneStrip;
  for_each_block(strips * kPlaneParts, call.threads, [&](int64_t block) {
    const FlushDenormals flush;
    const int64_t part = block % kPlaneParts, left = block / kPlaneParts * kPlaneStrip;
    const int64_t right = std::min(left + kPlaneStrip, call.pitch);
    // Rows a dilation apart follow each other: they have most of what they are made of in common.
    int64_t number = 0;
    for (int64_t start = 0; start < layer.dilation; ++start)
      for (int64_t row = start; row < call.height; row += layer.dilation, ++number) {
        if (number * kPlaneParts / call.height != part) continue;
        for (int64_t x = left; x < right; x += kPanelChannels)
          for (int first = 0; first < layer.channels_out; first += kTileRows) plane_tile(layer, call, first, row, x);
      }
  });
  return MENURA_OK;
}

}  // namespace MENURA_PATH
}  // namespace menura
