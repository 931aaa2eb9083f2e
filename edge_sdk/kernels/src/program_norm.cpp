// Batch norm and group norm, with the residual and the ReLU that follow them.
#include "program.h"
#include "support.h"

namespace fe {
namespace {

// ints: channels, pixels, groups (0: batch norm), activation, batch statistics. reals:
// momentum, eps. Inputs: x and, where fused, a residual. Parameters: gamma, beta,
// running mean and variance. Stash: mean, 1 / deviation, scale, shift.
FeNorm norm_of(const Call& c) {
  return {c.samples, c.lanes, c.blocks, c.threads, c.i(0), c.i(1),
          c.i(2),    c.i(4),  c.r(0),   c.r(1),    c.i(3)};
}

// Whether the backward pass computes the activation again from x: no residual is in it.
bool recomputed(const Instruction& at) {
  return !at.ints[2] && at.ints[3] && at.in.size() == 1;
}

bool norm_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const int64_t channels = at.ints[0], groups = at.ints[2];
  if (channels < 1 || channels > 1 << 20 || at.ints[1] < 1 || at.ints[1] > 1 << 24 || groups < 0 ||
      groups > channels || (groups && channels % groups) || at.parameters.size() != 4 ||
      at.ints[3] < FE_FUSED_NONE || at.ints[3] > FE_FUSED_RELU6)
    return false;
  const bool running = at.parameters[2] >= 0;
  if (running != (at.parameters[3] >= 0)) return false;  // the kernel moves both or none
  if (!groups && !at.ints[4] && !running) return false;
  const int64_t size = product({channels, at.ints[1]});
  const int64_t moments = groups ? groups : channels;
  s.in = {size};
  if (at.in.size() == 2) s.in.push_back(size);
  s.out = {size};
  s.stash = {moments, moments, channels, channels};
  s.parameters = {channels, channels, channels, channels};
  s.optional = 15;
  s.reads_in = 1;
  const bool again = recomputed(at);
  s.reads_out = at.ints[3] && !again ? 1 : 0;
  s.reads_stash = again ? 15 : 3;
  return true;
}

int norm_forward(const Call& c) {
  const FeNorm n = norm_of(c);
  if (!n.groups && n.training && (int64_t)n.samples * n.pixels < 2) return FE_BAD_BATCH;
  const real* residual = c.at.in.size() == 2 ? c.in(1) : nullptr;
  return fe_norm_forward(&n, c.in(0), c.value(0), c.value(1), c.value(2), c.value(3), residual,
                         c.stash(0), c.stash(1), c.stash(2), c.stash(3), c.out(0));
}

int norm_backward(const Call& c) {
  const FeNorm n = norm_of(c);
  real* dx = c.d_in(0);
  if (!dx) dx = scratch<real>(kUntrained, (size_t)c.blocks * c.lanes * n.channels * n.pixels);
  if (!dx) return FE_NO_MEMORY;
  real* dresidual = c.at.d_in.size() == 2 ? c.d_in(1) : nullptr;
  return into_gradient(c, 0, kPart, [&](real* dgamma) {
    return into_gradient(c, 1, kPartToo, [&](real* dbeta) {
      if (recomputed(c.at))
        return fe_norm_activation_backward(&n, c.in(0), c.d_out(0), c.value(0), c.stash(0),
                                           c.stash(1), c.stash(2), c.stash(3), dx, dgamma, dbeta);
      return fe_norm_backward(&n, c.in(0), c.i(3) ? c.out(0) : nullptr,
                              c.d_out(0), c.value(0), c.stash(0), c.stash(1), dx, dresidual,
                              dgamma, dbeta);
    });
  });
}

}  // namespace

const Row kNormRows[] = {{"norm", 5, 2, norm_sizes, norm_forward, norm_backward}, {}};

}  // namespace fe
