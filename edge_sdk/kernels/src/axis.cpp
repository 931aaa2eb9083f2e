// Softmax and sums along one axis, and copies between strided tensors.
#include <cstring>

#include "fe_math.h"
#include "fe_sequence.h"
#include "support.h"
#include "walk.h"

namespace fe {
namespace {

// body(x, v) for every line along the axis: where its vector v begins.
template <int L, class F>
void lines(const FeAxis& d, F body) {
  const int64_t across = d.outer * d.inner;
  const int parts = pieces(across, d.threads);
  parallel_for(d.blocks * parts, d.threads, [&](int task) {
    const int block = task / parts, part = task % parts;
    for (int64_t i = split64(across, part, parts); i < split64(across, part + 1, parts); i++) {
      const int64_t line = (block * d.outer + i / d.inner) * d.count * d.inner + i % d.inner;
      for (int v = 0; v < Lanes<L>::NV; v++)
        body(line * L + v * Lanes<L>::VL, ((int64_t)block * across + i) * L + v * Lanes<L>::VL);
    }
  });
}

template <int L>
void softmax(const FeAxis& d, const real* x, real* y) {
  typedef typename Lanes<L>::V V;
  const int64_t step = d.inner * L;
  lines<L>(d, [&](int64_t at, int64_t) {
    V most = load<V>(x + at), total = {};
    for (int64_t i = 1; i < d.count; i++) {
      const V t = load<V>(x + at + i * step);
      most = t > most ? t : most;
    }
    for (int64_t i = 0; i < d.count; i++) {
      const V t = load<V>(x + at + i * step) - most, e = exponential(t);
      total += e;
      store(y + at + i * step, d.logarithm ? t : e);
    }
    const V last = d.logarithm ? logarithm(total) : constant<V>(1) / total;
    for (int64_t i = 0; i < d.count; i++) {
      const V t = load<V>(y + at + i * step);
      store(y + at + i * step, d.logarithm ? t - last : t * last);
    }
  });
}

template <int L>
void softmax_gradient(const FeAxis& d, const real* y, const real* dy, real* dx) {
  typedef typename Lanes<L>::V V;
  const int64_t step = d.inner * L;
  lines<L>(d, [&](int64_t at, int64_t) {
    V total = {};
    for (int64_t i = 0; i < d.count; i++) {
      const V g = load<V>(dy + at + i * step);
      total += d.logarithm ? g : g * load<V>(y + at + i * step);
    }
    for (int64_t i = 0; i < d.count; i++) {
      const V g = load<V>(dy + at + i * step), value = load<V>(y + at + i * step);
      store(dx + at + i * step,
            d.logarithm ? g - exponential(value) * total : value * (g - total));
    }
  });
}

template <int L>
void sum_axis(const FeAxis& d, const real* x, real* y) {
  typedef typename Lanes<L>::V V;
  const int64_t step = d.inner * L;
  lines<L>(d, [&](int64_t at, int64_t to) {
    V total = {};
    for (int64_t i = 0; i < d.count; i++) total += load<V>(x + at + i * step);
    store(y + to, total * splat<V>((real)d.factor));
  });
}

template <int L>
void sum_gradient(const FeAxis& d, const real* dy, real* dx) {
  typedef typename Lanes<L>::V V;
  const int64_t step = d.inner * L;
  lines<L>(d, [&](int64_t at, int64_t from) {
    const V g = load<V>(dy + from) * splat<V>((real)d.factor);
    for (int64_t i = 0; i < d.count; i++) store(dx + at + i * step, g);
  });
}

bool sound(const FeAxis& d) {
  int64_t n;
  return d.blocks > 0 && d.outer > 0 && d.count > 0 && d.inner > 0 &&
         !__builtin_mul_overflow(d.outer, d.count, &n) && !__builtin_mul_overflow(n, d.inner, &n) &&
         n <= INT64_MAX / 64 / d.blocks;
}

template <int L>
void copy(const FeCopy& d, const real* from, real* to) {
  Walk<2> walk;
  for (int i = 0; i < d.dims; i++) walk.add(d.shape[i], {d.stride[0][i], d.stride[1][i]});
  const int64_t count = walk.count(), s0 = walk.last(0), s1 = walk.last(1);
  const int parts = pieces(count, d.threads);
  parallel_for(d.blocks * parts, d.threads, [&](int task) {
    const int block = task / parts, part = task % parts;
    const real* p = from + (block * d.elements[0] + d.offset[0]) * L;
    real* q = to + (block * d.elements[1] + d.offset[1]) * L;
    walk.rows(split64(count, part, parts), split64(count, part + 1, parts),
              [&](const int64_t* at, int64_t n) {
      const real* a = p + at[0] * L;
      real* b = q + at[1] * L;
      if (n == 1 || (s0 == 1 && s1 == 1)) std::memcpy(b, a, sizeof(real) * (size_t)n * L);
      else
        for (int64_t i = 0; i < n; i++)
          std::memcpy(b + i * s1 * L, a + i * s0 * L, sizeof(real) * L);
    });
  });
}

// Both ends of every walk are in their tensor.
bool sound(const FeCopy& d) {
  if (d.blocks < 1 || d.dims < 0 || d.dims > FE_COPY_DIMS) return false;
  for (int t = 0; t < 2; t++) {
    int64_t low = d.offset[t], high = d.offset[t], reach;
    for (int i = 0; i < d.dims; i++) {
      if (d.shape[i] < 1 || __builtin_mul_overflow(d.stride[t][i], d.shape[i] - 1, &reach))
        return false;
      int64_t& end = reach < 0 ? low : high;
      if (__builtin_add_overflow(end, reach, &end)) return false;
    }
    if (low < 0 || high >= d.elements[t]) return false;
    if (d.elements[t] > INT64_MAX / 64 / d.blocks) return false;
  }
  return true;
}

}  // namespace
}  // namespace fe

using fe::real;

#define FE_RUN(CALL)                          \
  if (!fe::sound(*d)) return FE_BAD_ARGUMENT; \
  FE_FOR_LANES(d->lanes, CALL)                \
  return FE_OK

extern "C" {

int fe_softmax_forward(const FeAxis* d, const real* x, real* y) {
  FE_RUN(fe::softmax<L>(*d, x, y));
}
int fe_softmax_backward(const FeAxis* d, const real* y, const real* dy, real* dx) {
  FE_RUN(fe::softmax_gradient<L>(*d, y, dy, dx));
}
int fe_sum_forward(const FeAxis* d, const real* x, real* y) {
  FE_RUN(fe::sum_axis<L>(*d, x, y));
}
int fe_sum_backward(const FeAxis* d, const real* dy, real* dx) {
  FE_RUN(fe::sum_gradient<L>(*d, dy, dx));
}
int fe_copy(const FeCopy* d, const real* from, real* to) { FE_RUN(fe::copy<L>(*d, from, to)); }

int fe_fill(int64_t count, double value, real* to) {
  if (count < 0) return FE_BAD_ARGUMENT;
  std::fill_n(to, count, (real)value);
  return FE_OK;
}

}  // extern "C"
