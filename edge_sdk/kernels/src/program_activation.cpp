// Rows of activations, of sums and products with broadcasting, and of dropout.
#include <algorithm>

#include "fe_elementwise.h"
#include "program.h"

namespace fe {
namespace {

// ints: values per sample. reals: the kind's two constants.
template <int Kind>
FeActivation activation_of(const Call& c) {
  return {Kind, c.threads, c.at.ints[0] * c.blocks * c.lanes, c.r(0), c.r(1)};
}

template <int Kind>
bool activation_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const FeActivation d{Kind, 1, 0, 0, 0};
  s.in = s.out = {product({at.ints[0]})};
  s.reads_in = fe_activation_saves(&d) == FE_SAVES_INPUT;
  s.reads_out = fe_activation_saves(&d) == FE_SAVES_OUTPUT;
  return true;
}
template <int Kind>
int activation_forward(const Call& c) {
  const FeActivation d = activation_of<Kind>(c);
  return fe_activation_forward(&d, c.in(0), c.out(0));
}
template <int Kind>
int activation_backward(const Call& c) {
  const FeActivation d = activation_of<Kind>(c);
  const int saves = fe_activation_saves(&d);
  const real* saved = saves == FE_SAVES_INPUT    ? c.in(0)
                      : saves == FE_SAVES_OUTPUT ? c.out(0)
                                                 : nullptr;
  return c.d_in(0) ? fe_activation_backward(&d, saved, c.d_out(0), c.d_in(0)) : (int)FE_OK;
}
template <int Kind>
constexpr Row activation(const char* name) {
  return {name, 1, 2, activation_sizes<Kind>, activation_forward<Kind>, activation_backward<Kind>};
}

// ints: six sizes of the result, and the six strides of each operand.
int64_t reach(const Instruction& at, int operand) {
  int64_t last = 0;
  for (int i = 0; i < FE_DIMS; i++) {
    const int64_t size = at.ints[i], step = at.ints[FE_DIMS * (1 + operand) + i];
    if (size < 1 || size > (int64_t)1 << 31 || step < 0 || step > (int64_t)1 << 31) return -1;
    last += (size - 1) * step;
    if (last > (int64_t)1 << 40) return -1;
  }
  return last + 1;
}

template <int Kind, bool Parameter>
bool binary_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const int64_t* n = at.ints.data();
  s.out = {product({n[0], n[1], n[2], n[3], n[4], n[5]})};
  s.in = {reach(at, 0)};
  (Parameter ? s.parameters : s.in).push_back(reach(at, 1));
  if (Kind == FE_MULTIPLY) s.reads_in = Parameter ? 1 : 3;
  return true;
}

template <int Kind, bool Parameter>
FeBinary binary_of(const Call& c) {
  FeBinary d{};
  d.kind = Kind;
  d.lanes = c.lanes;
  d.blocks = c.blocks;
  d.threads = c.threads;
  d.dims = FE_DIMS;
  d.accumulate = c.accumulate;
  for (int i = 0; i < FE_DIMS; i++) {
    d.shape[i] = c.at.ints[i];
    for (int t = 0; t < 2; t++) d.stride[t][i] = c.at.ints[FE_DIMS * (1 + t) + i];
  }
  for (int t = 0; t < 2; t++) d.elements[t] = reach(c.at, t);
  d.batched[0] = 1;
  d.batched[1] = !Parameter;
  return d;
}
template <int Kind, bool Parameter>
int binary_forward(const Call& c) {
  const FeBinary d = binary_of<Kind, Parameter>(c);
  return fe_binary_forward(&d, c.in(0), Parameter ? c.value(0) : c.in(1), c.out(0));
}
template <int Kind, bool Parameter>
int binary_backward(const Call& c) {
  const FeBinary d = binary_of<Kind, Parameter>(c);
  return fe_binary_backward(&d, c.in(0), Parameter ? c.value(0) : c.in(1), c.d_out(0), c.d_in(0),
                            Parameter ? c.gradient(0) : c.d_in(1));
}
template <int Kind, bool Parameter = false>
constexpr Row binary(const char* name) {
  return {name, 3 * FE_DIMS, 0, binary_sizes<Kind, Parameter>, binary_forward<Kind, Parameter>,
          binary_backward<Kind, Parameter>};
}

