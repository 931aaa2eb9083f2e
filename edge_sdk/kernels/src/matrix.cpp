// Products of matrices per sample, and the choice between two values.
#include "fe_matrix.h"
#include "lanes.h"
#include "support.h"

namespace fe {
namespace {

// A matrix of lane vectors; steps in reals.
struct Matrix {
  const real* p;
  int64_t row, column;
  Matrix turned() const { return {p, column, row}; }
};

// to[rows][columns] = a b, `R` rows and `C` columns at (i, j) at a time.
template <class V, int R, int C>
FE_INLINE void tile(Matrix a, Matrix b, real* to, int64_t step, int64_t stride, int depth) {
  V sum[R][C] = {};
  for (int k = 0; k < depth; k++) {
    V other[C];
    FE_UNROLL for (int c = 0; c < C; c++) other[c] = load<V>(b.p + k * b.row + c * b.column);
    FE_UNROLL for (int r = 0; r < R; r++) {
      const V own = load<V>(a.p + r * a.row + k * a.column);
      FE_UNROLL for (int c = 0; c < C; c++) sum[r][c] += own * other[c];
    }
  }
  FE_UNROLL for (int r = 0; r < R; r++)
    FE_UNROLL for (int c = 0; c < C; c++) store(to + r * stride + c * step, sum[r][c]);
}

template <class V, int R>
FE_INLINE void strip(Matrix a, Matrix b, real* to, int64_t step, int64_t stride, int columns,
                     int depth) {
  int j = 0;
  for (; j + 4 <= columns; j += 4)
    tile<V, R, 4>(a, {b.p + j * b.column, b.row, b.column}, to + j * step, step, stride, depth);
  for (; j < columns; j++)
    tile<V, R, 1>(a, {b.p + j * b.column, b.row, b.column}, to + j * step, step, stride, depth);
}

template <class V>
__attribute__((noinline)) void product(Matrix a, Matrix b, real* to, int64_t step, int rows,
                                       int columns, int depth) {
  const int64_t stride = step * columns;
  int i = 0;
  for (; i + 2 <= rows; i += 2)
    strip<V, 2>({a.p + i * a.row, a.row, a.column}, b, to + i * stride, step, stride, columns, depth);
  if (i < rows)
    strip<V, 1>({a.p + i * a.row, a.row, a.column}, b, to + i * stride, step, stride, columns, depth);
}

// body(matrix, reals to a vector of lanes) for every matrix and vector of lanes.
template <int L, class F>
void each(const FeProduct& d, F body) {
  constexpr int NV = Lanes<L>::NV, VL = Lanes<L>::VL;
  parallel_for(d.blocks * d.matrices * NV, d.threads,
               [&](int task) { body((int64_t)(task / NV), (int64_t)(task % NV) * VL); });
}

template <int L>
void forward(const FeProduct& d, const real* a, const real* b, real* c) {
  typedef typename Lanes<L>::V V;
  const int64_t m = d.rows, k = d.depth, n = d.columns;
  each<L>(d, [&](int64_t at, int64_t v) {
    product<V>({a + at * m * k * L + v, k * L, L}, {b + at * k * n * L + v, n * L, L},
               c + at * m * n * L + v, L, d.rows, d.columns, d.depth);
  });
}

template <int L>
void backward(const FeProduct& d, const real* a, const real* b, const real* dc, real* da,
              real* db) {
  typedef typename Lanes<L>::V V;
  const int64_t m = d.rows, k = d.depth, n = d.columns;
  each<L>(d, [&](int64_t at, int64_t v) {
    const Matrix slope{dc + at * m * n * L + v, n * L, L};
    const Matrix one{a + at * m * k * L + v, k * L, L}, two{b + at * k * n * L + v, n * L, L};
    if (da) product<V>(slope, two.turned(), da + at * m * k * L + v, L, d.rows, d.depth, d.columns);
    if (db) product<V>(one.turned(), slope, db + at * k * n * L + v, L, d.depth, d.columns, d.rows);
  });
}

bool sound(const FeProduct& d) {
  return d.blocks > 0 && d.matrices > 0 && d.rows > 0 && d.depth > 0 && d.columns > 0 &&
         (int64_t)d.blocks * d.matrices * (d.lanes / 4) <= INT32_MAX;
}

// body(from, end) for pieces of `count` values.
template <class F>
void pieces_of(int64_t count, int threads, F body) {
  constexpr int64_t kPiece = 1 << 14;
  parallel_for((int)((count + kPiece - 1) / kPiece), threads,
               [&](int i) { body(i * kPiece, std::min(count, (i + 1) * kPiece)); });
}

bool sound(int64_t count) { return count >= 0 && count <= (int64_t)INT32_MAX << 14; }

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_product_forward(const FeProduct* d, const real* a, const real* b, real* c) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, forward<L>(*d, a, b, c))
  return FE_OK;
}

int fe_product_backward(const FeProduct* d, const real* a, const real* b, const real* dc, real* da,
                        real* db) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, backward<L>(*d, a, b, dc, da, db))
  return FE_OK;
}

int fe_choice_forward(int64_t count, int32_t threads, const real* which, const real* a,
                      const real* b, real* y) {
  using namespace fe;
  if (!sound(count)) return FE_BAD_ARGUMENT;
  pieces_of(count, threads, [&](int64_t from, int64_t end) {
    for (int64_t i = from; i < end; i++) y[i] = which[i] != 0 ? a[i] : b[i];
  });
  return FE_OK;
}

int fe_choice_backward(int64_t count, int32_t threads, const real* which, const real* dy, real* da,
                       real* db) {
  using namespace fe;
  if (!sound(count)) return FE_BAD_ARGUMENT;
  pieces_of(count, threads, [&](int64_t from, int64_t end) {
    for (int64_t i = from; da && i < end; i++) da[i] = which[i] != 0 ? dy[i] : 0;
    for (int64_t i = from; db && i < end; i++) db[i] = which[i] != 0 ? 0 : dy[i];
  });
  return FE_OK;
}

}  // extern "C"
