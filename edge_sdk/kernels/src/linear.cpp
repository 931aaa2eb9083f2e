// Sparse linear layers: a tile of sample blocks in registers, weights streaming by.
//
// The backward pass walks the pattern by columns. Canonical order is by rows, so the
// weights of one column lie one per row; a cursor per row gives each its position without
// storing a permutation: 2 bytes of index per weight instead of 6. Rows are taken in runs,
// or every weight would touch four cache lines and two pages beyond the first level.
//
// What weights read at random is first copied so that a tile's blocks lie side by side: in the
// tensor they are often whole pages apart, in the same sets of the first-level cache.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <type_traits>

#include "fe.h"
#include "lanes.h"
#include "program.h"
#include "structure.h"
#include "support.h"

namespace fe {
namespace {

struct LinearArgs {
  const FeStructure* s;
  const real *x, *w, *bias, *dy;
  real *y, *dx, *dw;
  int blocks, threads;
  bool accumulate;  // dw is added to
};

template <int L>
constexpr int forward_blocks() {
  return std::max(1, (FE_VECTOR_BYTES == 64 ? 16 : kManyRegisters ? 24 : 12) / Lanes<L>::NV);
}
template <int L>
constexpr int backward_blocks() {
  return std::max(1, (kManyRegisters ? 12 : FE_VECTOR_BYTES == 16 ? 8 : 6) / Lanes<L>::NV);
}

#define FE_EACH                                \
  FE_UNROLL for (int t = 0; t < TB; t++)       \
  FE_UNROLL for (int v = 0; v < NV; v++)

// from [TB][count][L] -> to [count][TB][L]
template <int L, int TB>
void side_by_side(const real* from, int count, real* to) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  for (int t = 0; t < TB; t++)
    for (int i = 0; i < count; i++) FE_UNROLL for (int v = 0; v < NV; v++)
        store(to + ((ptrdiff_t)i * TB + t) * L + v * VL,
              load<V>(from + ((ptrdiff_t)t * count + i) * L + v * VL));
}

// x: the tile's blocks side by side.
template <int L, int TB, class Columns>
void forward_tile(const LinearArgs& a, Columns column_of, const real* x, real* y, int r0, int r1) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV, P = TB * NV;
  constexpr int U = P >= 8 ? 1 : (P >= 4 ? 2 : (P >= 2 ? 4 : 8));
  const FeStructure& s = *a.s;
  const ptrdiff_t yb = (ptrdiff_t)s.rows * L;
  for (int r = r0; r < r1; r++) {
    int i = s.row_start[r];
    const int begin = i, end = s.row_start[r + 1];
    const auto column = [&](int at) FE_INLINE_LAMBDA -> ptrdiff_t {
      if constexpr (std::is_same_v<Columns, FullColumns>) return at - begin;
      else return column_of[at];
    };
    V acc[U][TB][NV];
    FE_UNROLL for (int u = 0; u < U; u++)
      FE_EACH acc[u][t][v] = u == 0 && a.bias ? splat<V>(a.bias[r]) : V{};
    for (; i + U <= end; i += U)
      FE_UNROLL for (int u = 0; u < U; u++) {
        const real* xp = x + column(i + u) * (TB * L);
        const V w = splat<V>(a.w[i + u]);
        FE_EACH acc[u][t][v] += w * load<V>(xp + t * L + v * VL);
      }
    for (; i < end; i++) {
      const real* xp = x + column(i) * (TB * L);
      const V w = splat<V>(a.w[i]);
      FE_EACH acc[0][t][v] += w * load<V>(xp + t * L + v * VL);
    }
    FE_EACH {
      V sum = acc[0][t][v];
      FE_UNROLL for (int u = 1; u < U; u++) sum += acc[u][t][v];
      store(y + t * yb + (ptrdiff_t)r * L + v * VL, sum);
    }
  }
}

