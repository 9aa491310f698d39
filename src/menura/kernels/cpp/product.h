// Matrix products of signals with weights that lie as torch keeps them, [channels_out][channels_in]: these are packed a
// panel at a time as they are used, so that no copy of them stays in memory.
#pragma once
#include <algorithm>

#include "matmul.h"
#include "menura_kernels.h"
#include "threads.h"

namespace menura {
namespace MENURA_PATH {

// Of a block: rows of the signal, and columns of the result. So many rows by kDepth, and the block's sums, lie in the
// second-level cache together; a panel of kDepth weights lies in the first.
constexpr int64_t kProductRows = 288, kProductColumns = 192;
constexpr int kDepth = 256;
constexpr size_t kDepthPitch = kDepth + 16;  // rows a round number apart would compete for the same lines of the cache
static_assert(kProductRows % kTileRows == 0 && kProductColumns % kPanelChannels == 0);

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

MENURA_INLINE Four shuffled_low(Four a, Four b) { return Four{a[0], b[0], a[1], b[1]}; }
MENURA_INLINE Four shuffled_high(Four a, Four b) { return Four{a[2], b[2], a[3], b[3]}; }

// Four by four of `rows`, which lie `pitch` apart, become columns, which lie kWidth apart.
template <int kWidth>
MENURA_INLINE void transpose_four(const float* rows, size_t pitch, float* made) {
  Four x[4];
  for (int i = 0; i < 4; ++i) x[i] = *reinterpret_cast<const Four*>(rows + i * pitch);
  const Four low = shuffled_low(x[0], x[2]), high = shuffled_high(x[0], x[2]);
  const Four other_low = shuffled_low(x[1], x[3]), other_high = shuffled_high(x[1], x[3]);
  *reinterpret_cast<Four*>(made) = shuffled_low(low, other_low);
  *reinterpret_cast<Four*>(made + kWidth) = shuffled_high(low, other_low);
  *reinterpret_cast<Four*>(made + 2 * kWidth) = shuffled_low(high, other_high);
  *reinterpret_cast<Four*>(made + 3 * kWidth) = shuffled_high(high, other_high);
}

// Some rows by the weights of kVecs * kLanes columns, `depth` of each from their first on. `next` is what will be packed
// after these: it's fetched meanwhile.
template <int kVecs>
MENURA_INLINE void multiply_columns(const float* rows, int64_t count, const float* weights, const float* next, size_t pitch,
                                    int depth, float* packed, float* sums, size_t sums_pitch) {
  constexpr int kWidth = kVecs * kLanes;
  for (int j = 0; j < kWidth; j += 4)
    for (int k = 0; k < depth; k += 4) transpose_four<kWidth>(weights + j * pitch + k, pitch, packed + k * kWidth + j);
  const int64_t lines = static_cast<int64_t>(depth) / 16 * kWidth;
  int64_t line = 0;
  for (int64_t row = 0; row < count; row += kTileRows) {
    for (const int64_t stop = lines * (row + kTileRows) / count; line < stop; ++line)
      __builtin_prefetch(next + line / (depth / 16) * pitch + line % (depth / 16) * 16);
    multiply_tile<kVecs, true, true>(rows + row * kDepthPitch, kDepthPitch, packed, sums + row * sums_pitch, sums_pitch, depth);
  }
}

// Steps [first, first + count) of columns [column, column + columns).
inline void product_block(const menura_layer& layer, const menura_call& call, int64_t first, int64_t count, int column,
                          int columns, float* memory) {
  const int in = layer.channels_in, out = layer.channels_out;
  const int64_t whole = round_up(count, kTileRows);
  const size_t sums_pitch = columns + 16;
  float *rows = memory, *packed = rows + whole * kDepthPitch, *sums = packed + kDepth * kPanelChannels;
  for (int64_t i = 0; i < whole; ++i) std::copy_n(layer.bias + column, columns, sums + i * sums_pitch);
  for (int from = 0; from < in; from += kDepth) {
    const int depth = std::min(kDepth, in - from);
    for (int64_t i = 0; i < whole; ++i)  // what fills a tile is thrown away
      std::copy_n(call.input + (first + std::min(i, count - 1)) * in + from, depth, rows + i * kDepthPitch);
    const float* weights = layer.weights + static_cast<size_t>(column) * in + from;
    int c = 0;
    for (; c + kPanelChannels <= columns; c += kPanelChannels) {
      const float* here = weights + static_cast<size_t>(c) * in;
      const bool last = c + 2 * kPanelChannels > columns;
      const float* next = !last ? here + static_cast<size_t>(kPanelChannels) * in : from + depth < in ? weights + depth : here;
      multiply_columns<kPanelVecs>(rows, whole, here, next, in, depth, packed, sums + c, sums_pitch);
    }
    for (; c < columns; c += kLanes) {
      const float* here = weights + static_cast<size_t>(c) * in;
      multiply_columns<1>(rows, whole, here, here, in, depth, packed, sums + c, sums_pitch);
    }
  }
  for (int64_t i = 0; i < count; ++i)
    std::copy_n(sums + i * sums_pitch, columns, call.output + (first + i) * out + column);
}

inline int32_t product(const menura_layer& layer, const menura_call& call) {
  const int64_t steps = call.steps_in, row_blocks = (steps + kProductRows - 1) / kProductRows;
  const int64_t rows = round_up((steps + row_blocks - 1) / row_blocks, kTileRows), panels = layer.channels_out / kLanes;
  constexpr int64_t kMost = kProductColumns / kLanes;
  const int64_t column_blocks = round_up((panels + kMost - 1) / kMost, call.threads);
  const int64_t columns = round_up((panels + column_blocks - 1) / column_blocks * kLanes, kPanelChannels);
  const int64_t across = (layer.channels_out + columns - 1) / columns;
  std::atomic<bool> out_of_memory{false};
  for_each_block((steps + rows - 1) / rows * across, call.threads, [&](int64_t block) {
    const FlushDenormals flush;
    const int64_t first = block / across * rows, column = block % across * columns;
    float* memory = Scratch::of_this_thread().floats(rows * (kDepthPitch + columns + 16) + kDepth * kPanelChannels);
    if (memory == nullptr) {
      out_of_memory = true;
      return;
    }
    product_block(layer, call, first, std::min(rows, steps - first), static_cast<int>(column),
                  static_cast<int>(std::min(columns, layer.channels_out - column)), memory);
  });
  return out_of_memory ? MENURA_OUT_OF_MEMORY : MENURA_OK;
}

}  // namespace MENURA_PATH
}  // namespace menura
