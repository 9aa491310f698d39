// The convolutions between samples and frames of a speech encoder (HuBERT, after wav2vec 2.0): one of some taps from a
// single channel, then some of two or three taps that halve the rate; each followed by GELU.
#pragma once
#include <algorithm>

#include "exponential.h"
#include "linear.h"
#include "matmul.h"
#include "menura_kernels.h"
#include "threads.h"
#include "toom_cook_matrices.h"

namespace menura {
namespace MENURA_PATH {

constexpr int64_t kFrontBlockBytes = 1 << 20;

// x times the normal distribution's share below x (Hendrycks and Gimpel, 2016), by Abramowitz and Stegun's 7.1.26, which
// is right to 1.5e-7.
MENURA_INLINE Vec gelu(Vec x) {
  const Vec zero = broadcast(0.0f), one = broadcast(1.0f), size = maximum(x, zero - x);
  const Vec root = size * broadcast(0.70710678f);
  const Vec t = one / multiply_add(root, broadcast(0.3275911f), one);
  Vec series = broadcast(1.061405429f);
  for (const float term : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f})
    series = multiply_add(series, t, broadcast(term));
  const Vec beyond = series * t * exponential(zero - root * root);  // 1 - erf(root)
  return maximum(zero, x) - size * beyond * broadcast(0.5f);
}

// Three taps at every other step: the outer ones are a filter of two taps over the even steps, F(5,2), and the middle one
// is a product of its own with the odd steps. 11 products for 5 outputs instead of 15.
struct Halving {
  using Matrices = ToomCook_5_2;
  static constexpr int kOutputs = Matrices::kOutputs, kEven = Matrices::kInputs;
  static constexpr int kTile = 2 * kOutputs + 1, kPoints = kEven + kOutputs;

  // Which of the packed weights a point is multiplied with: the odd steps share one.
  static constexpr int weights_of(int point) { return std::min(point, kEven); }

  template <class Row>
  static MENURA_INLINE void forward(const Row& row, float* points, size_t pitch) {
    Vec even[kEven], made[kEven];
    unrolled<kEven>([&](auto i) __attribute__((always_inline)) { even[i] = row(2 * i); });
    Linear<Matrices::kInput>::apply(even, made);
    unrolled<kEven>([&](auto i) __attribute__((always_inline)) { store(points + i * pitch, made[i]); });
    unrolled<kOutputs>(
        [&](auto i) __attribute__((always_inline)) { store(points + (kEven + i) * pitch, row(2 * i + 1)); });
  }

