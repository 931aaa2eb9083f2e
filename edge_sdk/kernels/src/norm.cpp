// Batch norm and group norm: statistics, the affine map they give, and gradients.
//
// Sums run in chunks of 4,096 values in `real` and across chunks in double, around the
// first value of the channel: one pass, no cancellation. Padded lanes never count.
#include <cmath>
#include <cstring>

#include "fe.h"
#include "lanes.h"
#include "pad.h"
#include "support.h"

namespace fe {
namespace {

constexpr int64_t kChunk = 4096;

int valid_lanes(const FeNorm& n, int block) {
  return std::min(n.lanes, n.samples - block * n.lanes);
}

// 1 in valid lanes of a block, 0 in padded ones.
template <int L>
struct LaneMask {
  typedef typename Lanes<L>::V V;
  alignas(64) real lane[L];
  explicit LaneMask(int valid) {
    for (int l = 0; l < L; l++) lane[l] = l < valid ? 1 : 0;
  }
  // A select, not a product: a padded lane may hold anything, infinities too.
  FE_INLINE V keep(int v, V value) const {
    return load<V>(lane + v * Lanes<L>::VL) > V{} ? value : V{};
  }
};

// sums[0] += sum(x - origin), sums[1] += sum((x - origin)^2) over `pixels` pixels.
template <int L>
void plane_moments(const real* x, real origin, int64_t pixels, int valid, double* sums) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const LaneMask<L> mask(valid);
  const V o = splat<V>(origin);
  for (int64_t p0 = 0; p0 < pixels; p0 += kChunk / L) {
    const int64_t p1 = std::min(pixels, p0 + kChunk / L);
    V s[NV] = {}, q[NV] = {};
    for (int64_t p = p0; p < p1; p++) FE_UNROLL for (int v = 0; v < NV; v++) {
        const V d = load<V>(x + p * L + v * VL) - o;
        s[v] += d;
        q[v] += d * d;
      }
    FE_UNROLL for (int v = 0; v < NV; v++) {
      sums[0] += sum(mask.keep(v, s[v]));
      sums[1] += sum(mask.keep(v, q[v]));
    }
  }
}

struct Moments {
  double mean, var;
};

template <int L>
Moments batch_moments(const FeNorm& n, const real* x, int c) {
  const int64_t plane = (int64_t)n.pixels * L;
  const real origin = x[c * plane];
  double sums[2] = {0, 0};
  for (int b = 0; b < n.blocks; b++)
    plane_moments<L>(x + ((int64_t)b * n.channels + c) * plane, origin, n.pixels,
                     valid_lanes(n, b), sums);
  const double count = (double)n.samples * n.pixels, mean = sums[0] / count;
  const double var = sums[1] / count - mean * mean;
  return {mean + origin, var < 0 ? 0 : var};  // a NaN stays one
}

template <int L>
void fill_affine(const FeNorm& n, int b, int c, const real* scale, const real* shift,
                 bool per_lane, real* scale_out, real* shift_out) {
  const int64_t at = ((int64_t)b * n.channels + c) * L;
  for (int l = 0; l < L; l++) {
    const bool valid = l < valid_lanes(n, b);
    scale_out[at + l] = valid ? scale[per_lane ? l : 0] : 0;
    shift_out[at + l] = valid ? shift[per_lane ? l : 0] : 0;
  }
}

template <int L>
void prepare_batch(const FeNorm& n, const real* x, const real* gamma, const real* beta,
                   real* running_mean, real* running_var, real* mean, real* istd, real* scale,
                   real* shift) {
  parallel_for(n.channels, n.threads, [&](int c) {
    Moments m{};
    if (n.training) {
      m = batch_moments<L>(n, x, c);
      if (running_mean) {
        const double count = (double)n.samples * n.pixels;
        const double unbiased = count > 1 ? m.var * count / (count - 1) : m.var;
        running_mean[c] = (real)((1 - n.momentum) * running_mean[c] + n.momentum * m.mean);
        running_var[c] = (real)((1 - n.momentum) * running_var[c] + n.momentum * unbiased);
      }
    } else {
      m = {running_mean[c], running_var[c]};
    }
    const double inverse = 1.0 / std::sqrt(m.var + n.eps);
    mean[c] = (real)m.mean;
    istd[c] = (real)inverse;
    const double a = (gamma ? gamma[c] : 1.0) * inverse;
    const real k = (real)a, o = (real)((beta ? beta[c] : 0.0) - m.mean * a);
    for (int b = 0; b < n.blocks; b++) fill_affine<L>(n, b, c, &k, &o, false, scale, shift);
  });
}

// Group norm: every sample (lane) has its own statistics over the group's channels.
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
      fill_affine<L>(n, b, c, k, o, true, scale, shift);
    }
  });
}

