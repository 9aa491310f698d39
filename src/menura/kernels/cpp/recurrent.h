// A gated recurrent unit (Cho et al., 2014, arXiv:1406.1078; with torch's order of gates), both ways at once.
//
// A step is a product of a vector with a matrix that fits the second-level cache. Done by a general library, most of its
// time goes into being called; here a sequence is one call, and each direction of each sequence a thread's own.
#pragma once
#include <algorithm>

#include "exponential.h"
#include "menura_kernels.h"
#include "threads.h"

namespace menura {
namespace MENURA_PATH {

constexpr int kStateVecs = 6 * kPanelVecs;     // sums of a panel, in registers
constexpr int kRestVecs = 3 * kPanelVecs / 2;  // of a panel of those that are left over

// kVecs vectors of `bias` + state * weights, the weights [depth][kVecs * kLanes].
template <int kVecs>
MENURA_INLINE void advance_panel(const float* state, int depth, const float* weights, const float* bias, float* sums) {
  Vec totals[kVecs];
  unrolled<kVecs>([&](auto v) __attribute__((always_inline)) { totals[v] = load(bias + v * kLanes); });
  for (int k = 0; k < depth; ++k, weights += kVecs * kLanes) {
    const Vec value = broadcast(state[k]);
    unrolled<kVecs>([&](auto v) __attribute__((always_inline)) {
      totals[v] = multiply_add(value, load(weights + v * kLanes), totals[v]);
    });
  }
  unrolled<kVecs>([&](auto v) __attribute__((always_inline)) { store(sums + v * kLanes, totals[v]); });
}

// A direction of a sequence.
inline void run_sequence(const menura_recurrent_layer& layer, const menura_recurrent_call& call, int64_t sequence,
                         int direction, float* scratch) {
  const int hidden = layer.hidden, gates = 3 * hidden;
  const float* weights = layer.weights + static_cast<size_t>(direction) * hidden * gates;
  const float* bias = layer.bias + static_cast<size_t>(direction) * gates;
  float *state = scratch, *sums = scratch + hidden;
  std::fill_n(state, hidden, 0.0f);
  for (int64_t n = 0; n < call.steps; ++n) {
    const int64_t step = sequence * call.steps + (direction ? call.steps - 1 - n : n);
    const float* input = call.input + (step * layer.directions + direction) * gates;
    float* output = call.output + (step * layer.directions + direction) * hidden;
    int first = 0;
    for (; first + kStateVecs * kLanes <= gates; first += kStateVecs * kLanes)
      advance_panel<kStateVecs>(state, hidden, weights + static_cast<size_t>(first) * hidden, bias + first, sums + first);
    for (; first < gates; first += kRestVecs * kLanes)
      advance_panel<kRestVecs>(state, hidden, weights + static_cast<size_t>(first) * hidden, bias + first, sums + first);
    for (int c = 0; c < hidden; c += kLanes) {
      const Vec reset = logistic(load(input + c) + load(sums + c));
      const Vec update = logistic(load(input + hidden + c) + load(sums + hidden + c));
      const Vec fresh =
          hyperbolic_tangent(multiply_add(reset, load(sums + 2 * hidden + c), load(input + 2 * hidden + c)));
      const Vec next = multiply_add(update, load(state + c) - fresh, fresh);
      store(state + c, next);
      store(output + c, next);
    }
  }
}

inline int32_t run_recurrent(const menura_recurrent_layer& layer, const menura_recurrent_call& call) {
  std::atomic<bool> out_of_memory{false};
  for_each_block(call.sequences * layer.directions, call.threads, [&](int64_t index) {
    const FlushDenormals flush;
    float* scratch = Scratch::of_this_thread().floats(static_cast<size_t>(4) * layer.hidden);
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    run_sequence(layer, call, index / layer.directions, static_cast<int>(index % layer.directions), scratch);
  });
  return out_of_memory ? MENURA_OUT_OF_MEMORY : MENURA_OK;
}

}  // namespace MENURA_PATH
}  // namespace menura