// First: dw is written, not added to. dy: the tile's blocks side by side.
template <int L, int TB, bool DX, bool First, class Rows>
void backward_tile(const LinearArgs& a, Rows row_of, int32_t* cursor, const real* x,
                   const real* dy, real* dx, int run, int c0, int c1) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const FeStructure& s = *a.s;
  const ptrdiff_t xb = (ptrdiff_t)s.cols * L;
  const int32_t* start = s.column_start.data() + (int64_t)run * s.cols;
  for (int c = c0; c < c1; c++) {
    int i = start[c];
    const int end = start[c + 1];
    V g[TB][NV], acc[TB][NV];
    FE_EACH g[t][v] = load<V>(x + t * xb + (ptrdiff_t)c * L + v * VL);
    if (DX) FE_EACH acc[t][v] = run ? load<V>(dx + t * xb + (ptrdiff_t)c * L + v * VL) : V{};
    const auto one = [&](int32_t row, int32_t at) FE_INLINE_LAMBDA {
      const real* b = dy + (ptrdiff_t)row * (TB * L);
      const V w = DX ? splat<V>(a.w[at]) : V{};
      V q = V{};
      FE_EACH {
        const V d = load<V>(b + t * L + v * VL);
        if (DX) acc[t][v] += w * d;
        q = t + v ? q + g[t][v] * d : g[t][v] * d;
        if (DX) pin(acc[t][v], q);
      }
      return q;
    };
    for (; i + 4 <= end; i += 4) {
      int32_t at[4];
      V q[4];
      FE_UNROLL for (int u = 0; u < 4; u++) {
        const int32_t row = row_of[i + u];
        at[u] = cursor[row]++;
        q[u] = one(row, at[u]);
      }
      const auto four = SumFour<V>::of(q[0], q[1], q[2], q[3]);
      FE_UNROLL for (int u = 0; u < 4; u++) {
        if (First) a.dw[at[u]] = four[u];
        else a.dw[at[u]] += four[u];
      }
    }
    if (i < end) {  // up to three more, in one reduction
      int32_t at[3];
      V q[3] = {};
      FE_UNROLL for (int u = 0; u < 3; u++)
        if (i + u < end) {
          const int32_t row = row_of[i + u];
          at[u] = cursor[row]++;
          q[u] = one(row, at[u]);
        }
      const auto rest = SumFour<V>::of(q[0], q[1], q[2], V{});
      FE_UNROLL for (int u = 0; u < 3; u++)
        if (i + u < end) a.dw[at[u]] = First ? rest[u] : a.dw[at[u]] + rest[u];
    }
    if (DX) FE_EACH store(dx + t * xb + (ptrdiff_t)c * L + v * VL, acc[t][v]);
  }
}
#undef FE_EACH

// A tile's blocks side by side, in the thread's work space; null if memory is short.
template <int L, int TB>
const real* tile_of(const real* from, int count) {
  if (TB == 1) return from;
  real* to = scratch<real>(kPadded, (size_t)count * TB * L);
  if (to) side_by_side<L, TB>(from, count, to);
  return to;
}

template <int L, int TB>
bool forward_from(const LinearArgs& a, int block, int part, int parts) {
  const FeStructure& s = *a.s;
  const real* x = tile_of<L, TB>(a.x + (ptrdiff_t)block * s.cols * L, s.cols);
  real* y = a.y + (ptrdiff_t)block * s.rows * L;
  const int r0 = split(s.rows, part, parts), r1 = split(s.rows, part + 1, parts);
  if (x) with_columns(s, [&](auto column) { forward_tile<L, TB>(a, column, x, y, r0, r1); });
  return x;
}

// Runs f<TB>() for TB = count, which is at most Most.
template <int Most, class F>
void with_count(int count, F f) {
  if constexpr (Most > 1) {
    if (count < Most) return with_count<Most - 1>(count, f);
  }
  f(std::integral_constant<int, Most>{});
}

template <int L>
int forward(const LinearArgs& a) {
  constexpr int most = forward_blocks<L>();
  const int tiles = (a.blocks + most - 1) / most;
  // Few tiles and many threads: rows are shared out as well.
  const int parts = a.threads > 1 && tiles < 4 * a.threads ? std::min(a.s->rows, 4 * a.threads) : 1;
  std::atomic<bool> short_of_memory{false};
  parallel_for(tiles * parts, a.threads, [&](int job) {
    const int block = job / parts * most;
    with_count<most>(std::min(most, a.blocks - block), [&](auto tb) {
      if (!forward_from<L, decltype(tb)::value>(a, block, job % parts, parts)) short_of_memory = true;
    });
  });
  return short_of_memory ? FE_NO_MEMORY : FE_OK;
}

template <int L, int TB, bool First>
bool backward_from(const LinearArgs& a, int32_t* cursor, int block, int c0, int c1) {
  const FeStructure& s = *a.s;
  const real* x = a.x + (ptrdiff_t)block * s.cols * L;
  const real* dy = tile_of<L, TB>(a.dy + (ptrdiff_t)block * s.rows * L, s.rows);
  if (!dy) return false;
  const auto every_run = [&](auto row_of) {
    for (int run = 0; run < s.runs; run++) {
      if (a.dx)
        backward_tile<L, TB, true, First>(a, row_of, cursor, x, dy,
                                          a.dx + (ptrdiff_t)block * s.cols * L, run, c0, c1);
      else backward_tile<L, TB, false, First>(a, row_of, cursor, x, dy, nullptr, run, c0, c1);
    }
  };
  if (s.column_row.wide.empty()) every_run(s.column_row.narrow.data());
  else every_run(s.column_row.wide.data());
  return true;
}