// ints: values per sample, number of the operation. reals: probability.
bool dropout_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.in = s.out = {product({at.ints[0]})};
  return at.ints[0] <= (int64_t)1 << 32;
}
FeDropout drawn(const Call& c) {
  return {c.lanes, c.blocks, c.threads, (uint32_t)c.first, c.at.ints[0],
          c.dropout_key(c.at.ints[1]), c.r(0)};
}
template <bool Shared>
int drop(const Call& c, const real* x, real* y) {
  const FeDropout d = drawn(c);
  return !y ? (int)FE_OK : Shared ? fe_shared_dropout(&d, x, y) : fe_dropout(&d, x, y);
}
template <bool Shared>
int dropout_forward(const Call& c) { return drop<Shared>(c, c.in(0), c.out(0)); }
template <bool Shared>
int dropout_backward(const Call& c) { return drop<Shared>(c, c.d_out(0), c.d_in(0)); }

// As dropout's, but nothing of the input is read: values of its shape, without a gradient.
int uniform_forward(const Call& c) {
  const FeDropout d = drawn(c);
  return fe_uniform(&d, c.out(0));
}
int shared_uniform_forward(const Call& c) {
  const FeDropout d = drawn(c);
  return fe_shared_uniform(&d, c.out(0));
}
int uniform_backward(const Call& c) {
  if (c.d_in(0)) std::fill_n(c.d_in(0), c.at.ints[0] * c.blocks * c.lanes, real(0));
  return FE_OK;
}

}  // namespace

const Row kActivationRows[] = {
    activation<FE_AFFINE>("affine"),
    activation<FE_HARDTANH>("hardtanh"),
    activation<FE_LEAKY_RELU>("leaky_relu"),
    activation<FE_GELU>("gelu"),
    activation<FE_GELU_TANH>("gelu_tanh"),
    activation<FE_SILU>("silu"),
    activation<FE_HARDSWISH>("hardswish"),
    activation<FE_HARDSIGMOID>("hardsigmoid"),
    activation<FE_SIGMOID>("sigmoid"),
    activation<FE_TANH>("tanh"),
    activation<FE_ELU>("elu"),
    activation<FE_SOFTPLUS>("softplus"),
    activation<FE_MISH>("mish"),
    activation<FE_EXP>("exp"),
    activation<FE_LOG>("log"),
    activation<FE_SQRT>("sqrt"),
    activation<FE_RECIPROCAL>("reciprocal"),
    activation<FE_ABS>("abs"),
    activation<FE_POWER>("power"),
    activation<FE_SIN>("sin"),
    activation<FE_COS>("cos"),
    activation<FE_ERF>("erf"),
    activation<FE_ATAN>("atan"),
    activation<FE_GREATER>("greater"),
    activation<FE_EQUAL>("equal"),
    activation<FE_TRUNC>("trunc"),
    activation<FE_FLOOR>("floor"),
    activation<FE_ROUND>("round"),
    activation<FE_STOP>("stop"),
    binary<FE_ADD>("add_broadcast"),
    binary<FE_SUBTRACT>("subtract"),
    binary<FE_MULTIPLY>("multiply"),
    binary<FE_ADD, true>("add_parameter"),
    binary<FE_SUBTRACT, true>("subtract_parameter"),
    binary<FE_MULTIPLY, true>("multiply_parameter"),
    {"dropout", 2, 1, dropout_sizes, dropout_forward<false>, dropout_backward<false>},
    {"shared_dropout", 2, 1, dropout_sizes, dropout_forward<true>, dropout_backward<true>},
    {"uniform", 2, 1, dropout_sizes, uniform_forward, uniform_backward},
    {"shared_uniform", 2, 1, dropout_sizes, shared_uniform_forward, uniform_backward},
    {}};

}  // namespace fe
