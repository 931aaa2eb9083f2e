// Pools over any windows, borders, upsampling and the transposed convolution.
#include "conv.h"
#include "fe_images.h"
#include "program.h"

namespace fe {
namespace {

bool within(const Instruction& at, int from, int to, int64_t low, int64_t high) {
  for (int k = from; k < to; k++)
    if (at.ints[k] < low || at.ints[k] > high) return false;
  return true;
}
constexpr int64_t kMostPixels = 1 << 20, kMostStep = 1 << 15;

// ints: channels, in height and width, out height and width, kernel, stride, padding and
// dilation, each (h, w), adaptive, average, include_pad, divisor.
FeRegionPool region_of(const Call& c) {
  FeRegionPool p{};
  p.lanes = c.lanes, p.planes = c.blocks * c.i(0), p.threads = c.threads;
  p.in_h = c.i(1), p.in_w = c.i(2), p.out_h = c.i(3), p.out_w = c.i(4);
  p.kernel_h = c.i(5), p.kernel_w = c.i(6), p.stride_h = c.i(7), p.stride_w = c.i(8);
  p.pad_h = c.i(9), p.pad_w = c.i(10), p.dilation_h = c.i(11), p.dilation_w = c.i(12);
  p.adaptive = c.i(13), p.average = c.i(14), p.include_pad = c.i(15), p.divisor = c.i(16);
  return p;
}

bool region_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  if (!within(at, 0, 5, 1, kMostPixels) || !within(at, 5, 13, 0, kMostStep) ||
      !within(at, 13, 16, 0, 1) || !within(at, 16, 17, 0, kMostPixels))
    return false;
  s.in = {product({at.ints[0], at.ints[1], at.ints[2]})};
  s.out = {product({at.ints[0], at.ints[3], at.ints[4]})};
  return true;
}
bool maximum_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  s.reads_in = 1;
  return region_sizes(at, parameters, s) && !at.ints[14];
}
bool average_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  return region_sizes(at, parameters, s) && at.ints[14];
}
int region_forward(const Call& c) {
  const FeRegionPool p = region_of(c);
  return fe_region_pool_forward(&p, c.in(0), c.out(0));
}
int region_backward(const Call& c) {
  const FeRegionPool p = region_of(c);
  return c.d_in(0) ? fe_region_pool_backward(&p, c.in(0), c.d_out(0), c.d_in(0)) : FE_OK;
}

// ints: planes, three axes, three borders before, three after, mode. reals: the constant.
FePad pad_of(const Call& c) {
  FePad p{c.lanes, c.blocks * c.i(0), c.threads, {}, {}, {}, c.i(10), c.r(0)};
  for (int a = 0; a < 3; a++) p.in[a] = c.i(1 + a), p.before[a] = c.i(4 + a), p.after[a] = c.i(7 + a);
  return p;
}

bool pad_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  if (!within(at, 0, 4, 1, kMostPixels) || !within(at, 4, 10, -kMostPixels, kMostPixels)) return false;
  const auto size = [&](int a) { return at.ints[1 + a] + at.ints[4 + a] + at.ints[7 + a]; };
  s.in = {product({at.ints[0], at.ints[1], at.ints[2], at.ints[3]})};
  s.out = {product({at.ints[0], size(0), size(1), size(2)})};
  return s.out[0] > 0;
}
int pad_forward(const Call& c) {
  const FePad p = pad_of(c);
  return fe_pad_forward(&p, c.in(0), c.out(0));
}
int pad_backward(const Call& c) {
  const FePad p = pad_of(c);
  return c.d_in(0) ? fe_pad_backward(&p, c.d_out(0), c.d_in(0)) : FE_OK;
}

// ints: channels, in height and width, out height and width, linear, align_corners. reals:
// input pixels per output pixel, down and across; 0 where the sizes say it.
FeUpsample upsample_of(const Call& c) {
  return {c.lanes, c.blocks * c.i(0), c.threads, c.i(1), c.i(2), c.i(3), c.i(4), c.i(5), c.i(6),
          c.r(0),  c.r(1)};
}

bool upsample_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  if (!within(at, 0, 5, 1, kMostPixels) || !within(at, 5, 7, 0, 1)) return false;
  s.in = {product({at.ints[0], at.ints[1], at.ints[2]})};
  s.out = {product({at.ints[0], at.ints[3], at.ints[4]})};
  return true;
}
int upsample_forward(const Call& c) {
  const FeUpsample u = upsample_of(c);
  return fe_upsample_forward(&u, c.in(0), c.out(0));
}
int upsample_backward(const Call& c) {
  const FeUpsample u = upsample_of(c);
  return c.d_in(0) ? fe_upsample_backward(&u, c.d_out(0), c.d_in(0)) : FE_OK;
}

// ints: channels, in height and width, rows out, out height and width, then stride,
// padding and dilation, each (h, w).
FeConv transpose_of(const Instruction& at, int samples, int lanes, int blocks, int threads) {
  const auto i = [&](int k) { return (int32_t)at.ints[k]; };
  return {samples, lanes, blocks, threads, i(4), i(5), i(6), i(7), i(8), i(9), i(10), i(11)};
}

bool transpose_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  if (at.parameters.empty() || at.parameters[0] < 0 || !within(at, 0, 6, 1, kMostPixels) ||
      !within(at, 6, 12, 0, kMostStep))
    return false;
  const FeStructure* structure = parameters[at.parameters[0]].structure;
  if (!structure || structure->rows != at.ints[0] ||
      (int64_t)structure->in_per_group * structure->groups != at.ints[3])
    return false;
  const FeConv c = transpose_of(at, 1, 16, 1, 1);
  Geometry g;
  if (!geometry(*structure, c, g) || g.out_h != at.ints[1] || g.out_w != at.ints[2]) return false;
  if (c.pad_h > structure->kernel_h * c.dilation_h || c.pad_w > structure->kernel_w * c.dilation_w)
    return false;
  s.in = {product({at.ints[0], at.ints[1], at.ints[2]})};
  s.out = {product({at.ints[3], at.ints[4], at.ints[5]})};
  s.parameters = {structure->nnz, at.ints[3]};
  s.optional = 2;
  s.structured = 1;
  s.reads_in = 1;
  return true;
}
int transpose_forward(const Call& c) {
  const FeConv conv = transpose_of(c.at, c.samples, c.lanes, c.blocks, c.threads);
  return fe_conv_transpose_forward(c.structure(0), &conv, c.in(0), c.value(0), c.value(1), c.out(0));
}
int transpose_backward(const Call& c) {
  const FeConv conv = transpose_of(c.at, c.samples, c.lanes, c.blocks, c.threads);
  real* dw = weight_gradient(c);
  if (!dw) return FE_NO_MEMORY;
  return fe_conv_transpose_backward(c.structure(0), &conv, c.in(0), c.value(0), c.d_out(0), c.d_in(0),
                                    dw, c.gradient(1), c.accumulate && c.gradient(0));
}

}  // namespace

const Row kImageRows[] = {
    {"region_max", 17, 0, maximum_sizes, region_forward, region_backward},
    {"region_average", 17, 0, average_sizes, region_forward, region_backward},
    {"pad", 11, 1, pad_sizes, pad_forward, pad_backward},
    {"upsample", 7, 2, upsample_sizes, upsample_forward, upsample_backward},
    {"conv_transpose", 12, 0, transpose_sizes, transpose_forward, transpose_backward},
    {}};

}  // namespace fe
