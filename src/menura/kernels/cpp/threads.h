// Blocks of work on the threads of torch's own OpenMP runtime, and memory that each of them keeps.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace menura {

// GOMP_parallel of GCC's OpenMP ABI, which LLVM's and Intel's runtimes have too. One pool for torch and for us: a second
// would compete with the first one's threads, which spin for a while after their work.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
extern std::atomic<GompParallel> gomp_parallel;

template <class F>
struct BlockQueue {
  const F& work;
  int64_t count;
  std::atomic<int64_t> next{0};

  void drain() {
    for (int64_t block; (block = next.fetch_add(1, std::memory_order_relaxed)) < count;) work(block);
  }
};

// Calls work(block) for every block in [0, count), in any order.
template <class F>
void for_each_block(int64_t count, int threads, const F& work) {
  BlockQueue<F> queue{work, count};
  const GompParallel parallel = gomp_parallel.load(std::memory_order_relaxed);
  if (threads <= 1 || count <= 1 || parallel == nullptr) {
    queue.drain();
    return;
  }
  const auto threads_used = static_cast<unsigned>(count < threads ? count : threads);
  parallel([](void* data) { static_cast<BlockQueue<F>*>(data)->drain(); }, &queue, threads_used, 0);
}

// A thread's own memory, which grows and stays.
class Scratch {
 public:
  ~Scratch() { std::free(memory_); }
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At least `count` floats, 64-byte aligned, of any content; null where there is no memory.
  float* floats(size_t count) {
    if (count > capacity_) {
      std::free(memory_);
      capacity_ = (count + 1023) / 1024 * 1024;
      memory_ = static_cast<float*>(std::aligned_alloc(64, capacity_ * sizeof(float)));
      if (memory_ == nullptr) capacity_ = 0;
    }
    return memory_;
  }

  // One for each use, of which one may call the other.
  template <int kUse = 0>
  static Scratch& of_this_thread() {
    static thread_local Scratch scratch;
    return scratch;
  }

 private:
  float* memory_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace menura
