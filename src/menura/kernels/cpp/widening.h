// ConvNeXt's blocks (Liu et al., 2022; in one dimension): a filter of each channel over time, a layer norm, and a wide
// layer for every step, whose GELU is made while what it is of is in the cache.
#pragma once
#include <algorithm>
#include <cmath>

#include "front.h"
#include "matmul.h"
#include "menura_kernels.h"
#include "threads.h"

namespace menura {
namespace MENURA_PATH {

constexpr int64_t kWideningRows = 96;  // of a block, about: with as many columns, and their weights, in a second-level cache
constexpr int kWideningColumns = 256;
static_assert(kWideningRows % kTileRows == 0 && kWideningColumns % kPanelChannels == 0);

// A step's channels, each filtered over time, then with mean 0 and variance 1.
inline void filter_step(const menura_widening_layer& layer, const menura_call& call, int64_t step, float* made) {
  const int channels = layer.channels, reach = layer.taps / 2;
  const int64_t first = std::max<int64_t>(step - reach, 0), end = std::min(step + reach + 1, call.steps_in);
  Vec total = broadcast(0.0f), squares = broadcast(0.0f);
  for (int c = 0; c < channels; c += kLanes) {
    Vec sum = load(layer.filter_bias + c);
    for (int64_t row = first; row < end; ++row)
      sum = multiply_add(load(layer.filters + (row - step + reach) * channels + c), load(call.input + row * channels + c),
                         sum);
    store(made + c, sum);
    total = total + sum;
  }
  const Vec mean = broadcast(menura::MENURA_PATH::sum(total) / static_cast<float>(channels));
  for (int c = 0; c < channels; c += kLanes) {
    const Vec rest = load(made + c) - mean;
    store(made + c, rest);
    squares = multiply_add(rest, rest, squares);
  }
  const float variance = menura::MENURA_PATH::sum(squares) / static_cast<float>(channels);
  const Vec scale = broadcast(1.0f / std::sqrt(variance + layer.epsilon));
  for (int c = 0; c < channels; c += kLanes) store(made + c, load(made + c) * scale);
}

// c[rows][columns] += a[rows][depth] * rows [first, first + depth) of b, whose panels have `whole` rows.
inline void multiply_some(const float* a, size_t a_pitch, const float* b, float* c, size_t c_pitch, int first, int depth,
                          int whole, int columns, int64_t rows) {
  int column = 0;
  for (; column + kPanelChannels <= columns; column += kPanelChannels)
    multiply_panel<kPanelVecs, true>(a, a_pitch, b + static_cast<size_t>(column) * whole + first * kPanelChannels, c + column,
                                     c_pitch, depth, rows);
  for (; column < columns; column += kLanes)
    multiply_panel<1, true>(a, a_pitch, b + static_cast<size_t>(column) * whole + first * kLanes, c + column, c_pitch, depth,
                            rows);
}

// Steps [first, first + count).
inline void widen_block(const menura_widening_layer& layer, const menura_call& call, int64_t first, int64_t count,
                        float* memory) {
  const int channels = layer.channels;
  const int64_t rows = round_up(count, kTileRows);
  float *filtered = memory, *sums = filtered + rows * channels, *wide = sums + rows * channels;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t step = std::min(first + i, first + count - 1);  // what fills a tile is thrown away
    filter_step(layer, call, step, filtered + i * channels);
    for (int c = 0; c < channels; c += kLanes)
      store(sums + i * channels + c, load(layer.bias + c) + load(call.input + step * channels + c));
  }
  for (int column = 0; column < layer.wide; column += kWideningColumns) {
    const int columns = std::min(kWideningColumns, layer.wide - column);
    multiply<false>(filtered, channels, layer.widening + static_cast<size_t>(column) * channels, wide, kWideningColumns,
                    channels, columns, rows);
    for (int64_t i = 0; i < rows; ++i)
      for (int c = 0; c < columns; c += kLanes) {
        float* value = wide + i * kWideningColumns + c;
        store(value, gelu(load(value) + load(layer.wide_bias + column + c)));
      }
    multiply_some(wide, kWideningColumns, layer.narrowing, sums, channels, column, columns, layer.wide, channels, rows);
  }
  std::copy_n(sums, count * channels, call.output + first * channels);
}

inline int32_t widen(const menura_widening_layer& layer, const menura_call& call) {
  const int64_t tiles = (call.steps_in + kTileRows - 1) / kTileRows, threads = std::max<int64_t>(call.threads, 1);
  const int64_t blocks = round_up((tiles * kTileRows + kWideningRows - 1) / kWideningRows, threads);
  const int64_t rows = (tiles + blocks - 1) / blocks * kTileRows;
  std::atomic<bool> out_of_memory{false};
  for_each_block((call.steps_in + rows - 1) / rows, call.threads, [&](int64_t block) {
    const FlushDenormals flush;
    float* memory = Scratch::of_this_thread().floats(rows * (2 * layer.channels + kWideningColumns));
    if (memory == nullptr) {
      out_of_memory = true;
      return;
    }
    widen_block(layer, call, block * rows, std::min(rows, call.steps_in - block * rows), memory);
  });
  return out_of_memory ? MENURA_OUT_OF_MEMORY : MENURA_OK;
}

}  // namespace MENURA_PATH
}  // namespace menura
