// Attention: some queries of one head at a time, every product a small matrix product of
// lane vectors. The backward pass makes the probabilities again from the normalizer.
//
// A product reads its right side once for each tile of rows. In a tensor, a head's rows are
// whole pages apart, in the same sets of the first-level cache, and half of a cache line is
// another vector of the pixel's lanes: so each head's matrices are copied together first.
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

// From one row to the next of a copy, in reals: an odd number of cache lines, so that rows
// share no sets of a cache.
inline int64_t copied_row(int columns, int vector) {
  constexpr int kLine = 64 / sizeof(real);
  return (((int64_t)columns * vector + kLine - 1) / kLine | 1) * kLine;
}
template <class V>
In copied(In from, int rows, int columns, real* to) {
  constexpr int VL = sizeof(V) / sizeof(real);
  const int64_t row = copied_row(columns, VL);
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < columns; j++)
      store(to + i * row + j * VL, load<V>(from.p + i * from.row + j * from.column));
  return {to, row, VL};
}
template <class V>
void copy_out(Out from, int rows, int columns, Out to) {
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < columns; j++)
      store(to.p + i * to.row + j * to.column, load<V>(from.p + i * from.row + j * from.column));
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
      const int left_over = columns - j;
      const int wide = left_over >= 3 && left_over != 4 ? 3 : left_over == 1 ? 1 : 2;
      if (four && wide == 3) tile<V, 4, 3, Add>(left, right, to, depth, factor);
      else if (four && wide == 2) tile<V, 4, 2, Add>(left, right, to, depth, factor);
      else if (four) tile<V, 4, 1, Add>(left, right, to, depth, factor);
      else if (wide == 3) tile<V, 1, 3, Add>(left, right, to, depth, factor);
      else if (wide == 2) tile<V, 1, 2, Add>(left, right, to, depth, factor);
      else tile<V, 1, 1, Add>(left, right, to, depth, factor);
      j += wide;
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

// Where a head's copies lie in a thread's work space, and matrices of kQueries x keys:
// probabilities, the same after dropout, and their gradients.
template <int L>
struct Work {
  static constexpr int VL = Lanes<L>::VL;
  int64_t k, v, q, p, forward, dk, dv, dy, dropped, ds, backward;  // reals from the start

  explicit Work(const FeAttention& d) {
    const int64_t wide = copied_row(d.width, VL), values = copied_row(d.value_width, VL);
    const int64_t rows = kQueries * copied_row(d.keys, VL);
    k = 0;
    v = k + d.keys * wide;
    q = v + d.keys * values;
    p = q + kQueries * wide;
    forward = dk = p + rows;  // what the forward pass takes
    dv = dk + d.keys * wide;
    dy = dv + d.keys * values;
    ds = dy + kQueries * values;
    dropped = d.p > 0 ? ds + rows : p;
    backward = ds + (d.p > 0 ? 2 : 1) * rows;
  }
};

template <int L>
void forward_head(const Head<L>& h, const real* q, const real* k, const real* v, real* y,
                  real* normalizer, real* work) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  const FeAttention& d = h.d;
  const Work<L> at(d);
  const In own_k = copied<V>(h.rows(k, d.keys, d.width), d.keys, d.width, work + at.k);
  const In own_v = copied<V>(h.rows(v, d.keys, d.value_width), d.keys, d.value_width, work + at.v);
  for (int q0 = 0; q0 < d.queries; q0 += kQueries) {
    const int n = std::min(kQueries, d.queries - q0), keys = h.seen(q0, n);
    const Out p{work + at.p, copied_row(d.keys, VL), VL};
    const In own_q = copied<V>(h.rows(q, d.queries, d.width, q0), n, d.width, work + at.q);
    multiply<V, false>(own_q, own_k.turned(), p, n, keys, d.width, (real)d.scale);
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
    multiply<V, false>({p.p, p.row, p.column}, own_v,
                       h.rows(y, d.queries, d.value_width, q0), n, d.value_width, keys, 1);
  }
}

