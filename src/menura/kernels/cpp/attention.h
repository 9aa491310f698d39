// Self-attention with learned vectors for near distances (Shaw et al., 2018), and WaveNet's gate.
//
// A block of queries sees all keys in its reach at once: its scores stay in the cache from the first product to the last.
#pragma once
#include <algorithm>

#include "exponential.h"
#include "matmul.h"
#include "menura_kernels.h"
#include "threads.h"

namespace menura {
namespace MENURA_PATH {

constexpr int64_t kQueries = 48;   // of a block: whole tiles of the matrix product on every path
constexpr int64_t kKeyChunk = 256;  // keys whose values stay in the first-level cache while queries pass
constexpr int64_t kPackedRows = 16 * kPanelChannels;

// Keys and values of all heads, packed as the matrix products want them.
struct PackedHeads {
  float* keys;    // [heads][panels of keys][head_channels][kPanelChannels], zeros after the last key
  float* values;  // [heads][panels of channels][steps][kPanelChannels]; narrower ones for what is left
  int64_t steps, key_rows;
  int head_channels;

  PackedHeads(const menura_attention& call)
      : keys(call.workspace),
        steps(call.steps),
        key_rows(round_up(call.steps, kPanelChannels)),
        head_channels(call.head_channels) {
    values = keys + static_cast<size_t>(call.heads) * key_rows * head_channels;
  }
  float* keys_of(int head) const { return keys + static_cast<size_t>(head) * key_rows * head_channels; }
  float* values_of(int head) const { return values + static_cast<size_t>(head) * steps * head_channels; }
};

// Calls f(first channel, width, vectors) for panels of values.
template <class F>
MENURA_INLINE void for_each_panel(int channels, const F& f) {
  int first = 0;
  for (; first + kPanelChannels <= channels; first += kPanelChannels) f(first, std::integral_constant<int, kPanelVecs>{});
  for (; first < channels; first += kLanes) f(first, std::integral_constant<int, 1>{});
}

inline void pack_rows(const menura_attention& call, const PackedHeads& packed, int head, int64_t first) {
  const int channels = call.head_channels;
  const int64_t offset = static_cast<int64_t>(head) * channels, stop = std::min(first + kPackedRows, packed.key_rows);
  float* keys = packed.keys_of(head);
  for (int64_t panel = first; panel < stop; panel += kPanelChannels)
    for (int j = 0; j < kPanelChannels; ++j) {
      const float* key = call.key + (panel + j) * call.pitch + offset;
      float* place = keys + panel * channels + j;
      for (int c = 0; c < channels; ++c) place[static_cast<int64_t>(c) * kPanelChannels] = panel + j < call.steps ? key[c] : 0.0f;
    }
  float* values = packed.values_of(head);
  for_each_panel(channels, [&](int channel, auto vecs) __attribute__((always_inline)) {
    constexpr int kWidth = vecs * kLanes;
    for (int64_t row = first; row < std::min(stop, call.steps); ++row)
      for (int c = 0; c < kWidth; c += kLanes)
        store(values + channel * call.steps + row * kWidth + c,
              load(call.value + row * call.pitch + offset + channel + c));
  });
}

// Scores [from, to) of a row become e to their distance below the largest, all others of its `width` zero. Returns the sum.
MENURA_INLINE float exponentials(float* row, int64_t from, int64_t to, int64_t width) {
  const int64_t begin = from / kLanes * kLanes, end = round_up(to, kLanes);
  std::fill(row + begin, row + from, -1e30f);
  std::fill(row + to, row + end, -1e30f);
  Vec most = load(row + begin);
  for (int64_t i = begin; i < end; i += kLanes) most = maximum(most, load(row + i));
  const Vec peak = broadcast(largest(most));
  Vec total = broadcast(0.0f);
  for (int64_t i = begin; i < end; i += kLanes) {
    const Vec value = exponential(load(row + i) - peak);
    store(row + i, value);
    total = total + value;
  }
  std::fill(row, row + from, 0.0f);
  std::fill(row + to, row + width, 0.0f);
  return sum(total);
}

// A block's working memory.
struct AttentionScratch {
  float *queries, *scores, *near, *sums;
  size_t pitch, near_channels;

  static size_t near_channels_of(const menura_attention& call) {
    return round_up(2 * call.window + 1, MENURA_CHANNEL_MULTIPLE);
  }