template <int L>
FE_INLINE typename Lanes<L>::V masked(const real* dy, const real* y, int64_t i) {
  typedef typename Lanes<L>::V V;
  const V g = load<V>(dy + i);
  return y ? relu_gradient(load<V>(y + i), g) : g;
}

// sums[0] += sum(dy), sums[1] += sum(dy * (x - mean))
template <int L>
void gradient_sums(const real* x, const real* y, const real* dy, real mean, int64_t pixels,
                   double* sums) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const V mu = splat<V>(mean);
  for (int64_t p0 = 0; p0 < pixels; p0 += kChunk / L) {
    const int64_t p1 = std::min(pixels, p0 + kChunk / L);
    V s[NV] = {}, q[NV] = {};
    for (int64_t p = p0; p < p1; p++) FE_UNROLL for (int v = 0; v < NV; v++) {
        const int64_t i = p * L + v * VL;
        const V g = masked<L>(dy, y, i);
        s[v] += g;
        q[v] += g * (load<V>(x + i) - mu);
      }
    FE_UNROLL for (int v = 0; v < NV; v++) {
      sums[0] += sum(s[v]);
      sums[1] += sum(q[v]);
    }
  }
}

template <int L>
void backward_batch(const FeNorm& n, const real* x, const real* y, const real* dy,
                    const real* gamma, const real* mean, const real* istd, real* dx,
                    real* dresidual, real* dgamma, real* dbeta) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const int64_t plane = (int64_t)n.pixels * L;
  const double count = (double)n.samples * n.pixels;
  parallel_for(n.channels, n.threads, [&](int c) {
    double sums[2] = {0, 0};
    const auto at = [&](int b) { return ((int64_t)b * n.channels + c) * plane; };
    for (int b = 0; b < n.blocks; b++)
      gradient_sums<L>(x + at(b), y ? y + at(b) : nullptr, dy + at(b), mean[c], n.pixels, sums);
    const double scaled = sums[1] * istd[c];
    if (dgamma) dgamma[c] = (real)scaled;
    if (dbeta) dbeta[c] = (real)sums[0];
    const V k = splat<V>((real)((gamma ? gamma[c] : 1.0) * istd[c])), mu = splat<V>(mean[c]);
    const V c1 = splat<V>(n.training ? (real)(sums[0] / count) : real(0));
    const V c2 = splat<V>(n.training ? (real)(scaled / count * istd[c]) : real(0));
    for (int b = 0; b < n.blocks; b++) {
      const LaneMask<L> mask(valid_lanes(n, b));
      for (int64_t p = 0; p < n.pixels; p++) FE_UNROLL for (int v = 0; v < NV; v++) {
          const int64_t i = at(b) + p * L + v * VL;
          const V g = masked<L>(dy, y, i);
          if (dresidual) store(dresidual + i, g);
          const V d = k * (g - c1 - (load<V>(x + i) - mu) * c2);
          store(dx + i, mask.keep(v, d));
        }
    }
  });
}

