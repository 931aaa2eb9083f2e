// Products of two computed matrices (attention), and transposes.
#ifndef FLSP_SIMD_MATRIX_H
#define FLSP_SIMD_MATRIX_H

#include "simd.h"

namespace flsp {
namespace {

typedef float Quad __attribute__((vector_size(16), aligned(4), may_alias));

constexpr int kProductRows = 6, kProductVectors = kMaxDense >= 4 ? 4 : 2;

// R rows x T vectors of the product; where each vector starts: the last one may overlap.
template <int R, int T>
FLSP_INLINE void product_tile(const Product& p, int32_t row, const int32_t (&at)[kProductVectors],
                              int last) {
  Vec sum[R][T] = {};
  const float* a = p.a + static_cast<ptrdiff_t>(row) * p.a_row;
  const float* b = p.b;
  for (int32_t k = 0; k < p.inner; k++, b += p.b_row) {
    Vec v[T];
    FLSP_UNROLL for (int t = 0; t < T; t++) v[t] = load(b + at[t]);
    FLSP_UNROLL for (int r = 0; r < R; r++) {
      const Vec factor = splat(a[r * p.a_row + k]);
      FLSP_UNROLL for (int t = 0; t < T; t++) sum[r][t] += factor * v[t];
    }
  }
  const Vec low = splat(p.low), high = splat(p.high);
  FLSP_UNROLL for (int r = 0; r < R; r++) {
    float* y = p.y + static_cast<ptrdiff_t>(row + r) * p.y_row;
    FLSP_UNROLL for (int t = 0; t < T; t++)
      store_some(y + at[t], clip(sum[r][t], low, high), t == T - 1 ? last : kLanes);
  }
}

template <int R>
FLSP_INLINE void product_rows(const Product& p, int32_t row) {
  const int32_t all = (p.columns + kLanes - 1) / kLanes, end = p.columns - kLanes;
  int32_t tiles = (all + kProductVectors - 1) / kProductVectors;
  for (int32_t c = 0, done = 0; tiles > 0; tiles--) {  // as equally wide as can be
    const int32_t vectors = (all - done + tiles - 1) / tiles;
    int32_t at[kProductVectors];
    FLSP_UNROLL for (int t = 0; t < kProductVectors; t++)
      at[t] = end < 0 ? 0 : c + t * kLanes < end ? c + t * kLanes : end;
    const int last = end < 0 ? p.columns : kLanes;
    switch (vectors) {
      case 1: product_tile<R, 1>(p, row, at, last); break;
      case 2: product_tile<R, 2>(p, row, at, last); break;
      case 3: product_tile<R, kProductVectors < 3 ? 2 : 3>(p, row, at, last); break;
      default: product_tile<R, kProductVectors>(p, row, at, last);
    }
    c += vectors * kLanes;
    done += vectors;
  }
}

void matrix_product(const Product& p) {
  int32_t row = 0;
  for (; row + kProductRows <= p.rows; row += kProductRows) product_rows<kProductRows>(p, row);
  for (; row + 2 <= p.rows; row += 2) product_rows<2>(p, row);
  if (row < p.rows) product_rows<1>(p, row);
}

// Where four columns begin.
struct Columns {
  float *first, *second, *third, *fourth;
};

// Column j from `row` on = from[..][j], of four rows and four columns.
FLSP_INLINE void transpose_quads(const float* x, ptrdiff_t from_row, const Columns& to, int32_t row) {
  const auto quad = [](const float* p) { return *reinterpret_cast<const Quad*>(p); };
  const auto put = [](float* at, Quad v) { *reinterpret_cast<Quad*>(at) = v; };
  const Quad q0 = quad(x), q1 = quad(x + from_row), q2 = quad(x + 2 * from_row),
             q3 = quad(x + 3 * from_row);
  const Quad e = __builtin_shufflevector(q0, q1, 0, 4, 1, 5);
  const Quad f = __builtin_shufflevector(q2, q3, 0, 4, 1, 5);
  const Quad g = __builtin_shufflevector(q0, q1, 2, 6, 3, 7);
  const Quad h = __builtin_shufflevector(q2, q3, 2, 6, 3, 7);
  put(to.first + row, __builtin_shufflevector(e, f, 0, 1, 4, 5));
  put(to.second + row, __builtin_shufflevector(e, f, 2, 3, 6, 7));
  put(to.third + row, __builtin_shufflevector(g, h, 0, 1, 4, 5));
  put(to.fourth + row, __builtin_shufflevector(g, h, 2, 3, 6, 7));
}

#if FLSP_BYTES == 64
// Of sixteen rows and four columns: whole vectors are stored, a quarter of the instructions.
FLSP_INLINE void transpose_lines(const float* x, ptrdiff_t from_row, const Columns& to, int32_t row) {
  const auto rows = [&](int first) {  // four columns of rows first, first + 4, ...
    const auto quad = [&](int row) { return _mm_loadu_ps(x + row * from_row); };
    __m512 v = _mm512_castps128_ps512(quad(first));
    v = _mm512_insertf32x4(v, quad(first + 4), 1);
    v = _mm512_insertf32x4(v, quad(first + 8), 2);
    return reinterpret_cast<Vec>(_mm512_insertf32x4(v, quad(first + 12), 3));
  };
  const Vec v0 = rows(0), v1 = rows(1), v2 = rows(2), v3 = rows(3);
  const auto low = [](Vec v, Vec w) {
    return __builtin_shufflevector(v, w, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
  };
  const auto high = [](Vec v, Vec w) {
    return __builtin_shufflevector(v, w, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  };
  const auto firsts = [](Vec v, Vec w) {
    return __builtin_shufflevector(v, w, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
  };
  const auto lasts = [](Vec v, Vec w) {
    return __builtin_shufflevector(v, w, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  };
  const Vec e = low(v0, v1), f = low(v2, v3), g = high(v0, v1), h = high(v2, v3);
  store(to.first + row, firsts(e, f));
  store(to.second + row, lasts(e, f));
  store(to.third + row, firsts(g, h));
  store(to.fourth + row, lasts(g, h));
}
#endif

// Blocks of whole cache lines: rows that are a power of two apart fall on few places of a cache.
constexpr int32_t kBlock = 16;

// to(j)[i] = from[i][j], where `to` says at which place column j begins.
template <class To>
FLSP_INLINE void transpose_to(const float* from, ptrdiff_t from_row, To to, int32_t rows,
                              int32_t columns) {
  const int32_t whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
  for (int32_t i = 0; i < whole_rows; i += kBlock)
    for (int32_t j = 0; j < whole_columns; j += kBlock)
      for (int32_t b = j; b < j + kBlock && b < whole_columns; b += 4) {
const Columns at{to(b), to(b + 1), to(b + 2), to(b + 3)};
#if FLSP_BYTES == 64
        if (i + kBlock <= whole_rows) {
          transpose_lines(from + i * from_row + b, from_row, at, i);
          continue;
        }
#endif
        for (int32_t a = i; a < i + kBlock && a < whole_rows; a += 4)
          transpose_quads(from + a * from_row + b, from_row, at, a);
      }
  for (int32_t i = 0; i < rows; i++)
    for (int32_t j = i < whole_rows ? whole_columns : 0; j < columns; j++)
      to(j)[i] = from[i * from_row + j];
}

void transpose_block(const float* from, ptrdiff_t from_row, float* to, ptrdiff_t to_row,
                     int32_t rows, int32_t columns) {
  transpose_to(from, from_row, [&](int32_t j) FLSP_INLINE_LAMBDA { return to + j * to_row; }, rows,
               columns);
}

}  // namespace
}  // namespace flsp

#endif