  // Null `queries` where there is no memory.
  AttentionScratch(const menura_attention& call, int64_t width)
      : pitch(width + 16), near_channels(near_channels_of(call)) {
    const size_t channels = call.head_channels;
    queries = Scratch::of_this_thread().floats(kQueries * (2 * channels + pitch + near_channels));
    sums = queries + kQueries * channels;
    near = sums + kQueries * channels;
    scores = near + kQueries * near_channels;
  }
};

// The keys that a query may see: [from, to).
struct Sight {
  int64_t from, to;
  Sight(const menura_attention& call, int64_t first_query, int64_t queries)
      : from(std::max<int64_t>(0, first_query - call.reach)),
        to(std::min(call.steps, first_query + queries + call.reach)) {}
};

// Rows [first, first + count) of one head. False where there is no memory.
inline bool attend_block(const menura_attention& call, const PackedHeads& packed, int head, int64_t first) {
  const FlushDenormals flush;
  const int channels = call.head_channels, window = call.window;
  const int64_t count = std::min(kQueries, call.steps - first), offset = static_cast<int64_t>(head) * channels;
  const Sight sight(call, first, count);
  const int64_t low = sight.from / kPanelChannels * kPanelChannels, width = round_up(sight.to, kPanelChannels) - low;
  const AttentionScratch scratch(call, width);
  if (scratch.queries == nullptr) return false;
  std::fill_n(scratch.queries, kQueries * channels, 0.0f);
  for (int64_t i = 0; i < count; ++i)
    for (int c = 0; c < channels; c += kLanes)
      store(scratch.queries + i * channels + c,
            load(call.query + (first + i) * call.pitch + offset + c) * broadcast(call.scale));
  const int near_channels = static_cast<int>(scratch.near_channels);
  multiply<false>(scratch.queries, channels, packed.keys_of(head) + low * channels, scratch.scores, scratch.pitch, channels,
                  static_cast<int>(width), count);
  multiply<false>(scratch.queries, channels, call.near_keys, scratch.near, near_channels, channels, near_channels, count);
  float totals[kQueries];
  for (int64_t i = 0; i < count; ++i) {
    const Sight own(call, first + i, 1);
    float* row = scratch.scores + i * scratch.pitch;
    float* near = scratch.near + i * near_channels;
    const int64_t nearest = first + i - window;  // the key of the first near distance
    const int64_t begin = std::max<int64_t>(0, -nearest), end = std::min<int64_t>(2 * window + 1, call.steps - nearest);
    for (int64_t d = begin; d < end; ++d) row[nearest + d - low] += near[d];
    totals[i] = exponentials(row, own.from - low, own.to - low, width);
    std::fill_n(near, near_channels, 0.0f);
    for (int64_t d = begin; d < end; ++d) near[d] = row[nearest + d - low];
  }
  multiply<false>(scratch.near, near_channels, call.near_values, scratch.sums, channels, near_channels, channels, count);
  for (int64_t key = low; key < sight.to; key += kKeyChunk) {
    const int depth = static_cast<int>(std::min(kKeyChunk, sight.to - key));
    for_each_panel(channels, [&](int channel, auto vecs) __attribute__((always_inline)) {
      const float* panel = packed.values_of(head) + channel * call.steps + key * (vecs * kLanes);
      multiply_panel<vecs, true>(scratch.scores + (key - low), scratch.pitch, panel, scratch.sums + channel, channels,
                                 depth, count);
    });
  }
  for (int64_t i = 0; i < count; ++i)
    for (int c = 0; c < channels; c += kLanes)
      store(call.output + (first + i) * call.output_pitch + offset + c,
            load(scratch.sums + i * channels + c) * broadcast(1.0f / totals[i]));
  return true;
}

inline int32_t attend(const menura_attention& call) {
  const PackedHeads packed(call);
  const int64_t parts = (packed.key_rows + kPackedRows - 1) / kPackedRows;
  for_each_block(parts * call.heads, call.threads, [&](int64_t index) {
    pack_rows(call, packed, static_cast<int>(index / parts), index % parts * kPackedRows);
  });
  const int64_t blocks = (call.steps + kQueries - 1) / kQueries;
  std::atomic<bool> out_of_memory{false};
  for_each_block(blocks * call.heads, call.threads, [&](int64_t index) {
    if (!attend_block(call, packed, static_cast<int>(index / blocks), index % blocks * kQueries)) out_of_memory = true;
  });
  return out_of_memory ? MENURA_OUT_OF_MEMORY : MENURA_OK;
}

// tanh of the first half of the channels times the sigmoid of the second.
inline int32_t gate(const menura_gating& call) {
  constexpr int64_t kRows = 64;
  const int channels = call.channels;
  for_each_block((call.steps + kRows - 1) / kRows, call.threads, [&](int64_t index) {
    const FlushDenormals flush;
    const int64_t stop = std::min((index + 1) * kRows, call.steps);
    for (int64_t step = index * kRows; step < stop; ++step) {
      const float* x = call.input + step * 2 * channels;
      for (int c = 0; c < channels; c += kLanes)
        store(call.output + step * channels + c, hyperbolic_tangent(load(x + c)) * logistic(load(x + channels + c)));
    }
  });
  return MENURA_OK;
}

}  // namespace MENURA_PATH
}  // namespace menura
