// Minimal filtering: m outputs of an r-tap filter from m + r - 1 inputs with fewer products than m * r.
//
//   y = A [(G w) * (B x)]
//
// B and A are applied here, lane by lane for kLanes channels at a time; G w is computed once when weights are packed
// (kernels/packing.py has all three matrices and their sources). Summed over input channels, the products in the
// middle are one matrix product for each of the kPoints points.
#pragma once
#include "linear.h"
#include "simd.h"
#include "toom_cook_matrices.h"

namespace menura {
namespace MENURA_PATH {

constexpr double kPi = 3.14159265358979323846;

// Cosine of an angle in [0, pi/2] at compile time (Taylor's series; the next term is below 1e-19).
constexpr double cosine(double angle) {
  double term = 1.0, total = 1.0;
  for (int n = 1; n <= 13; ++n) {
    term *= -angle * angle / ((2 * n - 1) * (2 * n));
    total += term;
  }
  return total;
}

constexpr double sine(double angle) { return cosine(kPi / 2 - angle); }

// Fourier transform of kSize real numbers by halves: its even and its odd ones, each a real transform again
// (Sorensen et al., 1987). Bins 0..kSize/2; `imaginary` of the first and the last is neither read nor written.
template <int kSize>
struct RealFourier {
  static constexpr int kHalf = kSize / 2, kQuarter = kSize / 4;
  using Half = RealFourier<kHalf>;

  template <int kBin>
  static constexpr float kCosine = static_cast<float>(cosine(2 * kPi * kBin / kSize));
  template <int kBin>
  static constexpr float kSine = static_cast<float>(sine(2 * kPi * kBin / kSize));

  template <int kStride>
  static MENURA_INLINE void forward(const Vec* x, Vec* real, Vec* imaginary) {
    Vec even_real[kQuarter + 1], even_imaginary[kQuarter + 1], odd_real[kQuarter + 1], odd_imaginary[kQuarter + 1];
    Half::template forward<2 * kStride>(x, even_real, even_imaginary);
    Half::template forward<2 * kStride>(x + kStride, odd_real, odd_imaginary);
    real[0] = even_real[0] + odd_real[0];
    real[kHalf] = even_real[0] - odd_real[0];
    unrolled<kQuarter - 1>([&](auto index) __attribute__((always_inline)) {
      constexpr int k = index + 1;
      const Vec c = broadcast(kCosine<k>), s = broadcast(kSine<k>);
      const Vec turned_real = c * odd_real[k] + s * odd_imaginary[k];
      const Vec turned_imaginary = c * odd_imaginary[k] - s * odd_real[k];
      real[k] = even_real[k] + turned_real;
      imaginary[k] = even_imaginary[k] + turned_imaginary;
      real[kHalf - k] = even_real[k] - turned_real;
      imaginary[kHalf - k] = turned_imaginary - even_imaginary[k];
    });
    real[kQuarter] = even_real[kQuarter];
    imaginary[kQuarter] = broadcast(0.0f) - odd_real[kQuarter];
  }

  // kSize times the inverse.
  template <int kStride>
  static MENURA_INLINE void inverse(const Vec* real, const Vec* imaginary, Vec* x) {
    Vec even_real[kQuarter + 1], even_imaginary[kQuarter + 1], odd_real[kQuarter + 1], odd_imaginary[kQuarter + 1];
    even_real[0] = real[0] + real[kHalf];
    odd_real[0] = real[0] - real[kHalf];
    unrolled<kQuarter - 1>([&](auto index) __attribute__((always_inline)) {
      constexpr int k = index + 1;
      const Vec c = broadcast(kCosine<k>), s = broadcast(kSine<k>);
      even_real[k] = real[k] + real[kHalf - k];
      even_imaginary[k] = imaginary[k] - imaginary[kHalf - k];
      const Vec turned_real = real[k] - real[kHalf - k];
      const Vec turned_imaginary = imaginary[k] + imaginary[kHalf - k];
      odd_real[k] = c * turned_real - s * turned_imaginary;
      odd_imaginary[k] = c * turned_imaginary + s * turned_real;
    });
    even_real[kQuarter] = real[kQuarter] + real[kQuarter];
    odd_real[kQuarter] = broadcast(-2.0f) * imaginary[kQuarter];
    Half::template inverse<2 * kStride>(even_real, even_imaginary, x);
    Half::template inverse<2 * kStride>(odd_real, odd_imaginary, x + kStride);
  }
};

template <>
struct RealFourier<4> {
  template <int kStride>
  static MENURA_INLINE void forward(const Vec* x, Vec* real, Vec* imaginary) {
    const Vec even = x[0] + x[2 * kStride], odd = x[kStride] + x[3 * kStride];
    real[0] = even + odd;
    real[1] = x[0] - x[2 * kStride];
    real[2] = even - odd;
    imaginary[1] = x[3 * kStride] - x[kStride];
  }

