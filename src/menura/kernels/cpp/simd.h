// The few vector operations that the kernels need, for the instruction set this file is compiled for.
#pragma once
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#define MENURA_INLINE inline __attribute__((always_inline))

namespace menura {
namespace MENURA_PATH {

#if defined(__AVX512F__)
using Vec = __m512;
constexpr int kLanes = 16;
constexpr int kTileRows = 12;   // of the matrix product: 12 x 2 sums in registers, of 32
constexpr int kPanelVecs = 2;
MENURA_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
MENURA_INLINE void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
MENURA_INLINE Vec broadcast(float value) { return _mm512_set1_ps(value); }
MENURA_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
MENURA_INLINE Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
MENURA_INLINE Vec minimum(Vec a, Vec b) { return _mm512_min_ps(a, b); }
MENURA_INLINE Vec nearest(Vec v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// 2 to whole numbers between -126 and 127.
MENURA_INLINE Vec power_of_two(Vec whole) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(whole), _mm512_set1_epi32(127)), 23));
}
MENURA_INLINE Vec load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
MENURA_INLINE float sum(Vec v) { return _mm512_reduce_add_ps(v); }
#else
using Vec = __m256;
constexpr int kLanes = 8;
constexpr int kTileRows = 6;    // 6 x 2 sums in registers, of 16
constexpr int kPanelVecs = 2;
MENURA_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
MENURA_INLINE void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
MENURA_INLINE Vec broadcast(float value) { return _mm256_set1_ps(value); }
MENURA_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
MENURA_INLINE Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a, b); }
MENURA_INLINE Vec minimum(Vec a, Vec b) { return _mm256_min_ps(a, b); }
MENURA_INLINE Vec nearest(Vec v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// 2 to whole numbers between -126 and 127.
MENURA_INLINE Vec power_of_two(Vec whole) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23));
}
MENURA_INLINE Vec load_half(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
MENURA_INLINE float sum(Vec v) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
#endif

constexpr int kPanelChannels = kPanelVecs * kLanes;

// max(x, slope x) is the leaky ReLU for slopes up to 1.
MENURA_INLINE Vec leaky_relu(Vec x, Vec slope) { return maximum(x, x * slope); }

// Calls f with 0, 1, ... count - 1 as compile-time constants.
template <int kCount, class F>
MENURA_INLINE void unrolled(F f) {
  [&]<int... kIndex>(std::integer_sequence<int, kIndex...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, kIndex>{}), ...);
  }(std::make_integer_sequence<int, kCount>{});
}

// While it lives, numbers too small for a normal float32 count as zero: they would take a hundred times as long.
class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned before_;
};

}  // namespace MENURA_PATH
}  // namespace menura
