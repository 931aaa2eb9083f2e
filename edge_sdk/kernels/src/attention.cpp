// Attention: some queries of one head at a time, every product a small matrix product of
// lane vectors. The backward pass makes the probabilities again from the normalizer.
#include <atomic>

#include "dropout.h"
#include "fe_math.h"
#include "fe_sequence.h"
#include "support.h"

namespace fe {
namespace {

constexpr int kQueries = 8;

// A matrix of lane vectors; strides in reals.
template <class P>
struct Matrix {
  P* p;
  int64_t row, column;
  Matrix turned() const { return {p, column, row}; }
};
typedef Matrix<const real> In;
typedef Matrix<real> Out;

template <class V, int R, int C, bool Add>
FE_INLINE void tile(In a, In b, Out c, int depth, real factor) {
  V sum[R][C] = {};
  for (int k = 0; k < depth; k++) {
    V right[C];
    FE_UNROLL for (int j = 0; j < C; j++) right[j] = load<V>(b.p + k * b.row + j * b.column);
    FE_UNROLL for (int i = 0; i < R; i++) {
      const V left = load<V>(a.p + i * a.row + k * a.column);
      FE_UNROLL for (int j = 0; j < C; j++) sum[i][j] += left * right[j];
    }
  }
  FE_UNROLL for (int i = 0; i < R; i++) FE_UNROLL for (int j = 0; j < C; j++) {
      real* to = c.p + i * c.row + j * c.column;
      const V value = sum[i][j] * splat<V>(factor);
      store(to, Add ? load<V>(to) + value : value);
    }
}

// c (+)= factor * a b, of rows x depth and depth x columns.
template <class V, bool Add>
__attribute__((noinline)) void multiply(In a, In b, Out c, int rows, int columns, int depth,
                                        real factor) {
  for (int i = 0; i < rows;) {
    const bool four = i + 4 <= rows;
    for (int j = 0; j < columns;) {
      const In left{a.p + i * a.row, a.row, a.column}, right{b.p + j * b.column, b.row, b.column};
      const Out to{c.p + i * c.row + j * c.column, c.row, c.column};
      const bool two = j + 2 <= columns;
      if (four && two) tile<V, 4, 2, Add>(left, right, to, depth, factor);
      else if (four) tile<V, 4, 1, Add>(left, right, to, depth, factor);
      else if (two) tile<V, 1, 2, Add>(left, right, to, depth, factor);
      else tile<V, 1, 1, Add>(left, right, to, depth, factor);
      j += two ? 2 : 1;
    }
    i += four ? 4 : 1;
  }
}

// One head of one block, vector v of its lanes: where everything lies.
template <int L>
struct Head {
  static constexpr int VL = Lanes<L>::VL;
  typedef typename Lanes<L>::V V;
  const FeAttention& d;
  int head, block, v;
  Keep keep;

  Head(const FeAttention& at, int index, int vector)
      : d(at), head(index % at.heads), block(index / at.heads), v(vector), keep(at.key, at.p) {}

  template <class P>
  Matrix<P> rows(P* p, int count, int width, int first = 0) const {
    const int64_t start = ((int64_t)block * d.heads + head) * count + first;
    return {p + start * width * L + v * VL, (int64_t)width * L, L};
  }
  // Keys that any of the queries [q0, q0 + n) sees.
  int seen(int q0, int n) const { return d.causal ? std::min(d.keys, q0 + n) : d.keys; }

