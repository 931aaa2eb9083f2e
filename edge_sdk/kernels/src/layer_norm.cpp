// Layer norm: each row of each sample has its own mean and variance.
#include <cmath>

#include "fe_sequence.h"
#include "lanes.h"
#include "support.h"

namespace fe {
namespace {

// 1 / sqrt(var + eps) in every lane: padded ones hold the last sample again.
template <int L>
void inverse(const FeLayerNorm& d, const real* variance, real* istd) {
  for (int l = 0; l < L; l++) istd[l] = (real)(1 / std::sqrt((double)variance[l] + d.eps));
}

template <int L>
void forward(const FeLayerNorm& d, const real* x, const real* gamma, const real* beta, real* y,
             real* mean, real* istd) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const real share = (real)(1.0 / d.width);
  parallel_for(d.blocks * d.rows, d.threads, [&](int row) {
    const real* from = x + (int64_t)row * d.width * L;
    real *to = y + (int64_t)row * d.width * L, *m = mean + (int64_t)row * L;
    alignas(64) real variance[L];
    for (int v = 0; v < NV; v++) {
      V sum = {}, squares = {};
      for (int i = 0; i < d.width; i++) sum += load<V>(from + i * L + v * VL);
      const V mu = sum * share;
      for (int i = 0; i < d.width; i++) {
        const V c = load<V>(from + i * L + v * VL) - mu;
        squares += c * c;
      }
      store(m + v * VL, mu);
      store(variance + v * VL, squares * share);
    }
    real* inv = istd + (int64_t)row * L;
    inverse<L>(d, variance, inv);
    for (int i = 0; i < d.width; i++) FE_UNROLL for (int v = 0; v < NV; v++) {
        V t = (load<V>(from + i * L + v * VL) - load<V>(m + v * VL)) * load<V>(inv + v * VL);
        if (gamma) t = t * splat<V>(gamma[i]);
        if (beta) t = t + splat<V>(beta[i]);
        store(to + i * L + v * VL, t);
      }
  });
}

template <int L>
void backward_input(const FeLayerNorm& d, const real* x, const real* dy, const real* gamma,
                    const real* mean, const real* istd, real* dx) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const real share = (real)(1.0 / d.width);
  parallel_for(d.blocks * d.rows, d.threads, [&](int row) {
    const int64_t start = (int64_t)row * d.width * L;
    for (int v = 0; v < NV; v++) {
      const V mu = load<V>(mean + (int64_t)row * L + v * VL);
      const V inv = load<V>(istd + (int64_t)row * L + v * VL);
      V plain = {}, along = {};
      for (int i = 0; i < d.width; i++) {
        const int64_t at = start + i * L + v * VL;
        const V g = load<V>(dy + at) * splat<V>(gamma ? gamma[i] : real(1));
        plain += g;
        along += g * ((load<V>(x + at) - mu) * inv);
      }
      plain *= share;
      along *= share;
      for (int i = 0; i < d.width; i++) {
        const int64_t at = start + i * L + v * VL;
        const V g = load<V>(dy + at) * splat<V>(gamma ? gamma[i] : real(1));
        store(dx + at, inv * (g - plain - (load<V>(x + at) - mu) * inv * along));
      }
    }
  });
}

// Each block's sum in `real`, blocks added in their order.
template <int L>
void backward_affine(const FeLayerNorm& d, const real* x, const real* dy, const real* mean,
                     const real* istd, real* dgamma, real* dbeta) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV, kTogether = 4;
  const int parts = (d.width + kTogether - 1) / kTogether;
  parallel_for(parts, d.threads, [&](int part) {
    const int i0 = part * kTogether, n = std::min(kTogether, d.width - i0);
    for (int block = 0; block < d.blocks; block++) {
      V normal[kTogether] = {}, plain[kTogether] = {};
      for (int r = 0; r < d.rows; r++) for (int v = 0; v < NV; v++) {
          const int64_t row = (int64_t)block * d.rows + r;
          const V mu = load<V>(mean + row * L + v * VL), inv = load<V>(istd + row * L + v * VL);
          for (int i = 0; i < n; i++) {
            const int64_t at = (row * d.width + i0 + i) * L + v * VL;
            const V g = load<V>(dy + at);
            plain[i] += g;
            normal[i] += g * ((load<V>(x + at) - mu) * inv);
          }
        }
      const bool add = block > 0 || d.accumulate;
      for (int i = 0; i < n; i++) {
        if (dgamma) dgamma[i0 + i] = (add ? dgamma[i0 + i] : 0) + sum(normal[i]);
        if (dbeta) dbeta[i0 + i] = (add ? dbeta[i0 + i] : 0) + sum(plain[i]);
      }
    }
  });
}

bool sound(const FeLayerNorm& d) {
  return d.samples > 0 && d.lanes > 0 && d.blocks == (d.samples + (int64_t)d.lanes - 1) / d.lanes &&
         d.rows > 0 && d.width > 0 && d.eps >= 0 && (int64_t)d.blocks * d.rows <= INT32_MAX;
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_layer_norm_forward(const FeLayerNorm* d, const real* x, const real* gamma,
                          const real* beta, real* y, real* mean, real* istd) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, forward<L>(*d, x, gamma, beta, y, mean, istd))
  return FE_OK;
}

int fe_layer_norm_backward(const FeLayerNorm* d, const real* x, const real* dy, const real* gamma,
                           const real* mean, const real* istd, real* dx, real* dgamma,
                           real* dbeta) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  if (dx) FE_FOR_LANES(d->lanes, backward_input<L>(*d, x, dy, gamma, mean, istd, dx))
  if (dgamma || dbeta)
    FE_FOR_LANES(d->lanes, backward_affine<L>(*d, x, dy, mean, istd, dgamma, dbeta))
  return FE_OK;
}

}  // extern "C"
