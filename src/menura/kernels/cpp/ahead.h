// Memory that is fetched before it's used.
#pragma once
#include <algorithm>

#include "simd.h"

namespace menura {
namespace MENURA_PATH {

struct NothingAhead {
  MENURA_INLINE void operator()() {}
};

// What the next block will read and write: fetched between the tiles of this one's products, a few lines at a time. Data
// come from memory more slowly than they are transformed, and while products are made memory is idle.
class Ahead {
 public:
  // Adds rows [from, to) of a signal, unless it's null, or so small that it is in a cache anyway.
  void add(const float* signal, int64_t steps, int channels, int64_t from, int64_t to) {
    if (!kFetchesAhead || signal == nullptr || steps * channels <= kSmall) return;
    at_[count_] = signal + std::clamp<int64_t>(from, 0, steps) * channels;
    end_[count_] = signal + std::clamp<int64_t>(to, 0, steps) * channels;
    if (at_[count_] < end_[count_]) floats_ += end_[count_] - at_[count_], ++count_;
  }

  bool empty() const { return count_ == 0; }

  // Fetches all of it in so many calls.
  void spread(int64_t calls) { floats_ = (floats_ / calls / kLine + 1) * kLine; }

  MENURA_INLINE void operator()() {
    if (now_ == count_) return;
    const float* stop = std::min(at_[now_] + floats_, end_[now_]);
    for (const float* line = at_[now_]; line < stop; line += kLine) __builtin_prefetch(line);
    at_[now_] = stop;
    now_ += stop == end_[now_];
  }

 private:
  static constexpr int64_t kSmall = 1 << 18, kLine = 16;  // floats
  const float *at_[3], *end_[3];
  int64_t floats_ = 0;
  int count_ = 0, now_ = 0;
};

}  // namespace MENURA_PATH
}  // namespace menura