// Where each row's weights from column c0 on begin.
void place_cursor(const FeStructure& s, int c0, int32_t* cursor) {
  if (c0 == 0) return (void)std::copy_n(s.row_start.data(), s.rows, cursor);
  with_columns(s, [&](auto column) {
    for (int r = 0; r < s.rows; r++) {
      int low = s.row_start[r], high = s.row_start[r + 1];
      while (low < high) {
        const int middle = low + (high - low) / 2;
        if ((int32_t)column[middle] < c0) low = middle + 1;
        else high = middle;
      }
      cursor[r] = low;
    }
  });
}

template <int L>
int backward(const LinearArgs& a, int32_t* cursors) {
  constexpr int most = backward_blocks<L>();
  const FeStructure& s = *a.s;
  const int parts = std::min(s.cols, a.threads);
  std::atomic<bool> short_of_memory{false};
  parallel_for(parts, a.threads, [&](int part) {
    const int c0 = split(s.cols, part, parts), c1 = split(s.cols, part + 1, parts);
    int32_t* cursor = cursors + (ptrdiff_t)part * s.rows;
    for (int block = 0; block < a.blocks; block += most) {
      place_cursor(s, c0, cursor);
      with_count<most>(std::min(most, a.blocks - block), [&](auto tb) {
        constexpr int TB = decltype(tb)::value;
        const bool done = block == 0 && !a.accumulate
                              ? backward_from<L, TB, true>(a, cursor, block, c0, c1)
                              : backward_from<L, TB, false>(a, cursor, block, c0, c1);
        if (!done) short_of_memory = true;
      });
    }
  });
  return short_of_memory ? FE_NO_MEMORY : FE_OK;
}

// db[r] = sum of dy: some rows together, as they lie; 64 blocks in `real`, then in double.
template <int L>
void bias_gradient(const real* dy, real* db, int blocks, int rows, int threads, bool accumulate) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV, kRows = 4, kChunk = 64;
  parallel_for((rows + kRows - 1) / kRows, threads, [&](int part) {
    const int r0 = part * kRows, n = std::min(kRows, rows - r0);
    double total[kRows] = {};
    for (int b0 = 0; b0 < blocks; b0 += kChunk) {
      V s[kRows] = {};
      for (int b = b0; b < std::min(blocks, b0 + kChunk); b++)
        for (int i = 0; i < n; i++) FE_UNROLL for (int v = 0; v < NV; v++)
            s[i] += load<V>(dy + ((ptrdiff_t)b * rows + r0 + i) * L + v * VL);
      for (int i = 0; i < n; i++) total[i] += sum(s[i]);
    }
    for (int i = 0; i < n; i++)
      db[r0 + i] = accumulate ? db[r0 + i] + (real)total[i] : (real)total[i];
  });
}

}  // namespace

int linear_backward(const FeStructure* s, int lanes, int blocks, int threads, const real* x,
                    const real* w, const real* dy, real* dx, real* dw, real* db, bool accumulate) {
  if (blocks < 1 || s->runs < 1) return FE_BAD_ARGUMENT;
  int32_t* cursors = scratch<int32_t>(kCursor, (size_t)s->rows * std::max(1, threads));
  if (!cursors) return FE_NO_MEMORY;
  const LinearArgs a{s, x, w, nullptr, dy, nullptr, dx, dw, blocks, std::max(1, threads),
                     accumulate};
  int code = FE_OK;
  FE_FOR_LANES(lanes, code = backward<L>(a, cursors))
  if (db && !code)
    FE_FOR_LANES(lanes, bias_gradient<L>(dy, db, blocks, s->rows, threads, accumulate))
  return code;
}

}  // namespace fe

extern "C" {

int fe_linear_forward(const FeStructure* s, int32_t lanes, int32_t blocks, int32_t threads,
                      const fe::real* x, const fe::real* w, const fe::real* bias, fe::real* y) {
  using namespace fe;
  if (blocks < 1) return FE_BAD_ARGUMENT;
  const LinearArgs a{s, x, w, bias, nullptr, y, nullptr, nullptr, blocks, threads, false};
  FE_FOR_LANES(lanes, return forward<L>(a))
  return FE_OK;
}

int fe_linear_backward(const FeStructure* s, int32_t lanes, int32_t blocks, int32_t threads,
                       const fe::real* x, const fe::real* w, const fe::real* dy, fe::real* dx,
                       fe::real* dw, fe::real* db) {
  return fe::linear_backward(s, lanes, blocks, threads, x, w, dy, dx, dw, db, false);
}

}  // extern "C"
