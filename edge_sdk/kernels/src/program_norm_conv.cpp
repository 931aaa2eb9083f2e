// A convolution of what a norm and an activation make of its input: the activation is never
// stored. Forward, it is formed on the way into the padded input; backward, again.
#include "program.h"
#include "support.h"

namespace fe {
namespace {

// ints: those of a conv, then 0 without a norm or 1, groups (0: batch norm), activation,
// batch statistics. reals: momentum, eps. Parameters: weight, bias, then the norm's gamma,
// beta, running mean and variance. Stash, with a norm: mean, 1 / deviation, scale, shift.
enum { kNorm = 12, kGroups, kActivation, kBatch, kInts };

FeConv conv_at(const Call& c) { return conv_of(c.at, c.samples, c.lanes, c.blocks, c.threads); }

FeNorm norm_of(const Call& c) {
  return {c.samples, c.lanes,       c.blocks,     c.threads, c.i(0), c.i(1) * c.i(2),
          c.i(kGroups), c.i(kBatch), c.r(0), c.r(1), FE_FUSED_NONE};
}

bool sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  if (at.parameters.size() != 6 || !conv_sizes(at, parameters, s)) return false;
  const int64_t channels = at.ints[0], groups = at.ints[kGroups], norm = at.ints[kNorm];
  const bool running = at.parameters[4] >= 0;
  if (norm < 0 || norm > 1 || groups < 0 || groups > channels || (groups && channels % groups) ||
      at.ints[kActivation] < FE_FUSED_NONE || at.ints[kActivation] > FE_FUSED_RELU6 ||
      running != (at.parameters[5] >= 0) || (norm && !groups && !at.ints[kBatch] && !running))
    return false;
  s.parameters.resize(6, channels);
  s.optional |= 4 | 8 | 16 | 32;
  if (!norm) return true;
  const int64_t moments = groups ? groups : channels;
  s.stash = {moments, moments, channels, channels};
  s.reads_stash = 15;
  return true;
}

FePrologue prologue_of(const Call& c) {
  const bool norm = c.i(kNorm);
  return {norm ? c.stash(2) : nullptr, norm ? c.stash(3) : nullptr, nullptr, c.i(kActivation)};
}

int forward(const Call& c) {
  if (c.i(kNorm)) {
    const FeNorm n = norm_of(c);
    if (!n.groups && n.training && (int64_t)n.samples * n.pixels < 2) return FE_BAD_BATCH;
    const int code = fe_norm_prepare(&n, c.in(0), c.value(2), c.value(3), c.value(4), c.value(5),
                                     c.stash(0), c.stash(1), c.stash(2), c.stash(3));
    if (code) return code;
  }
  const FeConv conv = conv_at(c);
  const FePrologue in = prologue_of(c);
  return fe_conv_forward(c.structure(0), &conv, c.in(0), &in, c.value(0), c.value(1), c.out(0));
}

int backward(const Call& c) {
  const FePrologue in = prologue_of(c);
  const size_t count = (size_t)c.blocks * c.lanes * c.at.ints[0] * c.at.ints[1] * c.at.ints[2];
  real* dx = c.d_in(0);
  if (!dx && c.i(kNorm)) dx = scratch<real>(kUnread, count);  // its weights' gradients need it
  real* dw = weight_gradient(c);
  if (!dw || (!dx && c.i(kNorm))) return FE_NO_MEMORY;
  const int code = conv_backward(*c.structure(0), conv_at(c), c.in(0), &in, c.value(0), c.d_out(0),
                                 dx, dw, c.gradient(1), c.accumulate && c.gradient(0));
  if (code || !c.i(kNorm)) return code;
  const FeNorm n = norm_of(c);
  return into_gradient(c, 2, kPart, [&](real* dgamma) {
    return into_gradient(c, 3, kPartToo, [&](real* dbeta) {
      return fe_norm_backward(&n, c.in(0), nullptr, dx, c.value(2), c.stash(0), c.stash(1), dx,
                              nullptr, dgamma, dbeta);
    });
  });
}

}  // namespace

const Row kNormConvRows[] = {{"norm_conv", kInts, 2, sizes, forward, backward}, {}};

}  // namespace fe
