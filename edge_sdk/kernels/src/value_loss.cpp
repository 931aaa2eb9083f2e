// Losses of each value by itself: squared, absolute, smooth L1, Huber, binary cross-entropy.
#include "fe_loss.h"
#include "fe_math.h"
#include "loss_sum.h"

namespace fe {
namespace {

// term(x, target, delta, weight) and its derivative by x.
template <int Kind>
struct ValueLoss {
  template <class V>
  static FE_INLINE V term(V x, V y, real delta, real weight) {
    const V d = x - y, a = absolute(d), half = constant<V>(0.5), at = splat<V>(delta);
    if (Kind == FE_SQUARED_ERROR) return d * d;
    if (Kind == FE_ABSOLUTE_ERROR) return a;
    if (Kind == FE_SMOOTH_L1) return a < at ? half * d * d / at : a - half * at;
    if (Kind == FE_HUBER) return a <= at ? half * d * d : at * (a - half * at);
    const V one = constant<V>(1), w = one + splat<V>(weight - 1) * y;
    const V below = x < V{} ? -x : V{};
    return (one - y) * x + w * (log_of_one_plus(exponential(-absolute(x))) + below);
  }
  template <class V>
  static FE_INLINE V slope(V x, V y, real delta, real weight) {
    const V d = x - y, one = constant<V>(1), at = splat<V>(delta);
    const V sign = d == V{} ? V{} : with_sign_of(one, d);
    if (Kind == FE_SQUARED_ERROR) return d + d;
    if (Kind == FE_ABSOLUTE_ERROR) return sign;
    if (Kind == FE_SMOOTH_L1) return absolute(d) < at ? d / at : sign;
    if (Kind == FE_HUBER) return absolute(d) <= at ? d : at * sign;
    const V positive = splat<V>(weight) * y;
    return (one + splat<V>(weight - 1) * y) * sigmoid(x) - positive;
  }
};

template <int L, int Kind>
int forward(const FeValueLoss& d, const real* x, const real* target, const real* weight,
            double* total, int32_t* sample) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  constexpr int64_t kChunk = 64;  // terms summed in `real` before they go on in double
  const auto terms = [&](int block, double* sums) {
    const int64_t start = (int64_t)block * d.count;
    for (int64_t i0 = 0; i0 < d.count; i0 += kChunk) {
      V part[NV] = {};
      for (int64_t i = i0; i < std::min(d.count, i0 + kChunk); i++)
        FE_UNROLL for (int v = 0; v < NV; v++) {
          const int64_t at = (start + i) * L + v * VL;
          part[v] += ValueLoss<Kind>::term(load<V>(x + at), load<V>(target + at), (real)d.delta,
                                           weight ? weight[i] : real(1));
        }
      for (int l = 0; l < L; l++) sums[l] += part[l / VL][l % VL];
    }
    return true;
  };
  return sum_of_samples(d.samples, L, d.blocks, d.threads, total, sample, terms);
}

template <int L, int Kind>
int backward(const FeValueLoss& d, const real* x, const real* target, const real* weight,
             double scale, real* dx) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  parallel_for(d.blocks, d.threads, [&](int block) {
    alignas(64) real factor[L];
    for (int l = 0; l < L; l++)
      factor[l] = l < valid_in_block(d.samples, L, block) ? (real)scale : real(0);
    for (int64_t i = 0; i < d.count; i++) FE_UNROLL for (int v = 0; v < NV; v++) {
        const int64_t at = (block * d.count + i) * L + v * VL;
        const V f = load<V>(factor + v * VL);
        const V slope = ValueLoss<Kind>::slope(load<V>(x + at), load<V>(target + at),
                                               (real)d.delta, weight ? weight[i] : real(1));
        store(dx + at, f == V{} ? V{} : f * slope);
      }
  });
  return FE_OK;
}

template <int L, int Kind = 0, class F>
int with_kind(int kind, F f) {
  if constexpr (Kind == FE_VALUE_LOSSES) return FE_BAD_ARGUMENT;
  else return kind == Kind ? f(std::integral_constant<int, Kind>{}) : with_kind<L, Kind + 1>(kind, f);
}

bool sound(const FeValueLoss& d) {
  const bool bent = d.kind == FE_SMOOTH_L1 || d.kind == FE_HUBER;
  return d.samples > 0 && d.lanes > 0 && d.blocks == (d.samples + (int64_t)d.lanes - 1) / d.lanes &&
         d.count > 0 && (!bent || d.delta > 0);
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_value_loss_forward(const FeValueLoss* d, const real* x, const real* target,
                          const real* positive_weight, double* total, int32_t* sample) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, return with_kind<L>(d->kind, [&](auto kind) {
    return forward<L, decltype(kind)::value>(*d, x, target, positive_weight, total, sample);
  }))
  return FE_OK;
}

int fe_value_loss_backward(const FeValueLoss* d, const real* x, const real* target,
                           const real* positive_weight, double scale, real* dx) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, return with_kind<L>(d->kind, [&](auto kind) {
    return backward<L, decltype(kind)::value>(*d, x, target, positive_weight, scale, dx);
  }))
  return FE_OK;
}

}  // extern "C"