  template <int kStride>
  static MENURA_INLINE void inverse(const Vec* real, const Vec* imaginary, Vec* x) {
    const Vec even = real[0] + real[2], odd = real[0] - real[2];
    const Vec twice_real = real[1] + real[1], twice_imaginary = imaginary[1] + imaginary[1];
    x[0] = even + twice_real;
    x[2 * kStride] = even - twice_real;
    x[kStride] = odd - twice_imaginary;
    x[3 * kStride] = odd + twice_imaginary;
  }
};

// Circular correlation of kTile samples, of which kTile - taps + 1 are those of the plain one (overlap-save).
//
// A complex product (a + ib)(c + id) takes three real ones, of a + b, a and b with c, d - c and c + d:
// its real part is the first less the third, its imaginary part the first plus the second.
template <int kSize>
struct Fourier {
  static constexpr int kTile = kSize;
  static constexpr int kInner = kSize / 2 - 1;
  static constexpr int kPoints = 2 + 3 * kInner;

  static MENURA_INLINE void forward(const Vec* x, float* points, size_t pitch) {
    Vec real[kSize / 2 + 1], imaginary[kSize / 2 + 1];
    RealFourier<kSize>::template forward<1>(x, real, imaginary);
    store(points, real[0]);
    store(points + pitch, real[kSize / 2]);
    unrolled<kInner>([&](auto index) __attribute__((always_inline)) {
      float* point = points + static_cast<size_t>(2 + 3 * index) * pitch;
      store(point, real[index + 1] + imaginary[index + 1]);
      store(point + pitch, real[index + 1]);
      store(point + 2 * pitch, imaginary[index + 1]);
    });
  }

  static MENURA_INLINE void inverse(const float* points, size_t pitch, Vec* y) {
    Vec real[kSize / 2 + 1], imaginary[kSize / 2 + 1];
    real[0] = load(points);
    real[kSize / 2] = load(points + pitch);
    unrolled<kInner>([&](auto index) __attribute__((always_inline)) {
      const float* point = points + static_cast<size_t>(2 + 3 * index) * pitch;
      const Vec first = load(point);
      real[index + 1] = first - load(point + 2 * pitch);
      imaginary[index + 1] = first + load(point + pitch);
    });
    RealFourier<kSize>::template inverse<1>(real, imaginary, y);
  }
};

// Toom and Cook's products of polynomials, as Winograd used them for filters: multiply values at a few points.
template <class Matrices>
struct ToomCook {
  static constexpr int kTile = Matrices::kInputs;
  static constexpr int kPoints = Matrices::kInputs;

  static MENURA_INLINE void forward(const Vec* x, float* points, size_t pitch) {
    Vec values[kPoints];
    Linear<Matrices::kInput>::apply(x, values);
    unrolled<kPoints>([&](auto p) __attribute__((always_inline)) { store(points + p * pitch, values[p]); });
  }

  static MENURA_INLINE void inverse(const float* points, size_t pitch, Vec* y) {
    Vec values[kPoints];
    unrolled<kPoints>([&](auto p) __attribute__((always_inline)) { values[p] = load(points + p * pitch); });
    Linear<Matrices::kOutput>::apply(values, y);
  }
};

}  // namespace MENURA_PATH
}  // namespace menura