  // What dropout multiplies a row's probabilities by, one pair of keys after the other.
  template <class F>
  void factors(int query, int keys, F body) const {
    const int64_t pairs = (d.keys + 1) / 2;
    for (int j = 0; j < keys; j += 2) {
      alignas(128) real factor[2 * L];
      const int64_t pair = ((int64_t)head * d.queries + query) * pairs + j / 2;
      keep.template draw<L>((uint32_t)pair, d.first_sample + (uint32_t)block * L, factor);
      body(j, load<V>(factor + v * VL));
      if (j + 1 < keys) body(j + 1, load<V>(factor + L + v * VL));
    }
  }
};

template <int L>
void forward_head(const Head<L>& h, const real* q, const real* k, const real* v, real* y,
                  real* normalizer, real* work) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  const FeAttention& d = h.d;
  for (int q0 = 0; q0 < d.queries; q0 += kQueries) {
    const int n = std::min(kQueries, d.queries - q0), keys = h.seen(q0, n);
    const Out p{work, (int64_t)d.keys * VL, VL};
    multiply<V, false>(h.rows(q, d.queries, d.width, q0), h.rows(k, d.keys, d.width).turned(), p,
                       n, keys, d.width, (real)d.scale);
    for (int i = 0; i < n; i++) {
      real* row = p.p + i * p.row;
      const int own = d.causal ? std::min(keys, q0 + i + 1) : keys;
      V most = load<V>(row), total = {};
      for (int j = 1; j < own; j++) {
        const V t = load<V>(row + j * VL);
        most = t > most ? t : most;
      }
      for (int j = 0; j < own; j++) {
        const V e = exponential(load<V>(row + j * VL) - most);
        total += e;
        store(row + j * VL, e);
      }
      const V share = constant<V>(1) / total;
      for (int j = 0; j < own; j++) store(row + j * VL, load<V>(row + j * VL) * share);
      for (int j = own; j < keys; j++) store(row + j * VL, V{});
      store(h.rows(normalizer, d.queries, 1, q0 + i).p, most + logarithm(total));
      if (d.p > 0)
        h.factors(q0 + i, own, [&](int j, V f) { store(row + j * VL, load<V>(row + j * VL) * f); });
    }
    multiply<V, false>({p.p, p.row, p.column}, h.rows(v, d.keys, d.value_width),
                       h.rows(y, d.queries, d.value_width, q0), n, d.value_width, keys, 1);
  }
}

// work: three matrices of kQueries x keys: probabilities, after dropout, and their gradients.
template <int L>
void backward_head(const Head<L>& h, const real* q, const real* k, const real* v, const real* y,
                   const real* normalizer, const real* dy, real* dq, real* dk, real* dv,
                   real* work) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  const FeAttention& d = h.d;
  const int64_t wide = (int64_t)d.keys * VL;
  const Out p{work, wide, VL}, dropped{d.p > 0 ? work + kQueries * wide : work, wide, VL};
  const Out ds{work + 2 * kQueries * wide, wide, VL};
  const auto in = [](Out m) { return In{m.p, m.row, m.column}; };
  const Out to_k = h.rows(dk, d.keys, d.width), to_v = h.rows(dv, d.keys, d.value_width);
  for (int j = 0; j < d.keys; j++) {
    for (int c = 0; c < d.width; c++) store(to_k.p + j * to_k.row + c * L, V{});
    for (int c = 0; c < d.value_width; c++) store(to_v.p + j * to_v.row + c * L, V{});
  }
  for (int q0 = 0; q0 < d.queries; q0 += kQueries) {
    const int n = std::min(kQueries, d.queries - q0), keys = h.seen(q0, n);
    const In own_q = h.rows(q, d.queries, d.width, q0);
    const In own_dy = h.rows(dy, d.queries, d.value_width, q0);
    const In own_y = h.rows(y, d.queries, d.value_width, q0);
    multiply<V, false>(own_q, h.rows(k, d.keys, d.width).turned(), p, n, keys, d.width,
                       (real)d.scale);
    multiply<V, false>(own_dy, h.rows(v, d.keys, d.value_width).turned(), ds, n, keys,
                       d.value_width, 1);
    for (int i = 0; i < n; i++) {
      real *row = p.p + i * wide, *less = dropped.p + i * wide, *slope = ds.p + i * wide;
      const int own = d.causal ? std::min(keys, q0 + i + 1) : keys;
      const V log_total = load<V>(h.rows(normalizer, d.queries, 1, q0 + i).p);
      V along = {};
      for (int c = 0; c < d.value_width; c++)
        along += load<V>(own_dy.p + i * own_dy.row + c * L) * load<V>(own_y.p + i * own_y.row + c * L);
      for (int j = 0; j < own; j++)
        store(row + j * VL, exponential(load<V>(row + j * VL) - log_total));
      if (d.p > 0)
        h.factors(q0 + i, own, [&](int j, V f) {
          store(less + j * VL, load<V>(row + j * VL) * f);
          store(slope + j * VL, load<V>(slope + j * VL) * f);
        });
      for (int j = 0; j < own; j++)
        store(slope + j * VL, load<V>(row + j * VL) * (load<V>(slope + j * VL) - along));
      for (int j = own; j < keys; j++) {
        store(slope + j * VL, V{});
        store(less + j * VL, V{});
      }
    }
    multiply<V, false>(in(ds), h.rows(k, d.keys, d.width), h.rows(dq, d.queries, d.width, q0), n,
                       d.width, keys, (real)d.scale);
    multiply<V, true>(in(ds).turned(), own_q, to_k, keys, d.width, n, (real)d.scale);
    multiply<V, true>(in(dropped).turned(), own_dy, to_v, keys, d.value_width, n, 1);
  }
}

bool sound(const FeAttention& d) {
  return d.blocks > 0 && d.heads > 0 && d.queries > 0 && d.keys > 0 && d.width > 0 &&
         d.value_width > 0 && d.p >= 0 && d.p < 1 &&
         (int64_t)d.blocks * d.heads * (d.lanes / 4) <= INT32_MAX && d.keys <= 1 << 20;
}

// body(head, work) for every head and vector of lanes; work: `matrices` of kQueries x keys.
template <int L, class F>
int each_head(const FeAttention& d, int matrices, F body) {
  constexpr int NV = Lanes<L>::NV;
  std::atomic<bool> short_of_memory{false};
  parallel_for(d.blocks * d.heads * NV, d.threads, [&](int task) {
    // Each thread's own work space.
    real* work = scratch<real>(kPadded, (size_t)matrices * kQueries * d.keys * Lanes<L>::VL);
    if (!work) short_of_memory = true;
    else body(Head<L>(d, task / NV, task % NV), work);
  });
  return short_of_memory ? FE_NO_MEMORY : FE_OK;
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_attention_forward(const FeAttention* d, const real* q, const real* k, const real* v,
                         real* y, real* normalizer) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, return each_head<L>(*d, 1, [&](const Head<L>& head, real* work) {
    forward_head(head, q, k, v, y, normalizer, work);
  }))
  return FE_OK;
}

int fe_attention_backward(const FeAttention* d, const real* q, const real* k, const real* v,
                          const real* y, const real* normalizer, const real* dy, real* dq,
                          real* dk, real* dv) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, return each_head<L>(*d, 3, [&](const Head<L>& head, real* work) {
    backward_head(head, q, k, v, y, normalizer, dy, dq, dk, dv, work);
  }))
  return FE_OK;
}

}  // extern "C"
