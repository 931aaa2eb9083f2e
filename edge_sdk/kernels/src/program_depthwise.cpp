// The depth-wise chain: norm and activation, depth-wise convolution, norm and activation.
#include "fe_depthwise.h"
#include "program.h"

namespace fe {
namespace {

// ints: channels, in height and width, rows, out height and width, then kernel, stride,
// padding and dilation, each (h, w); batch statistics; norm and activation before, norm and
// activation after. reals: momentum and eps of the one, then of the other. Parameters:
// weight, bias, then gamma, beta, running mean and variance of each norm. Stash: what each
// norm saves.
enum { kKernel = 6, kBatch = 14, kBefore = 15, kAfter = 17 };

FeDepthwise shape_of(const Instruction& at, int samples, int lanes, int blocks, int threads) {
  const auto i = [&](int k) { return (int32_t)at.ints[k]; };
  return {samples, lanes, blocks, threads, i(0), i(3) / i(0), i(1),  i(2),  i(6),  i(7),
          i(8),    i(9),  i(10),  i(11),   i(12), i(13),      i(14), 0};
}

bool norm_sound(const Instruction& at, int ints, int parameters) {
  const int64_t norm = at.ints[ints], activation = at.ints[ints + 1];
  const bool running = at.parameters[parameters + 2] >= 0 && at.parameters[parameters + 3] >= 0;
  return (norm == 0 || norm == 1) && activation >= FE_FUSED_NONE && activation <= FE_FUSED_RELU6 &&
         (!norm || at.ints[kBatch] || running);
}

bool depthwise_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  if (at.parameters.size() != 10 || at.parameters[0] < 0) return false;
  for (int k = 0; k < 14; k++) {
    const bool from_zero = k == 10 || k == 11;
    if (at.ints[k] < (from_zero ? 0 : 1) || at.ints[k] > (k < 6 ? 1 << 20 : 1 << 12)) return false;
  }
  if (at.ints[kBatch] < 0 || at.ints[kBatch] > 1 || at.ints[3] % at.ints[0]) return false;
  if (!norm_sound(at, kBefore, 2) || !norm_sound(at, kAfter, 6)) return false;
  const FeStructure* structure = parameters[at.parameters[0]].structure;
  if (!structure || structure->in_per_group != 1 || structure->groups != at.ints[0] ||
      structure->rows != at.ints[3] || structure->kernel_h != at.ints[6] ||
      structure->kernel_w != at.ints[7])
    return false;
  const auto out = [&](int axis) {
    const int64_t reach = (at.ints[kKernel + axis] - 1) * at.ints[12 + axis] + 1;
    const int64_t room = at.ints[1 + axis] + 2 * at.ints[10 + axis] - reach;
    return room < 0 ? -1 : room / at.ints[8 + axis] + 1;
  };
  if (out(0) != at.ints[4] || out(1) != at.ints[5]) return false;
  for (int axis = 0; axis < 2; axis++)
    if (at.ints[10 + axis] > at.ints[kKernel + axis] * at.ints[12 + axis]) return false;
  const int64_t channels = at.ints[0], rows = at.ints[3];
  s.in = {product({channels, at.ints[1], at.ints[2]})};
  s.out = {product({rows, at.ints[4], at.ints[5]})};
  s.stash = {4 * channels, 4 * rows};
  s.parameters = {structure->nnz, rows, channels, channels, channels, channels, rows, rows, rows, rows};
  s.optional = 0x3fe;
  s.structured = 1;
  s.reads_in = 1;
  s.reads_stash = 3;
  return true;
}

// One of the chain's norms; null where there is neither norm nor activation.
const FeChannelNorm* norm_of(const Call& c, bool after, FeChannelNorm& n) {
  const int ints = after ? kAfter : kBefore, p = after ? 6 : 2, r = after ? 2 : 0;
  if (!c.i(ints) && !c.i(ints + 1)) return nullptr;
  n = {c.i(ints),        c.i(ints + 1), c.value(p),      c.value(p + 1), c.value(p + 2), c.value(p + 3),
       c.stash(after),   nullptr,       nullptr,         c.r(r),         c.r(r + 1)};
  return &n;
}

bool too_few(const Call& c) {
  const int64_t in = (int64_t)c.i(1) * c.i(2), out = (int64_t)c.i(4) * c.i(5);
  return c.i(kBatch) && ((c.i(kBefore) && c.samples * in < 2) || (c.i(kAfter) && c.samples * out < 2));
}

int depthwise_forward(const Call& c) {
  if (too_few(c)) return FE_BAD_BATCH;
  const FeDepthwise d = shape_of(c.at, c.samples, c.lanes, c.blocks, c.threads);
  FeChannelNorm before, after;
  return fe_depthwise_forward(c.structure(0), &d, norm_of(c, false, before), norm_of(c, true, after),
                              c.in(0), c.value(0), c.value(1), c.out(0));
}

int depthwise_backward(const Call& c) {
  FeDepthwise d = shape_of(c.at, c.samples, c.lanes, c.blocks, c.threads);
  d.accumulate = c.accumulate;
  real* dw = c.gradient(0) ? c.gradient(0) : scratch<real>(kUntrained, c.parameter(0)->count + 4);
  if (!dw) return FE_NO_MEMORY;
  FeChannelNorm before, after;
  const FeChannelNorm *b = norm_of(c, false, before), *a = norm_of(c, true, after);
  // Gradients of the norms' parameters are overwritten: where they add up, in work space.
  const int places[4] = {2, 3, 6, 7};
  real** ends[4] = {&before.dgamma, &before.dbeta, &after.dgamma, &after.dbeta};
  real* part = nullptr;
  if (c.accumulate && !(part = scratch<real>(kPart, (size_t)2 * (c.i(0) + c.i(3))))) return FE_NO_MEMORY;
  for (int k = 0; k < 4; k++) {
    if (!(k < 2 ? b : a)) continue;
    real* own = c.gradient(places[k]);
    if (own && part) {
      *ends[k] = part;
      part += c.parameter(places[k])->count;
    } else {
      *ends[k] = own;
    }
  }
  const int code = fe_depthwise_backward(c.structure(0), &d, b, a, c.in(0), c.value(0), c.value(1),
                                         c.d_out(0), c.d_in(0), dw, c.gradient(1));
  for (int k = 0; k < 4 && c.accumulate && !code; k++) {
    real* own = (k < 2 ? b : a) ? c.gradient(places[k]) : nullptr;
    for (int64_t i = 0; own && i < c.parameter(places[k])->count; i++) own[i] += (*ends[k])[i];
  }
  return code;
}

}  // namespace

const Row kDepthwiseRows[] = {
    {"depthwise", 19, 4, depthwise_sizes, depthwise_forward, depthwise_backward}, {}};

}  // namespace fe
