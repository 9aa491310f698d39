// The residual blocks of a stage and their mean, chunk by chunk: every thread takes its chunk through all layers while
// it is in the cache, and computes what the layers see beyond the chunk again.
#pragma once
#include <algorithm>

#include "convolution.h"

namespace menura {
namespace MENURA_PATH {

// Bytes of a chunk's signal. Longer ones leave the cache, shorter ones compute more of their surroundings twice.
constexpr int64_t kChunkBytes = 1 << 19;

// Rows of a signal.
struct Rows {
  int64_t first, end;

  int64_t count() const { return end - first; }
  Rows widened(int64_t by, int64_t steps) const { return {std::max<int64_t>(first - by, 0), std::min(end + by, steps)}; }
};

// Some rows of a signal in memory.
struct Part {
  const float* data;
  Rows rows;

  const float* from(int64_t row, int channels) const { return data + (row - rows.first) * channels; }
};

inline int64_t seen(const menura_layer& layer) { return static_cast<int64_t>(layer.taps - 1) / 2 * layer.dilation; }

// One block of a chunk; `free` are three buffers as long as the chunk and what is seen around it.
class ChunkOfBlock {
 public:
  ChunkOfBlock(const menura_call& call, Rows chunk, int channels, float* const* free)
      : call_(call), chunk_(chunk), channels_(channels), free_(free) {}

  // Layers [layer, last] are the block.
  int32_t run(const menura_layer* layer, const menura_layer* last, const int32_t* ends, bool first_block) const {
    int64_t around = 0;
    for (const menura_layer* l = layer; l <= last; ++l) around += seen(*l);
    const Rows wide = chunk_.widened(around, call_.steps_in);
    Part x{call_.input + wide.first * channels_, wide}, carried = x;
    for (int step = 0; layer <= last; ++layer, ++ends) {
      around -= seen(*layer);
      const Rows rows = chunk_.widened(around, call_.steps_in);
      const bool ends_step = *ends != MENURA_WITHIN_STEP;
      float* output = layer == last ? call_.output + chunk_.first * channels_ : free_[ends_step ? step % 2 : 2];
      menura_call call = call_;
      call.input = x.data, call.steps_in = x.rows.count(), call.offset = rows.first - x.rows.first;
      call.output = output, call.steps_out = rows.count();
      call.residual = carried.from(rows.first, channels_);
      call.mode = layer == last ? (first_block ? MENURA_START_MEAN : MENURA_ADD_TO_MEAN)
                                : (ends_step ? MENURA_ADD_RESIDUAL : MENURA_STORE);
      call.threads = 1;
      if (const int32_t code = convolve(*layer, call); code != MENURA_OK) return code;
      x = {output, rows};
      if (ends_step) carried = x, ++step;
    }
    return MENURA_OK;
  }

 private:
  const menura_call& call_;
  Rows chunk_;
  int channels_;
  float* const* free_;
};

inline int32_t run_blocks(const menura_stage& stage, const menura_call& call) {
  const int channels = stage.layers[0].channels_in;
  int64_t around = 0, of_block = 0;
  for (int i = 0; i < stage.count; ++i) {
    of_block += seen(stage.layers[i]);
    if (stage.ends[i] != MENURA_ENDS_BLOCK) continue;
    around = std::max(around, of_block);
    of_block = 0;
  }
  const int64_t largest = std::max<int64_t>(kChunkBytes / (channels * sizeof(float)), 1);
  const int64_t chunks = round_up((call.steps_in + largest - 1) / largest, call.threads);
  const int64_t length = (call.steps_in + chunks - 1) / chunks;
  // As for points: buffers a round number apart would compete for the same lines of the cache.
  const size_t pitch = (length + 2 * around) * channels + 16 * 5;
  std::atomic<int32_t> failure{MENURA_OK};
  for_each_block((call.steps_in + length - 1) / length, call.threads, [&](int64_t index) {
    float* memory = Scratch::of_this_thread<1>().floats(3 * pitch);
    if (memory == nullptr) {
      failure = MENURA_OUT_OF_MEMORY;
      return;
    }
    float* const free[] = {memory, memory + pitch, memory + 2 * pitch};
    const Rows rows{index * length, std::min((index + 1) * length, call.steps_in)};
    const ChunkOfBlock chunk(call, rows, channels, free);
    for (int first = 0, last = 0; first < stage.count; first = ++last) {
      while (stage.ends[last] != MENURA_ENDS_BLOCK) ++last;
      const int32_t code = chunk.run(stage.layers + first, stage.layers + last, stage.ends + first, first == 0);
      if (code != MENURA_OK) failure = code;
    }
  });
  return failure;
}

}  // namespace MENURA_PATH
}  // namespace menura