template <int L>
void backward_head(const Head<L>& h, const real* q, const real* k, const real* v, const real* y,
                   const real* normalizer, const real* dy, real* dq, real* dk, real* dv,
                   real* work) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  const FeAttention& d = h.d;
  const Work<L> at(d);
  const int64_t wide = copied_row(d.keys, VL);
  const Out p{work + at.p, wide, VL}, dropped{work + at.dropped, wide, VL};
  const Out ds{work + at.ds, wide, VL};
  const auto in = [](Out m) { return In{m.p, m.row, m.column}; };
  const In own_k = copied<V>(h.rows(k, d.keys, d.width), d.keys, d.width, work + at.k);
  const In own_v = copied<V>(h.rows(v, d.keys, d.value_width), d.keys, d.value_width, work + at.v);
  const Out to_k{work + at.dk, own_k.row, VL}, to_v{work + at.dv, own_v.row, VL};
  std::fill_n(to_k.p, d.keys * to_k.row, real(0));
  std::fill_n(to_v.p, d.keys * to_v.row, real(0));
  for (int q0 = 0; q0 < d.queries; q0 += kQueries) {
    const int n = std::min(kQueries, d.queries - q0), keys = h.seen(q0, n);
    const In own_q = copied<V>(h.rows(q, d.queries, d.width, q0), n, d.width, work + at.q);
    const In own_dy = copied<V>(h.rows(dy, d.queries, d.value_width, q0), n, d.value_width, work + at.dy);
    const In own_y = h.rows(y, d.queries, d.value_width, q0);
    multiply<V, false>(own_q, own_k.turned(), p, n, keys, d.width, (real)d.scale);
    multiply<V, false>(own_dy, own_v.turned(), ds, n, keys, d.value_width, 1);
    for (int i = 0; i < n; i++) {
      real *row = p.p + i * wide, *less = dropped.p + i * wide, *slope = ds.p + i * wide;
      const int own = d.causal ? std::min(keys, q0 + i + 1) : keys;
      const V log_total = load<V>(h.rows(normalizer, d.queries, 1, q0 + i).p);
      V along = {};
      for (int c = 0; c < d.value_width; c++)
        along += load<V>(own_dy.p + i * own_dy.row + c * VL) * load<V>(own_y.p + i * own_y.row + c * L);
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
    multiply<V, false>(in(ds), own_k, h.rows(dq, d.queries, d.width, q0), n, d.width, keys,
                       (real)d.scale);
    multiply<V, true>(in(ds).turned(), own_q, to_k, keys, d.width, n, (real)d.scale);
    multiply<V, true>(in(dropped).turned(), own_dy, to_v, keys, d.value_width, n, 1);
  }
  copy_out<V>(to_k, d.keys, d.width, h.rows(dk, d.keys, d.width));
  copy_out<V>(to_v, d.keys, d.value_width, h.rows(dv, d.keys, d.value_width));
}

bool sound(const FeAttention& d) {
  return d.blocks > 0 && d.heads > 0 && d.queries > 0 && d.keys > 0 && d.width > 0 &&
         d.value_width > 0 && d.p >= 0 && d.p < 1 &&
         (int64_t)d.blocks * d.heads * (d.lanes / 4) <= INT32_MAX && d.keys <= 1 << 20;
}

// body(head, work) for every head and vector of lanes, with work space of one pass.
template <int L, class F>
int each_head(const FeAttention& d, bool backward, F body) {
  constexpr int NV = Lanes<L>::NV;
  const Work<L> at(d);
  const size_t reals = backward ? at.backward : at.forward;
  std::atomic<bool> short_of_memory{false};
  parallel_for(d.blocks * d.heads * NV, d.threads, [&](int task) {
    // Each thread's own work space.
    real* work = scratch<real>(kPadded, reals);
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
  FE_FOR_LANES(d->lanes, return each_head<L>(*d, false, [&](const Head<L>& head, real* work) {
    forward_head(head, q, k, v, y, normalizer, work);
  }))
  return FE_OK;
}

int fe_attention_backward(const FeAttention* d, const real* q, const real* k, const real* v,
                          const real* y, const real* normalizer, const real* dy, real* dq,
                          real* dk, real* dv) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, return each_head<L>(*d, true, [&](const Head<L>& head, real* work) {
    backward_head(head, q, k, v, y, normalizer, dy, dq, dk, dv, work);
  }))
  return FE_OK;
}

}  // extern "C"