  static MENURA_INLINE void inverse(const float* points, size_t pitch, Vec* sums) {
    Vec values[kEven];
    unrolled<kEven>([&](auto i) __attribute__((always_inline)) { values[i] = load(points + i * pitch); });
    Linear<Matrices::kOutput>::apply(values, sums);
    unrolled<kOutputs>(
        [&](auto i) __attribute__((always_inline)) { sums[i] = sums[i] + load(points + (kEven + i) * pitch); });
  }
};

// Tiles of a block, transformed, multiplied and finished.
inline void halve_block(const menura_layer& layer, const menura_call& call, int64_t first, int64_t count, float* zeros,
                        size_t pitch) {
  const int in = layer.channels_in, out = layer.channels_out;
  // Products take the place of the transformed samples that were used before: one slot behind them.
  float *products = zeros + in, *transformed = products + pitch;
  for (int64_t i = 0; i < count; ++i) {
    const float* rows[Halving::kTile];
    for (int n = 0; n < Halving::kTile; ++n) {
      const int64_t row = 2 * Halving::kOutputs * (first + i) + n;
      rows[n] = row < call.steps_in ? call.input + row * in : zeros;
    }
    for (int c = 0; c < in; c += kLanes)
      Halving::forward([&](int n) __attribute__((always_inline)) { return load(rows[n] + c); },
                       transformed + i * in + c, pitch);
  }
  for (int point = 0; point < Halving::kPoints; ++point)
    multiply<false>(transformed + point * pitch, in,
                    layer.weights + static_cast<size_t>(Halving::weights_of(point)) * in * out, products + point * pitch,
                    out, in, out, count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = Halving::kOutputs * (first + i);
    const int64_t outputs = std::min<int64_t>(call.steps_out - row, Halving::kOutputs);
    for (int c = 0; c < out; c += kLanes) {
      Vec sums[Halving::kOutputs];
      Halving::inverse(products + i * out + c, pitch, sums);
      const Vec bias = load(layer.bias + c);
      for (int64_t n = 0; n < outputs; ++n) store(call.output + (row + n) * out + c, gelu(sums[n] + bias));
    }
  }
}

inline int32_t halve_by_three(const menura_layer& layer, const menura_call& call) {
  const int widest = std::max(layer.channels_in, layer.channels_out);
  const int64_t tiles = (call.steps_out + Halving::kOutputs - 1) / Halving::kOutputs;
  const int64_t tile_bytes = static_cast<int64_t>(Halving::kPoints + 1) * widest * sizeof(float);
  const int64_t block = block_size(tiles, kFrontBlockBytes / tile_bytes, call.threads);
  const size_t pitch = block * widest + 16;
  std::atomic<bool> out_of_memory{false};
  for_each_block((tiles + block - 1) / block, call.threads, [&](int64_t index) {
    const FlushDenormals flush;
    float* zeros = Scratch::of_this_thread().floats((Halving::kPoints + 1) * pitch + layer.channels_in);
    if (zeros == nullptr) {
      out_of_memory = true;
      return;
    }
    std::fill_n(zeros, layer.channels_in, 0.0f);
    halve_block(layer, call, index * block, std::min(block, tiles - index * block), zeros, pitch);
  });
  return out_of_memory ? MENURA_OUT_OF_MEMORY : MENURA_OK;
}

// Two taps: two neighbours are one row of twice the channels.
inline int32_t halve_by_two(const menura_layer& layer, const menura_call& call) {
  const int in = 2 * layer.channels_in, out = layer.channels_out;
  const int64_t row_bytes = static_cast<int64_t>(in + out) * sizeof(float);
  const int64_t block = block_size(call.steps_out, std::min<int64_t>(kFrontBlockBytes / row_bytes, 96), call.threads);
  std::atomic<bool> out_of_memory{false};
  for_each_block((call.steps_out + block - 1) / block, call.threads, [&](int64_t index) {
    const FlushDenormals flush;
    float* rows = Scratch::of_this_thread().floats(block * (in + out));
    if (rows == nullptr) {
      out_of_memory = true;
      return;
    }
    float* products = rows + block * in;
    const int64_t first = index * block, count = std::min(block, call.steps_out - first);
    std::copy_n(call.input + first * in, count * in, rows);
    multiply<false>(rows, in, layer.weights, products, out, in, out, count);
    for (int64_t i = 0; i < count; ++i)
      for (int c = 0; c < out; c += kLanes)
        store(call.output + (first + i) * out + c, gelu(load(products + i * out + c) + load(layer.bias + c)));
  });
  return out_of_memory ? MENURA_OUT_OF_MEMORY : MENURA_OK;
}

inline int32_t halve(const menura_layer& layer, const menura_call& call) {
  return layer.taps == 3 ? halve_by_three(layer, call) : halve_by_two(layer, call);
}

// From one channel to some, every `rate` samples.
inline int32_t first(const menura_layer& layer, const menura_call& call) {
  constexpr int kVecs = MENURA_CHANNEL_MULTIPLE / kLanes;
  const int out = layer.channels_out;
  for_each_block((call.steps_out + kEndBlock - 1) / kEndBlock, call.threads, [&](int64_t index) {
    const FlushDenormals flush;
    const int64_t stop = std::min((index + 1) * kEndBlock, call.steps_out);
    for (int64_t step = index * kEndBlock; step < stop; ++step) {
      const float* samples = call.input + step * layer.rate;
      for (int c = 0; c < out; c += kVecs * kLanes) {
        Vec totals[kVecs];
        unrolled<kVecs>([&](auto v) __attribute__((always_inline)) { totals[v] = load(layer.bias + c + v * kLanes); });
        for (int tap = 0; tap < layer.taps; ++tap) {
          const Vec sample = broadcast(samples[tap]);
          const float* weights = layer.weights + static_cast<size_t>(tap) * out + c;
          unrolled<kVecs>([&](auto v) __attribute__((always_inline)) {
            totals[v] = multiply_add(sample, load(weights + v * kLanes), totals[v]);
          });
        }
        unrolled<kVecs>([&](auto v) __attribute__((always_inline)) {
          store(call.output + step * out + c + v * kLanes, gelu(totals[v]));
        });
      }
    }
  });
  return MENURA_OK;
}

}  // namespace MENURA_PATH
}  // namespace menura
