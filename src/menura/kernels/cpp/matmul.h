// Matrix products of a few rows, with one matrix packed in panels of kPanelChannels columns.
#pragma once
#include "ahead.h"
#include "simd.h"

namespace menura {
namespace MENURA_PATH {

// c[kTileRows][kVecs * kLanes] (+)= a[kTileRows][depth] * b[depth][kVecs * kLanes]
//
// All sums stay in registers; each element of `a` is broadcast once for kVecs multiplications. kApart: what is added to is
// added last, so that long sums, made a part at a time, round less.
template <int kVecs, bool kAccumulate, bool kApart = false>
MENURA_INLINE void multiply_tile(const float* a, size_t a_pitch, const float* __restrict b, float* __restrict c,
                                 size_t c_pitch, int depth) {
  Vec sums[kTileRows][kVecs];
  unrolled<kTileRows>([&](auto row) __attribute__((always_inline)) {
    unrolled<kVecs>([&](auto v) __attribute__((always_inline)) {
      sums[row][v] = kAccumulate && !kApart ? load(c + row * c_pitch + v * kLanes) : broadcast(0.0f);
    });
  });
  // One pointer for three rows: the compiler addresses them with one index register, and none has to be spilled.
  constexpr int kGroups = kTileRows / 3;
  const float* groups[kGroups];
  unrolled<kGroups>([&](auto g) __attribute__((always_inline)) { groups[g] = a + 3 * g * a_pitch; });
#pragma GCC unroll 4
  for (int k = 0; k < depth; ++k) {
    Vec columns[kVecs];
    unrolled<kVecs>([&](auto v) __attribute__((always_inline)) { columns[v] = load(b + v * kLanes); });
    b += kVecs * kLanes;
    unrolled<kTileRows>([&](auto row) __attribute__((always_inline)) {
      const Vec value = broadcast(groups[row / 3][(row % 3) * a_pitch + k]);
      unrolled<kVecs>([&](auto v) __attribute__((always_inline)) {
        sums[row][v] = multiply_add(value, columns[v], sums[row][v]);
      });
    });
  }
  unrolled<kTileRows>([&](auto row) __attribute__((always_inline)) {
    unrolled<kVecs>([&](auto v) __attribute__((always_inline)) {
      float* place = c + row * c_pitch + v * kLanes;
      store(place, kApart ? load(place) + sums[row][v] : sums[row][v]);
    });
  });
}

// Columns [first, first + kVecs * kLanes) of c = a * b for all rows; whole tiles are read and written, `ahead` is called
// after each.
template <int kVecs, bool kAccumulate, class Fetch = NothingAhead>
MENURA_INLINE void multiply_panel(const float* a, size_t a_pitch, const float* panel, float* c, size_t c_pitch, int depth,
                                  int64_t rows, Fetch&& ahead = {}) {
  for (int64_t row = 0; row < rows; row += kTileRows) {
    multiply_tile<kVecs, kAccumulate>(a + row * a_pitch, a_pitch, panel, c + row * c_pitch, c_pitch, depth);
    ahead();
  }
}

// c[rows][columns] (+)= a[rows][depth] * b[depth][columns], b packed: panels of kPanelChannels columns, the last
// perhaps narrower, each [depth][its columns]. `a` and `c` hold rows up to the next multiple of kTileRows.
template <bool kAccumulate, class Fetch = NothingAhead>
MENURA_INLINE void multiply(const float* a, size_t a_pitch, const float* b, float* c, size_t c_pitch, int depth,
                            int columns, int64_t rows, Fetch&& ahead = {}) {
  int first = 0;
  for (; first + kPanelChannels <= columns; first += kPanelChannels)
    multiply_panel<kPanelVecs, kAccumulate>(a, a_pitch, b + static_cast<size_t>(first) * depth, c + first, c_pitch,
                                            depth, rows, ahead);
  for (; first < columns; first += kLanes)
    multiply_panel<1, kAccumulate>(a, a_pitch, b + static_cast<size_t>(first) * depth, c + first, c_pitch, depth, rows,
                                   ahead);
}

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Tiles of one product of so many rows and columns.
constexpr int64_t tiles_of(int64_t rows, int columns) {
  return (rows + kTileRows - 1) / kTileRows * ((columns + kPanelChannels - 1) / kPanelChannels);
}

}  // namespace MENURA_PATH
}  // namespace menura
