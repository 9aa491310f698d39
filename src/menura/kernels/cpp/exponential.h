// e to the x, and what networks make of it.
#pragma once
#include "simd.h"

namespace menura {
namespace MENURA_PATH {

// e^x to 2e-7 of itself, for |x| up to 87 and that of 87 beyond: a power of two times Taylor's series over +-ln(2)/2.
MENURA_INLINE Vec exponential(Vec x) {
  x = minimum(broadcast(87.0f), maximum(broadcast(-87.0f), x));  // the second, if it is no number
  const Vec twos = nearest(x * broadcast(1.44269504f));
  // ln 2 in two parts: the first has few bits, so that the product with a whole number is exact.
  Vec rest = multiply_add(twos, broadcast(-0.693359375f), x);
  rest = multiply_add(twos, broadcast(2.12194440e-4f), rest);
  Vec series = broadcast(1.0f / 5040);
  for (const float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1.0f, 1.0f})
    series = multiply_add(series, rest, broadcast(term));
  return series * power_of_two(twos);
}

MENURA_INLINE Vec logistic(Vec x) {
  const Vec one = broadcast(1.0f);
  return one / (one + exponential(broadcast(0.0f) - x));
}

MENURA_INLINE Vec hyperbolic_tangent(Vec x) {
  const Vec one = broadcast(1.0f);
  return one - broadcast(2.0f) / (one + exponential(x + x));
}

}  // namespace MENURA_PATH
}  // namespace menura
