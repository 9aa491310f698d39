// Products of a constant matrix and a vector of vectors, sharing what rows or columns of opposite points have in common.
#pragma once
#include <type_traits>

#include "simd.h"

namespace menura {
namespace MENURA_PATH {

// made[r] = sum over c of kMatrix[r][c] * x[c]
//
// In Toom and Cook's matrices, points p and -p stand side by side. In the input's and the weights' matrix theirs are two
// rows that differ by the sign of every other term: two half sums, added and subtracted, give both. In the output's they
// are two such columns: their sum and their difference serve all rows.
template <const auto& kMatrix>
struct Linear {
  using Table = std::remove_cvref_t<decltype(kMatrix)>;
  static constexpr int kRows = std::extent_v<Table, 0>, kColumns = std::extent_v<Table, 1>;

  static constexpr bool equal_but_for_signs(float a, float b) { return a == b || a == -b; }

  // Row `row` and the next one.
  static constexpr bool rows_paired(int row) {
    if (row + 1 >= kRows) return false;
    for (int c = 0; c < kColumns; ++c)
      if (!equal_but_for_signs(kMatrix[row][c], kMatrix[row + 1][c])) return false;
    return true;
  }

  static constexpr bool columns_paired(int column) {
    if (column + 1 >= kColumns) return false;
    for (int r = 0; r < kRows; ++r)
      if (!equal_but_for_signs(kMatrix[r][column], kMatrix[r][column + 1])) return false;
    return true;
  }

  static constexpr bool any_columns_paired() {
    for (int c = 0; c < kColumns; ++c)
      if (columns_paired(c)) return true;
    return false;
  }

  static MENURA_INLINE void apply(const Vec* x, Vec* made) {
    if constexpr (any_columns_paired())
      by_columns(x, made);
    else
      by_rows(x, made);
  }

 private:
  // The terms of a row that its neighbour has with the same sign, or those with the other.
  template <int kRow, bool kSame>
  static MENURA_INLINE Vec half_sum(const Vec* x) {
    Vec total = broadcast(0.0f);
    bool begun = false;
    unrolled<kColumns>([&](auto c) __attribute__((always_inline)) {
      constexpr float factor = kMatrix[kRow][c];
      if constexpr (factor != 0.0f && (factor == kMatrix[kRow + 1][c]) == kSame)
        total = plus(total, begun, factor, x[c]);
    });
    return total;
  }

  // total + factor * x; the first term of a sum, where `begun` is false, stands alone.
  static MENURA_INLINE Vec plus(Vec total, bool& begun, float factor, Vec x) {
    const bool first = !begun;
    begun = true;
    if (first) return factor == 1.0f ? x : x * broadcast(factor);
    if (factor == 1.0f) return total + x;
    if (factor == -1.0f) return total - x;
    return multiply_add(broadcast(factor), x, total);
  }

  static MENURA_INLINE void by_rows(const Vec* x, Vec* made) {
    unrolled<kRows>([&](auto r) __attribute__((always_inline)) {
      if constexpr (rows_paired(r)) {
        const Vec same = half_sum<r, true>(x), other = half_sum<r, false>(x);
        made[r] = same + other;
        made[r + 1] = same - other;
      } else if constexpr (r == 0 || !rows_paired(r - 1)) {
        made[r] = row_sum<r>(x);
      }
    });
  }

  template <int kRow>
  static MENURA_INLINE Vec row_sum(const Vec* x) {
    Vec total = broadcast(0.0f);
    bool begun = false;
    unrolled<kColumns>([&](auto c) __attribute__((always_inline)) {
      constexpr float factor = kMatrix[kRow][c];
      if constexpr (factor != 0.0f) total = plus(total, begun, factor, x[c]);
    });
    return total;
  }

  static MENURA_INLINE void by_columns(const Vec* x, Vec* made) {
    // Of a pair its sum in the first's place and its difference in the second's.
    Vec terms[kColumns];
    unrolled<kColumns>([&](auto c) __attribute__((always_inline)) {
      if constexpr (columns_paired(c)) {
        terms[c] = x[c] + x[c + 1];
        terms[c + 1] = x[c] - x[c + 1];
      } else if constexpr (c == 0 || !columns_paired(c - 1)) {
        terms[c] = x[c];
      }
    });
    unrolled<kRows>([&](auto r) __attribute__((always_inline)) {
      Vec total = broadcast(0.0f);
      bool begun = false;
      unrolled<kColumns>([&](auto c) __attribute__((always_inline)) {
        constexpr float factor = term_factor(r, c);
        if constexpr (factor != 0.0f) total = plus(total, begun, factor, terms[c]);
      });
      made[r] = total;
    });
  }

  // What row `row` takes of terms[column].
  static constexpr float term_factor(int row, int column) {
    if (columns_paired(column)) return kMatrix[row][column] == kMatrix[row][column + 1] ? kMatrix[row][column] : 0.0f;
    if (column > 0 && columns_paired(column - 1))
      return kMatrix[row][column] != kMatrix[row][column - 1] ? kMatrix[row][column - 1] : 0.0f;
    return kMatrix[row][column];
  }
};

}  // namespace MENURA_PATH
}  // namespace menura
