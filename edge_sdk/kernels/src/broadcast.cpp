// Sums, differences and products of two tensors, either of which may be broadcast.
#include "fe_elementwise.h"
#include "lanes.h"
#include "support.h"
#include "walk.h"

namespace fe {
namespace {

// A tensor of one block; without lanes, a real stands for a whole lane vector.
struct Operand {
  const real* p;
  bool batched;
  template <int L>
  FE_INLINE typename Lanes<L>::V read(int64_t element, int v) const {
    typedef typename Lanes<L>::V V;
    return batched ? load<V>(p + element * L + v * Lanes<L>::VL) : splat<V>(p[element]);
  }
};

Operand in_block(const FeBinary& d, int which, const real* p, int block, int lanes) {
  const bool batched = d.batched[which] != 0;
  return {p && batched ? p + (int64_t)block * d.elements[which] * lanes : p, batched};
}

template <int L, int Kind>
void forward(const FeBinary& d, const real* a, const real* b, real* y) {
  typedef typename Lanes<L>::V V;
  Walk<2> walk;
  for (int i = 0; i < d.dims; i++) walk.add(d.shape[i], {d.stride[0][i], d.stride[1][i]});
  const int64_t count = walk.count(), sa = walk.last(0), sb = walk.last(1);
  const int parts = pieces(count, d.threads);
  parallel_for(d.blocks * parts, d.threads, [&](int task) {
    const int block = task / parts, part = task % parts;
    const Operand oa = in_block(d, 0, a, block, L), ob = in_block(d, 1, b, block, L);
    const int64_t from = split64(count, part, parts);
    real* to = y + ((int64_t)block * count + from) * L;
    walk.rows(from, split64(count, part + 1, parts), [&](const int64_t* at, int64_t n) {
      for (int64_t i = 0; i < n; i++) FE_UNROLL for (int v = 0; v < Lanes<L>::NV; v++) {
          const V p = oa.read<L>(at[0] + i * sa, v), q = ob.read<L>(at[1] + i * sb, v);
          const V r = Kind == FE_ADD ? p + q : Kind == FE_SUBTRACT ? p - q : p * q;
          store(to + i * L + v * Lanes<L>::VL, r);
        }
      to += n * L;
    });
  });
}

// The gradient of one operand. The walk over its own elements goes outside, the walk over
// what it is broadcast along inside; tensors are own, dy, other.
struct Gradient {
  Walk<3> own, along;
  int64_t outputs = 1;
};

Gradient plan(const FeBinary& d, int which) {
  Gradient g;
  int64_t out[FE_DIMS];
  for (int i = d.dims - 1; i >= 0; i--) {
    out[i] = g.outputs;
    g.outputs *= d.shape[i];
  }
  for (int i = 0; i < d.dims; i++) {
    const int64_t mine = d.stride[which][i];
    (mine ? g.own : g.along).add(d.shape[i], {mine, out[i], d.stride[1 - which][i]});
  }
  return g;
}

// Sums dy (times other) along the broadcast dimensions, for one element of the operand.
template <int L, bool Product>
FE_INLINE void sum_along(const Gradient& g, int64_t inside, const real* dy, const Operand& other,
                         int64_t at_dy, int64_t at_other, typename Lanes<L>::V* total) {
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const auto add = [&](int64_t o, int64_t q) FE_INLINE_LAMBDA {
    FE_UNROLL for (int v = 0; v < NV; v++) {
      const auto value = load<typename Lanes<L>::V>(dy + o * L + v * VL);
      total[v] += Product ? value * other.read<L>(q, v) : value;
    }
  };
  if (inside == 1) return add(at_dy, at_other);
  const int64_t so = g.along.last(1), sq = g.along.last(2);
  g.along.rows(0, inside, [&](const int64_t* at, int64_t n) {
    for (int64_t i = 0; i < n; i++) add(at_dy + at[1] + i * so, at_other + at[2] + i * sq);
  });
}

template <int L, bool Product>
void backward_one(const FeBinary& d, int which, const real* other, const real* dy, real* dx) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const Gradient g = plan(d, which);
  const int64_t count = g.own.count(), inside = g.along.count();
  const bool batched = d.batched[which] != 0, negative = d.kind == FE_SUBTRACT && which == 1;
  const int parts = pieces(count, d.threads), rounds = batched ? 1 : d.blocks;
  const int64_t s0 = g.own.last(0), s1 = g.own.last(1), s2 = g.own.last(2);
  parallel_for(batched ? d.blocks * parts : parts, d.threads, [&](int task) {
    const int part = task % parts;
    // Blocks one after another: a parameter's gradient is the sum of the blocks' in order.
    for (int round = 0; round < rounds; round++) {
      const int block = batched ? task / parts : round;
      const Operand o = in_block(d, 1 - which, other, block, L);
      const real* from = dy + (int64_t)block * g.outputs * L;
      real* to = batched ? dx + (int64_t)block * d.elements[which] * L : dx;
      const bool add = round > 0 || d.accumulate;
      g.own.rows(split64(count, part, parts), split64(count, part + 1, parts),
                 [&](const int64_t* at, int64_t n) {
        for (int64_t i = 0; i < n; i++) {
          V total[NV] = {};
          sum_along<L, Product>(g, inside, from, o, at[1] + i * s1, at[2] + i * s2, total);
          const int64_t mine = at[0] + i * s0;
          if (batched) {
            FE_UNROLL for (int v = 0; v < NV; v++)
              store(to + mine * L + v * VL, negative ? -total[v] : total[v]);
          } else {
            real all = 0;
            FE_UNROLL for (int v = 0; v < NV; v++) all += sum(total[v]);
            all = negative ? -all : all;
            to[mine] = add ? to[mine] + all : all;
          }
        }
      });
    }
  });
}

template <int L>
void backward(const FeBinary& d, const real* a, const real* b, const real* dy, real* da, real* db) {
  const bool product = d.kind == FE_MULTIPLY;
  if (da) (product ? backward_one<L, true> : backward_one<L, false>)(d, 0, b, dy, da);
  if (db) (product ? backward_one<L, true> : backward_one<L, false>)(d, 1, a, dy, db);
}

template <int L>
void forward_kind(const FeBinary& d, const real* a, const real* b, real* y) {
  if (d.kind == FE_ADD) forward<L, FE_ADD>(d, a, b, y);
  else if (d.kind == FE_SUBTRACT) forward<L, FE_SUBTRACT>(d, a, b, y);
  else forward<L, FE_MULTIPLY>(d, a, b, y);
}

// Every stride leads to an element that the operand has.
bool sound(const FeBinary& d) {
  if (d.kind < FE_ADD || d.kind > FE_MULTIPLY || d.blocks < 1) return false;
  if (d.dims < 0 || d.dims > FE_DIMS) return false;
  int64_t last[2] = {0, 0}, outputs = 1;
  for (int i = 0; i < d.dims; i++) {
    if (d.shape[i] < 1 || __builtin_mul_overflow(outputs, d.shape[i], &outputs)) return false;
    for (int t = 0; t < 2; t++) {
      int64_t reach;
      if (d.stride[t][i] < 0) return false;
      if (__builtin_mul_overflow(d.stride[t][i], d.shape[i] - 1, &reach)) return false;
      if (__builtin_add_overflow(last[t], reach, &last[t])) return false;
    }
  }
  return last[0] < d.elements[0] && last[1] < d.elements[1] && outputs <= INT64_MAX / 16 / d.blocks;
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_binary_forward(const FeBinary* d, const real* a, const real* b, real* y) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, forward_kind<L>(*d, a, b, y))
  return FE_OK;
}

int fe_binary_backward(const FeBinary* d, const real* a, const real* b, const real* dy, real* da,
                       real* db) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, backward<L>(*d, a, b, dy, da, db))
  return FE_OK;
}

}  // extern "C"
