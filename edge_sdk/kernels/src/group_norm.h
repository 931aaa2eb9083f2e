// Group norm: every sample (lane) has its own statistics over the group's channels.
#pragma once
#include <cmath>

#include "channel_norm.h"

namespace fe {

template <int L>
void prepare_group(const FeNorm& n, const real* x, const real* gamma, const real* beta, real* mean,
                   real* istd, real* scale, real* shift) {
  const int width = n.channels / n.groups;
  const int64_t values = (int64_t)width * n.pixels;
  parallel_for(n.blocks * n.groups, n.threads, [&](int bg) {
    const int b = bg / n.groups, c0 = bg % n.groups * width;
    const real* p = x + ((int64_t)b * n.channels + c0) * n.pixels * L;
    double s[L] = {}, q[L] = {};
    for (int64_t i0 = 0; i0 < values; i0 += kChunk / L) {
      const int64_t i1 = std::min(values, i0 + kChunk / L);
      real fs[L] = {}, fq[L] = {};
      for (int64_t i = i0; i < i1; i++)
        for (int l = 0; l < L; l++) {
          const real d = p[i * L + l] - p[l];
          fs[l] += d;
          fq[l] += d * d;
        }
      for (int l = 0; l < L; l++) {
        s[l] += fs[l];
        q[l] += fq[l];
      }
    }
    for (int c = c0; c < c0 + width; c++) {
      real k[L], o[L];
      for (int l = 0; l < L; l++) {
        const double m = s[l] / values, var = q[l] / values - m * m;
        const double inverse = 1.0 / std::sqrt((var < 0 ? 0 : var) + n.eps);
        mean[(int64_t)bg * L + l] = (real)(m + p[l]);
        istd[(int64_t)bg * L + l] = (real)inverse;
        const double a = (gamma ? gamma[c] : 1.0) * inverse;
        k[l] = (real)a;
        o[l] = (real)((beta ? beta[c] : 0.0) - (m + p[l]) * a);
      }
      const int64_t at = ((int64_t)b * n.channels + c) * L;
      for (int l = 0; l < L; l++) {
        scale[at + l] = k[l];
        shift[at + l] = o[l];
      }
    }
  });
}

template <int L, class Gate>
void backward_group(const FeNorm& n, const real* x, Gate gate, const real* dy,
                    const real* gamma, const real* mean, const real* istd, real* dx,
                    real* dresidual, double* channel_sums) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const int width = n.channels / n.groups;
  const double values = (double)width * n.pixels;
  parallel_for(n.blocks * n.groups, n.threads, [&](int bg) {
    const int b = bg / n.groups, c0 = bg % n.groups * width;
    const int valid = std::min(n.lanes, n.samples - b * n.lanes);
    alignas(64) double s1[L] = {}, s2[L] = {};
    V mu[NV], is[NV];
    FE_UNROLL for (int v = 0; v < NV; v++) {
      mu[v] = load<V>(mean + (int64_t)bg * L + v * VL);
      is[v] = load<V>(istd + (int64_t)bg * L + v * VL);
    }
    for (int c = c0; c < c0 + width; c++) {
      const int64_t at = ((int64_t)b * n.channels + c) * n.pixels * L;
      double ds[L] = {}, dq[L] = {};
      for (int64_t p0 = 0; p0 < n.pixels; p0 += kChunk / L) {
        V s[NV] = {}, q[NV] = {};
        for (int64_t p = p0; p < std::min((int64_t)n.pixels, p0 + kChunk / L); p++)
          FE_UNROLL for (int v = 0; v < NV; v++) {
            const int64_t i = at + p * L + v * VL;
            const V xi = load<V>(x + i), g = gate(i, xi, load<V>(dy + i));
            s[v] += g;
            q[v] += g * ((xi - mu[v]) * is[v]);
          }
        for (int l = 0; l < L; l++) {
          ds[l] += s[l / VL][l % VL];
          dq[l] += q[l / VL][l % VL];
        }
      }
      double* sums = channel_sums + ((int64_t)b * n.channels + c) * 2;
      sums[0] = sums[1] = 0;
      for (int l = 0; l < valid; l++) {
        sums[0] += ds[l];
        sums[1] += dq[l];
        s1[l] += (gamma ? gamma[c] : 1.0) * ds[l] / values;
        s2[l] += (gamma ? gamma[c] : 1.0) * dq[l] / values;
      }
    }
    const LaneMask<L> mask(valid);
    alignas(64) real r1[L], r2[L];
    for (int l = 0; l < L; l++) {
      r1[l] = (real)s1[l];
      r2[l] = (real)s2[l];
    }
    for (int c = c0; c < c0 + width; c++) {
      const V k = splat<V>(gamma ? gamma[c] : real(1));
      const int64_t at = ((int64_t)b * n.channels + c) * n.pixels * L;
      for (int64_t p = 0; p < n.pixels; p++) FE_UNROLL for (int v = 0; v < NV; v++) {
          const int64_t i = at + p * L + v * VL;
          const V xi = load<V>(x + i), g = gate(i, xi, load<V>(dy + i));
          if (dresidual) store(dresidual + i, g);
          const V normal = (xi - mu[v]) * is[v];
          const V d = is[v] * (k * g - load<V>(r1 + v * VL) - normal * load<V>(r2 + v * VL));
          store(dx + i, mask.keep(v, d));
        }
    }
  });
}

// The same, and the gradients of gamma and beta in one order.
template <int L, class Gate>
int group_backward(const FeNorm& n, const real* x, Gate gate, const real* dy, const real* gamma,
                   const real* mean, const real* istd, real* dx, real* dresidual, real* dgamma,
                   real* dbeta) {
  double* sums = scratch<double>(kSums, (size_t)2 * n.blocks * n.channels);
  if (!sums) return FE_NO_MEMORY;
  backward_group<L>(n, x, gate, dy, gamma, mean, istd, dx, dresidual, sums);
  for (int c = 0; c < n.channels; c++) {
    double db = 0, dg = 0;
    for (int b = 0; b < n.blocks; b++) {
      db += sums[((int64_t)b * n.channels + c) * 2];
      dg += sums[((int64_t)b * n.channels + c) * 2 + 1];
    }
    if (dbeta) dbeta[c] = (real)db;
    if (dgamma) dgamma[c] = (real)dg;
  }
  return FE_OK;
}

}  // namespace fe
