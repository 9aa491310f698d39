// The few vector operations that the kernels need, for the instruction set this file is compiled for; nothing else in
// the kernels depends on one.
#pragma once
#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <utility>

#define MENURA_INLINE inline __attribute__((always_inline))

namespace menura {
namespace MENURA_PATH {

#if defined(__aarch64__)
using Vec = float32x4_t;
constexpr int kLanes = 4;
constexpr int kTileRows = 6;  // 6 x 4 sums in registers, of 32
constexpr int kPanelVecs = 4;
constexpr bool kFetchesAhead = false;  // see ahead.h
MENURA_INLINE Vec load(const float* p) { return vld1q_f32(p); }
MENURA_INLINE void store(float* p, Vec v) { vst1q_f32(p, v); }
MENURA_INLINE Vec broadcast(float value) { return vdupq_n_f32(value); }
MENURA_INLINE Vec multiply_add(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
MENURA_INLINE Vec maximum(Vec a, Vec b) { return vmaxq_f32(a, b); }
MENURA_INLINE Vec minimum(Vec a, Vec b) { return vminq_f32(a, b); }
MENURA_INLINE Vec nearest(Vec v) { return vrndnq_f32(v); }
// 2 to whole numbers between -126 and 127.
MENURA_INLINE Vec power_of_two(Vec whole) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(whole), vdupq_n_s32(127)), 23));
}
MENURA_INLINE Vec load_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
MENURA_INLINE float sum(Vec v) { return vaddvq_f32(v); }
MENURA_INLINE float largest(Vec v) { return vmaxvq_f32(v); }
#elif defined(__AVX512F__)
using Vec = __m512;
constexpr int kLanes = 16;
constexpr int kTileRows = 12;   // of the matrix product: 12 x 2 sums in registers, of 32
constexpr int kPanelVecs = 2;
constexpr bool kFetchesAhead = false;
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
MENURA_INLINE float largest(Vec v) { return _mm512_reduce_max_ps(v); }
#else
using Vec = __m256;
constexpr int kLanes = 8;
constexpr int kTileRows = 6;    // 6 x 2 sums in registers, of 16
constexpr int kPanelVecs = 2;
constexpr bool kFetchesAhead = true;
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
MENURA_INLINE float largest(Vec v) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
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

// The register that says how this thread computes, and its bits for denormals.
#if defined(__aarch64__)
using Control = uint64_t;
constexpr Control kFlushBits = 1 << 24;
MENURA_INLINE Control control() {
  Control bits;
  asm volatile("mrs %0, fpcr" : "=r"(bits) : : "memory");
  return bits;
}
MENURA_INLINE void set_control(Control bits) { asm volatile("msr fpcr, %0" : : "r"(bits) : "memory"); }
#else
using Control = unsigned;
constexpr Control kFlushBits = 0x8040;
MENURA_INLINE Control control() { return _mm_getcsr(); }
MENURA_INLINE void set_control(Control bits) { _mm_setcsr(bits); }
#endif

// While it lives, numbers too small for a normal float32 count as zero: they would take a hundred times as long.
class FlushDenormals {
 public:
  FlushDenormals() : before_(control()) { set_control(before_ | kFlushBits); }
  ~FlushDenormals() { set_control(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  Control before_;
};

}  // namespace MENURA_PATH
}  // namespace menura
