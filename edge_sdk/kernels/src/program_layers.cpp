// Layers with weights: convolution and linear, sparse and dense by their structure.
#include "conv.h"
#include "program.h"

namespace fe {
namespace {

constexpr int64_t kMostPixels = 1 << 20, kMostStep = 1 << 15;

const FeStructure* weight_structure(const Instruction& at, const FeParameter* parameters) {
  if (at.parameters.empty() || at.parameters[0] < 0) return nullptr;
  return parameters[at.parameters[0]].structure;
}

}  // namespace

// ints of a conv: channels, height, width, rows, out height, out width, then stride,
// padding and dilation, each (h, w).
FeConv conv_of(const Instruction& at, int samples, int lanes, int blocks, int threads) {
  const auto i = [&](int k) { return (int32_t)at.ints[k]; };
  return {samples, lanes, blocks, threads, i(1), i(2), i(6), i(7), i(8), i(9), i(10), i(11)};
}

bool conv_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  const FeStructure* structure = weight_structure(at, parameters);
  for (int k = 0; k < 12; k++)
    if (at.ints[k] < 0 || at.ints[k] > (k < 6 ? kMostPixels : kMostStep)) return false;
  if (!structure || structure->rows != at.ints[3] ||
      (int64_t)structure->in_per_group * structure->groups != at.ints[0])
    return false;
  const FeConv c = conv_of(at, 1, 16, 1, 1);
  Geometry g;
  if (!geometry(*structure, c, g) || g.out_h != at.ints[4] || g.out_w != at.ints[5]) return false;
  // Borders wider than the kernel's reach would only be work space for zeros.
  if (c.pad_h > structure->kernel_h * c.dilation_h || c.pad_w > structure->kernel_w * c.dilation_w)
    return false;
  s.in = {product({at.ints[0], at.ints[1], at.ints[2]})};
  s.out = {product({at.ints[3], at.ints[4], at.ints[5]})};
  s.parameters = {structure->nnz, structure->rows};
  s.optional = 2;
  s.structured = 1;
  s.reads_in = 1;
  return true;
}

real* weight_gradient(const Call& c) {
  return c.gradient(0) ? c.gradient(0) : scratch<real>(kUntrained, c.parameter(0)->count + 4);
}

namespace {

int conv_forward(const Call& c) {
  const FeConv conv = conv_of(c.at, c.samples, c.lanes, c.blocks, c.threads);
  return fe_conv_forward(c.structure(0), &conv, c.in(0), nullptr, c.value(0), c.value(1), c.out(0));
}

// The same on several frames of a sample, one after the other in memory; ints: those of a
// conv, then the frames.
constexpr int kFrames = 12;

bool conv_frames_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  const int64_t frames = at.ints[kFrames];
  if (frames < 1 || frames > kMostStep || !conv_sizes(at, parameters, s)) return false;
  s.in = {product({s.in[0], frames})};
  s.out = {product({s.out[0], frames})};
  return true;
}

FeConv conv_frames_of(const Call& c) {
  const int blocks = c.blocks * c.i(kFrames);
  return conv_of(c.at, blocks * c.lanes, c.lanes, blocks, c.threads);
}

int conv_frames_forward(const Call& c) {
  const FeConv conv = conv_frames_of(c);
  return fe_conv_forward(c.structure(0), &conv, c.in(0), nullptr, c.value(0), c.value(1), c.out(0));
}

int conv_backward_row(const Call& c) {
  const FeConv conv = conv_of(c.at, c.samples, c.lanes, c.blocks, c.threads);
  real* dw = weight_gradient(c);
  if (!dw) return FE_NO_MEMORY;
  return conv_backward(*c.structure(0), conv, c.in(0), nullptr, c.value(0), c.d_out(0), c.d_in(0),
                       dw, c.gradient(1), c.accumulate && c.gradient(0));
}

int conv_frames_backward(const Call& c) {
  real* dw = weight_gradient(c);
  if (!dw) return FE_NO_MEMORY;
  return conv_backward(*c.structure(0), conv_frames_of(c), c.in(0), nullptr, c.value(0), c.d_out(0),
                       c.d_in(0), dw, c.gradient(1), c.accumulate && c.gradient(0));
}

// ints of a linear layer: positions per sample, inputs, outputs.
bool linear_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  const FeStructure* structure = weight_structure(at, parameters);
  if (!structure || structure->runs < 1 || structure->cols != at.ints[1] ||
      structure->rows != at.ints[2] || at.ints[0] > kMostPixels)
    return false;
  s.in = {product({at.ints[0], at.ints[1]})};
  s.out = {product({at.ints[0], at.ints[2]})};
  s.parameters = {structure->nnz, structure->rows};
  s.optional = 2;
  s.structured = 1;
  s.reads_in = 1;
  return true;
}

int linear_forward(const Call& c) {
  return fe_linear_forward(c.structure(0), c.lanes, c.blocks * c.i(0), c.threads, c.in(0),
                           c.value(0), c.value(1), c.out(0));
}

int linear_backward_row(const Call& c) {
  real* dw = weight_gradient(c);
  if (!dw) return FE_NO_MEMORY;
  return linear_backward(c.structure(0), c.lanes, c.blocks * c.i(0), c.threads, c.in(0),
                         c.value(0), c.d_out(0), c.d_in(0), dw, c.gradient(1),
                         c.accumulate && c.gradient(0));
}

}  // namespace

const Row kLayerRows[] = {
    {"conv", 12, 0, conv_sizes, conv_forward, conv_backward_row},
    {"conv_frames", 13, 0, conv_frames_sizes, conv_frames_forward, conv_frames_backward},
    {"linear", 3, 0, linear_sizes, linear_forward, linear_backward_row},
    {}};

}  // namespace fe
