// One channel's batch norm: moments over its planes, the affine map they give, gradients.
//
// Sums run in chunks of 4,096 values in `real` and across chunks in double, around the
// first value of the channel: one pass, no cancellation. Padded lanes never count.
#pragma once
#include <cmath>

#include "fe.h"
#include "lanes.h"
#include "support.h"

namespace fe {

constexpr int64_t kChunk = 4096;

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

// Where the planes of one channel lie: one per block, `step` elements apart.
struct Planes {
  int64_t step, pixels;
  int samples, lanes, blocks;
  int valid(int block) const { return std::min(lanes, samples - block * lanes); }
  double count() const { return (double)samples * pixels; }
};

// sums[0] += sum(x - origin), sums[1] += sum((x - origin)^2) over `pixels` pixels.
template <int L>
void plane_moments(const real* x, real origin, int64_t pixels, int valid, double* sums) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  // A narrow block is one vector: further sums hide the latency of its additions.
  constexpr int U = NV >= 4 ? 1 : 4 / NV;
  const LaneMask<L> mask(valid);
  const V o = splat<V>(origin);
  for (int64_t p0 = 0; p0 < pixels; p0 += kChunk / L) {
    const int64_t p1 = std::min(pixels, p0 + kChunk / L);
    V s[U][NV] = {}, q[U][NV] = {};
    const auto add = [&](int64_t p, int u) FE_INLINE_LAMBDA {
      FE_UNROLL for (int v = 0; v < NV; v++) {
        const V d = load<V>(x + p * L + v * VL) - o;
        s[u][v] += d;
        q[u][v] += d * d;
      }
    };
    int64_t p = p0;
    for (; p + U <= p1; p += U) FE_UNROLL for (int u = 0; u < U; u++) add(p + u, u);
    for (; p < p1; p++) add(p, 0);
    FE_UNROLL for (int v = 0; v < NV; v++) {
      FE_UNROLL for (int u = 1; u < U; u++) {
        s[0][v] += s[u][v];
        q[0][v] += q[u][v];
      }
      sums[0] += sum(mask.keep(v, s[0][v]));
      sums[1] += sum(mask.keep(v, q[0][v]));
    }
  }
}

struct Moments {
  double mean, var;
};

template <int L>
Moments channel_moments(const Planes& planes, const real* x) {
  const real origin = x[0];
  double sums[2] = {0, 0};
  for (int b = 0; b < planes.blocks; b++)
    plane_moments<L>(x + b * planes.step, origin, planes.pixels, planes.valid(b), sums);
  const double mean = sums[0] / planes.count();
  const double var = sums[1] / planes.count() - mean * mean;
  return {mean + origin, var < 0 ? 0 : var};  // a NaN stays one
}

struct ChannelAffine {
  real mean, istd, scale, shift;
};

inline ChannelAffine channel_affine(const Moments& m, double eps, double gamma, double beta) {
  const double inverse = 1.0 / std::sqrt(m.var + eps), a = gamma * inverse;
  return {(real)m.mean, (real)inverse, (real)a, (real)(beta - m.mean * a)};
}

inline void update_running(const Moments& m, double count, double momentum, real& mean, real& var) {
  const double unbiased = count > 1 ? m.var * count / (count - 1) : m.var;
  mean = (real)((1 - momentum) * mean + momentum * m.mean);
  var = (real)((1 - momentum) * var + momentum * unbiased);
}

// The affine map of one block, lane by lane: padded ones too. They hold the last sample
// again, and a zero there could be divided by.
template <int L>
struct LaneAffine {
  alignas(64) real scale[L], shift[L];
  explicit LaneAffine(const ChannelAffine& a) {
    for (int l = 0; l < L; l++) {
      scale[l] = a.scale;
      shift[l] = a.shift;
    }
  }
};

// The gradient before an activation whose output is at hand ...
template <int L, int A>
struct FromOutput {
  typedef typename Lanes<L>::V V;
  const real* y;
  FE_INLINE V operator()(int64_t i, V, V g) const {
    return y ? activation_gradient<A>(load<V>(y + i), g) : g;
  }
  FromOutput at(int64_t offset) const { return {y ? y + offset : nullptr}; }
};
// ... and one whose output is computed again from the norm's input.
template <int L, int A>
struct FromInput {
  typedef typename Lanes<L>::V V;
  V scale, shift;
  FE_INLINE V operator()(int64_t, V x, V g) const {
    return activation_gradient<A>(x * scale + shift, g);
  }
  FromInput at(int64_t) const { return *this; }
};

// sums[0] += sum(g), sums[1] += sum(g * (x - mean)), g the gradient before the activation.
template <int L, class Gate>
void gradient_sums(const real* x, Gate gate, const real* dy, real mean, int64_t pixels,
                   double* sums) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  constexpr int U = NV >= 4 ? 1 : 4 / NV;
  const V mu = splat<V>(mean);
  for (int64_t p0 = 0; p0 < pixels; p0 += kChunk / L) {
    const int64_t p1 = std::min(pixels, p0 + kChunk / L);
    V s[U][NV] = {}, q[U][NV] = {};
    const auto add = [&](int64_t p, int u) FE_INLINE_LAMBDA {
      FE_UNROLL for (int v = 0; v < NV; v++) {
        const int64_t i = p * L + v * VL;
        const V xi = load<V>(x + i), g = gate(i, xi, load<V>(dy + i));
        s[u][v] += g;
        q[u][v] += g * (xi - mu);
      }
    };
    int64_t p = p0;
    for (; p + U <= p1; p += U) FE_UNROLL for (int u = 0; u < U; u++) add(p + u, u);
    for (; p < p1; p++) add(p, 0);
    FE_UNROLL for (int v = 0; v < NV; v++) {
      FE_UNROLL for (int u = 1; u < U; u++) {
        s[0][v] += s[u][v];
        q[0][v] += q[u][v];
      }
      sums[0] += sum(s[0][v]);
      sums[1] += sum(q[0][v]);
    }
  }
}

// dx = k * (g - c1 - (x - mean) * c2): what the sums make of a gradient.
struct InputGradient {
  real k, mean, c1, c2;
  InputGradient(const double* sums, double count, double gamma, real mean_, real istd,
                bool training)
      : k((real)(gamma * istd)), mean(mean_), c1(0), c2(0) {
    if (!training) return;
    c1 = (real)(sums[0] / count);
    c2 = (real)(sums[1] * istd / count * istd);
  }
};

// One plane's dx, zero in padded lanes; dresidual (may be null) takes g.
template <int L, class Gate>
void input_gradient(const InputGradient& n, const real* x, Gate gate, const real* dy,
                    int64_t pixels, int valid, real* dx, real* dresidual) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const V k = splat<V>(n.k), mu = splat<V>(n.mean), c1 = splat<V>(n.c1), c2 = splat<V>(n.c2);
  const LaneMask<L> mask(valid);
  for (int64_t p = 0; p < pixels; p++) FE_UNROLL for (int v = 0; v < NV; v++) {
      const int64_t i = p * L + v * VL;
      const V xi = load<V>(x + i), g = gate(i, xi, load<V>(dy + i));
      if (dresidual) store(dresidual + i, g);
      store(dx + i, mask.keep(v, k * (g - c1 - (xi - mu) * c2)));
    }
}

}  // namespace fe
