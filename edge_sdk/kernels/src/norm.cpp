// Batch norm and group norm: statistics, the affine map they give, and gradients.
#include "channel_norm.h"
#include "group_norm.h"
#include "pad.h"

namespace fe {
namespace {

Planes planes_of(const FeNorm& n) {
  return {(int64_t)n.channels * n.pixels * n.lanes, n.pixels, n.samples, n.lanes, n.blocks};
}

struct BatchNorm {
  const real *gamma, *beta;
  real *running_mean, *running_var, *mean, *istd, *scale, *shift;
};

// One channel's statistics and affine map, written where the backward pass finds them.
template <int L>
ChannelAffine prepare_channel(const FeNorm& n, const BatchNorm& p, const real* x, int c) {
  const Planes planes = planes_of(n);
  Moments m{};
  if (n.training) {
    m = channel_moments<L>(planes, x + (int64_t)c * n.pixels * L);
    if (p.running_mean)
      update_running(m, planes.count(), n.momentum, p.running_mean[c], p.running_var[c]);
  } else {
    m = {p.running_mean[c], p.running_var[c]};
  }
  const ChannelAffine a =
      channel_affine(m, n.eps, p.gamma ? p.gamma[c] : 1.0, p.beta ? p.beta[c] : 0.0);
  p.mean[c] = a.mean;
  p.istd[c] = a.istd;
  for (int b = 0; b < n.blocks; b++) {
    const LaneAffine<L> lanes(a);
    const int64_t at = ((int64_t)b * n.channels + c) * L;
    std::memcpy(p.scale + at, lanes.scale, sizeof lanes.scale);
    std::memcpy(p.shift + at, lanes.shift, sizeof lanes.shift);
  }
  return a;
}

template <int L>
void prepare_batch(const FeNorm& n, const BatchNorm& p, const real* x) {
  parallel_for(n.channels, n.threads, [&](int c) { prepare_channel<L>(n, p, x, c); });
}

template <int L>
void forward_batch(const FeNorm& n, const BatchNorm& p, const real* x, const real* residual,
                   real* y) {
  const int64_t plane = (int64_t)n.pixels * L;
  parallel_for(n.channels, n.threads, [&](int c) {
    prepare_channel<L>(n, p, x, c);
    with_activation(n.activation, [&](auto activation) {
      for (int b = 0; b < n.blocks; b++) {
        const int64_t bc = (int64_t)b * n.channels + c, at = bc * plane;
        prologue_row<L, activation>(x + at, residual ? residual + at : nullptr, p.scale + bc * L,
                                    p.shift + bc * L, y + at, n.pixels);
      }
    });
  });
}

// gate_of(c): the activation's gradient in one channel.
template <int L, class GateOf>
void backward_batch(const FeNorm& n, const real* x, GateOf gate_of, const real* dy,
                    const real* gamma, const real* mean, const real* istd, real* dx,
                    real* dresidual, real* dgamma, real* dbeta) {
  const int64_t plane = (int64_t)n.pixels * L;
  const Planes planes = planes_of(n);
  parallel_for(n.channels, n.threads, [&](int c) {
    double sums[2] = {0, 0};
    const auto gate = gate_of(c);
    const auto at = [&](int b) { return ((int64_t)b * n.channels + c) * plane; };
    for (int b = 0; b < n.blocks; b++)
      gradient_sums<L>(x + at(b), gate.at(at(b)), dy + at(b), mean[c], n.pixels, sums);
    if (dgamma) dgamma[c] = (real)(sums[1] * istd[c]);
    if (dbeta) dbeta[c] = (real)sums[0];
    const InputGradient own(sums, planes.count(), gamma ? gamma[c] : 1.0, mean[c], istd[c],
                            n.training);
    for (int b = 0; b < n.blocks; b++)
      input_gradient<L>(own, x + at(b), gate.at(at(b)), dy + at(b), n.pixels, planes.valid(b),
                        dx + at(b), dresidual ? dresidual + at(b) : nullptr);
  });
}

bool sound(const FeNorm& n) {
  return n.samples > 0 && n.lanes > 0 && n.blocks == (n.samples + n.lanes - 1) / n.lanes &&
         n.channels > 0 && n.pixels > 0 && n.groups >= 0 &&
         (n.groups == 0 || n.channels % n.groups == 0) && n.activation >= FE_FUSED_NONE &&
         n.activation <= FE_FUSED_RELU6;
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
  const BatchNorm p{gamma, beta, running_mean, running_var, mean, istd, scale, shift};
  FE_FOR_LANES(n->lanes, {
    if (n->groups) prepare_group<L>(*n, x, gamma, beta, mean, istd, scale, shift);
    else prepare_batch<L>(*n, p, x);
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

int fe_norm_forward(const FeNorm* n, const real* x, const real* gamma, const real* beta,
                    real* running_mean, real* running_var, const real* residual, real* mean,
                    real* istd, real* scale, real* shift, real* y) {
  using namespace fe;
  if (!sound(*n) || (!n->groups && !n->training && !running_mean)) return FE_BAD_ARGUMENT;
  if (n->groups) {
    const int code = fe_norm_prepare(n, x, gamma, beta, nullptr, nullptr, mean, istd, scale, shift);
    const FePrologue pro{scale, shift, residual, n->activation};
    return code ? code : fe_norm_apply(n, x, &pro, y);
  }
  const BatchNorm p{gamma, beta, running_mean, running_var, mean, istd, scale, shift};
  FE_FOR_LANES(n->lanes, forward_batch<L>(*n, p, x, residual, y))
  return FE_OK;
}

int fe_norm_backward(const FeNorm* n, const real* x, const real* y, const real* dy,
                     const real* gamma, const real* mean, const real* istd, real* dx,
                     real* dresidual, real* dgamma, real* dbeta) {
  using namespace fe;
  if (!sound(*n)) return FE_BAD_ARGUMENT;
  int code = FE_OK;
  FE_FOR_LANES(n->lanes, {
    with_activation(n->activation == FE_FUSED_RELU6 ? FE_FUSED_RELU6 : FE_FUSED_RELU, [&](auto activation) {
      const auto gate = [&](int) { return FromOutput<L, activation>{y}; };
      if (n->groups)
        code = group_backward<L>(*n, x, FromOutput<L, activation>{y}, dy, gamma, mean, istd, dx,
                                 dresidual, dgamma, dbeta);
      else backward_batch<L>(*n, x, gate, dy, gamma, mean, istd, dx, dresidual, dgamma, dbeta);
    });
  })
  return code;
}

int fe_norm_activation_backward(const FeNorm* n, const real* x, const real* dy, const real* gamma,
                                const real* mean, const real* istd, const real* scale,
                                const real* shift, real* dx, real* dgamma, real* dbeta) {
  using namespace fe;
  if (!sound(*n) || n->groups) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(n->lanes, {
    typedef typename Lanes<L>::V V;
    // Any valid lane's: those of the first block's first lane.
    with_activation(n->activation, [&](auto activation) {
      const auto gate = [&](int c) {
        return FromInput<L, activation>{splat<V>(scale[c * L]), splat<V>(shift[c * L])};
      };
      backward_batch<L>(*n, x, gate, dy, gamma, mean, istd, dx, nullptr, dgamma, dbeta);
    });
  })
  return FE_OK;
}

}  // extern "C"
