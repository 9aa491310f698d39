// The convolutions with a single channel on one side: the excitation's, and the last one.
#pragma once
#include <algorithm>
#include <cmath>

#include "menura_kernels.h"
#include "simd.h"
#include "threads.h"

namespace menura {
namespace MENURA_PATH {

constexpr int64_t kEndBlock = 1024;  // outputs

// Samples [from, to) of `taps` that begin at `first` lie within `length`.
struct Overlap {
  int from, to;
  Overlap(int64_t first, int taps, int64_t length)
      : from(static_cast<int>(std::clamp<int64_t>(-first, 0, taps))),
        to(static_cast<int>(std::clamp<int64_t>(length - first, 0, taps))) {}
};

inline int32_t add_source(const menura_layer& layer, const menura_call& call) {
  const int out = layer.channels_out;
  for_each_block((call.steps_out + kEndBlock - 1) / kEndBlock, call.threads, [&](int64_t index) {
    const FlushDenormals flush;
    const int64_t stop = std::min((index + 1) * kEndBlock, call.steps_out);
    for (int64_t step = index * kEndBlock; step < stop; ++step) {
      const int64_t first = step * layer.rate - layer.padding;
      const Overlap inside(first, layer.taps, call.steps_in);
      float* output = call.output + step * out;
      for (int c = 0; c < out; c += kLanes) {
        Vec total = load(output + c) + load(layer.bias + c);
        for (int tap = inside.from; tap < inside.to; ++tap)
          total = multiply_add(broadcast(call.input[first + tap]), load(layer.weights + static_cast<size_t>(tap) * out + c),
                               total);
        store(output + c, total);
      }
    }
  });
  return MENURA_OK;
}

inline int32_t last(const menura_layer& layer, const menura_call& call) {
  const int in = layer.channels_in;
  for_each_block((call.steps_out + kEndBlock - 1) / kEndBlock, call.threads, [&](int64_t index) {
    const FlushDenormals flush;
    const Vec slope = broadcast(call.slope);
    const int64_t stop = std::min((index + 1) * kEndBlock, call.steps_out);
    for (int64_t step = index * kEndBlock; step < stop; ++step) {
      const int64_t first = step - layer.taps / 2;
      const Overlap inside(first, layer.taps, call.steps_in);
      const float* rows = call.input + first * in;
      Vec totals[4] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
      int next = 0;
      for (int64_t i = static_cast<int64_t>(inside.from) * in; i < static_cast<int64_t>(inside.to) * in; i += kLanes) {
        totals[next] = multiply_add(leaky_relu(load(rows + i), slope), load(layer.weights + i), totals[next]);
        next = (next + 1) % 4;
      }
      call.output[step] = std::tanh(layer.bias[0] + sum((totals[0] + totals[1]) + (totals[2] + totals[3])));
    }
  });
  return MENURA_OK;
}

}  // namespace MENURA_PATH
}  // namespace menura
