// How an output plane is cut into register tiles, and the compiled tile for each shape.
#pragma once
#include <cstdint>

#include "support.h"

namespace fe {

// A tile is TH x TW pixels; a plane is covered by full tiles with near-equal widths.
struct Tiling {
  int tile_h, columns, rows, plane_h, plane_w;
  int tiles() const { return rows * columns; }
};

// `capacity` pixels fit in registers. Narrow planes take two or four rows at once.
inline Tiling tiling(int plane_h, int plane_w, int capacity) {
  Tiling t{1, (plane_w + capacity - 1) / capacity, 0, plane_h, plane_w};
  if (t.columns == 1) {
    if (4 * plane_w <= capacity && plane_h >= 4) t.tile_h = 4;
    else if (2 * plane_w <= capacity && plane_h >= 2) t.tile_h = 2;
  }
  t.rows = (plane_h + t.tile_h - 1) / t.tile_h;
  return t;
}

// Finds K<L, TH, TW, S>::run for run-time (th, tw, stride). Strides above 2 run one
// pixel at a time (S = 0): they are rare and need no registers for overlapping columns.
template <template <int, int, int, int> class K, int L, int Capacity>
struct TileTable {
  typedef typename K<L, 1, 1, 1>::Fn Fn;
  template <int TH, int TW, int S>
  static Fn width(int tw) {
    if constexpr (TW < 1) return nullptr;
    else return tw == TW ? &K<L, TH, TW, S>::run : width<TH, TW - 1, S>(tw);
  }
  template <int S>
  static Fn height(int th, int tw) {
    switch (th) {
      case 1: return width<1, Capacity, S>(tw);
      case 2: return width<2, Capacity / 2, S>(tw);
      default: return width<4, Capacity / 4, S>(tw);
    }
  }
  static Fn find(int th, int tw, int stride) {
    if (stride == 1) return height<1>(th, tw);
    if (stride == 2) return height<2>(th, tw);
    return &K<L, 1, 1, 0>::run;
  }
};

// Calls body(th, tw, y, x) for each piece of tile (row, column).
template <class F>
void for_tile(const Tiling& t, int row, int column, F body) {
  const int x0 = split(t.plane_w, column, t.columns);
  const int x1 = split(t.plane_w, column + 1, t.columns);
  const int y0 = row * t.tile_h;
  if (y0 + t.tile_h <= t.plane_h) return body(t.tile_h, x1 - x0, y0, x0);
  for (int y = y0; y < t.plane_h; y++) body(1, x1 - x0, y, x0);
}

}  // namespace fe