template <int L>
void backward_group(const FeNorm& n, const real* x, const real* y, const real* dy,
                    const real* gamma, const real* mean, const real* istd, real* dx,
                    real* dresidual, double* channel_sums) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const int width = n.channels / n.groups;
  const double values = (double)width * n.pixels;
  parallel_for(n.blocks * n.groups, n.threads, [&](int bg) {
    const int b = bg / n.groups, c0 = bg % n.groups * width;
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
            const V g = masked<L>(dy, y, i);
            s[v] += g;
            q[v] += g * ((load<V>(x + i) - mu[v]) * is[v]);
          }
        for (int l = 0; l < L; l++) {
          ds[l] += s[l / VL][l % VL];
          dq[l] += q[l / VL][l % VL];
        }
      }
      double* sums = channel_sums + ((int64_t)b * n.channels + c) * 2;
      sums[0] = sums[1] = 0;
      for (int l = 0; l < valid_lanes(n, b); l++) {
        sums[0] += ds[l];
        sums[1] += dq[l];
        s1[l] += (gamma ? gamma[c] : 1.0) * ds[l] / values;
        s2[l] += (gamma ? gamma[c] : 1.0) * dq[l] / values;
      }
    }
    const LaneMask<L> mask(valid_lanes(n, b));
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
          const V g = masked<L>(dy, y, i);
          if (dresidual) store(dresidual + i, g);
          const V normal = (load<V>(x + i) - mu[v]) * is[v];
          const V d = is[v] * (k * g - load<V>(r1 + v * VL) - normal * load<V>(r2 + v * VL));
          store(dx + i, mask.keep(v, d));
        }
    }
  });
}

bool sound(const FeNorm& n) {
  return n.samples > 0 && n.blocks == (n.samples + n.lanes - 1) / n.lanes && n.channels > 0 &&
         n.pixels > 0 && n.groups >= 0 && (n.groups == 0 || n.channels % n.groups == 0);
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_norm_prepare(const FeNorm* n, const real* x, const real* gamma, const real* beta,
                    real* running_mean, real* running_var, real* mean, real* istd, real* scale,
                    real* shift) {
  using namespace fe;
  if (!sound(*n) || (!n->groups && !n->training && !running_mean)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(n->lanes, {
    if (n->groups) prepare_group<L>(*n, x, gamma, beta, mean, istd, scale, shift);
    else prepare_batch<L>(*n, x, gamma, beta, running_mean, running_var, mean, istd, scale, shift);
  })
  return FE_OK;
}

int fe_norm_apply(const FeNorm* n, const real* x, const FePrologue* pro, real* y) {
  using namespace fe;
  if (!sound(*n)) return FE_BAD_ARGUMENT;
  const Border none{0, 0, 1, n->pixels};
  FE_FOR_LANES(n->lanes, pad_planes<L>(x, y, n->blocks, n->channels, 1, n->pixels, none, pro, n->threads))
  return FE_OK;
}

int fe_norm_backward(const FeNorm* n, const real* x, const real* y, const real* dy,
                     const real* gamma, const real* mean, const real* istd, real* dx,
                     real* dresidual, real* dgamma, real* dbeta) {
  using namespace fe;
  if (!sound(*n)) return FE_BAD_ARGUMENT;
  if (!n->groups) {
    FE_FOR_LANES(n->lanes, backward_batch<L>(*n, x, y, dy, gamma, mean, istd, dx, dresidual, dgamma, dbeta))
    return FE_OK;
  }
  double* sums = scratch<double>(kSums, (size_t)2 * n->blocks * n->channels);
  if (!sums) return FE_NO_MEMORY;
  FE_FOR_LANES(n->lanes, backward_group<L>(*n, x, y, dy, gamma, mean, istd, dx, dresidual, sums))
  for (int c = 0; c < n->channels; c++) {
    double db = 0, dg = 0;
    for (int b = 0; b < n->blocks; b++) {
      db += sums[((int64_t)b * n->channels + c) * 2];
      dg += sums[((int64_t)b * n->channels + c) * 2 + 1];
    }
    if (dbeta) dbeta[c] = (real)db;
    if (dgamma) dgamma[c] = (real)dg;
  }
  return FE_OK;
}

}  // extern "C"
