// Rows of layer norm, softmax, sums along an axis, and attention.
#include "fe_sequence.h"
#include "program.h"

namespace fe {
namespace {

constexpr int64_t kMost = 1 << 20;

// ints: rows per sample, their width. reals: eps. Parameters: gamma, beta.
bool layer_norm_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  if (at.ints[0] > kMost || at.ints[1] > kMost) return false;
  s.in = s.out = {product({at.ints[0], at.ints[1]})};
  s.stash = {product({at.ints[0]}), product({at.ints[0]})};
  s.parameters = {at.ints[1], at.ints[1]};
  s.optional = 3;
  s.reads_in = 1;
  s.reads_stash = 3;
  return true;
}
FeLayerNorm layer_norm_of(const Call& c) {
  return {c.samples, c.lanes, c.blocks, c.threads, c.i(0), c.i(1), c.accumulate, c.r(0)};
}
int layer_norm_forward(const Call& c) {
  const FeLayerNorm d = layer_norm_of(c);
  return fe_layer_norm_forward(&d, c.in(0), c.value(0), c.value(1), c.out(0), c.stash(0),
                               c.stash(1));
}
int layer_norm_backward(const Call& c) {
  const FeLayerNorm d = layer_norm_of(c);
  return fe_layer_norm_backward(&d, c.in(0), c.d_out(0), c.value(0), c.stash(0), c.stash(1),
                                c.d_in(0), c.gradient(0), c.gradient(1));
}

// ints: sizes before, along and after the axis.
FeAxis axis_of(const Call& c, bool logarithm, double factor) {
  return {c.lanes, c.blocks, c.threads, logarithm, c.at.ints[0], c.at.ints[1], c.at.ints[2],
          factor};
}
bool softmax_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.in = s.out = {product({at.ints[0], at.ints[1], at.ints[2]})};
  s.reads_out = 1;
  return true;
}
template <bool Logarithm>
int softmax_forward(const Call& c) {
  const FeAxis d = axis_of(c, Logarithm, 1);
  return fe_softmax_forward(&d, c.in(0), c.out(0));
}
template <bool Logarithm>
int softmax_backward(const Call& c) {
  const FeAxis d = axis_of(c, Logarithm, 1);
  return c.d_in(0) ? fe_softmax_backward(&d, c.out(0), c.d_out(0), c.d_in(0)) : (int)FE_OK;
}

// reals: what the sum is multiplied by.
bool sum_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.in = {product({at.ints[0], at.ints[1], at.ints[2]})};
  s.out = {product({at.ints[0], at.ints[2]})};
  return true;
}
int sum_forward(const Call& c) {
  const FeAxis d = axis_of(c, false, c.r(0));
  return fe_sum_forward(&d, c.in(0), c.out(0));
}
int sum_backward(const Call& c) {
  const FeAxis d = axis_of(c, false, c.r(0));
  return c.d_in(0) ? fe_sum_backward(&d, c.d_out(0), c.d_in(0)) : (int)FE_OK;
}

// ints: heads, queries, keys, width, width of values, causal, number of the operation.
// reals: scale, probability of dropout.
bool attention_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const int64_t heads = at.ints[0], queries = at.ints[1], keys = at.ints[2];
  for (int k = 0; k < 5; k++)
    if (at.ints[k] > kMost) return false;
  s.in = {product({heads, queries, at.ints[3]}), product({heads, keys, at.ints[3]}),
          product({heads, keys, at.ints[4]})};
  s.out = {product({heads, queries, at.ints[4]})};
  s.stash = {product({heads, queries})};
  s.reads_in = 7;
  s.reads_out = 1;
  s.reads_stash = 1;
  return true;
}
FeAttention attention_of(const Call& c) {
  return {c.lanes, c.blocks, c.threads, c.i(0), c.i(1), c.i(2), c.i(3), c.i(4), c.i(5),
          (uint32_t)c.first, c.dropout_key(c.at.ints[6]), c.r(1), c.r(0)};
}
int attention_forward(const Call& c) {
  const FeAttention d = attention_of(c);
  return fe_attention_forward(&d, c.in(0), c.in(1), c.in(2), c.out(0), c.stash(0));
}
int attention_backward(const Call& c) {
  const FeAttention d = attention_of(c);
  real* to[3];
  for (int k = 0; k < 3; k++) {
    to[k] = c.d_in(k);
    // Without a place for it, a gradient goes to work space.
    if (!to[k])
      to[k] = scratch<real>(k == 0 ? kPart : k == 1 ? kPartToo : kUntrained,
                            (size_t)c.blocks * c.lanes * c.i(0) * c.i(k ? 2 : 1) *
                                c.i(k == 2 ? 4 : 3));
    if (!to[k]) return FE_NO_MEMORY;
  }
  return fe_attention_backward(&d, c.in(0), c.in(1), c.in(2), c.out(0), c.stash(0), c.d_out(0),
                               to[0], to[1], to[2]);
}

// ints: rows per sample, their length, size of a window, places between two of them.
template <bool Cut>
bool windows_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const int64_t outer = at.ints[0], length = at.ints[1], size = at.ints[2], hop = at.ints[3];
  if (size < 1 || hop < 1 || length < size) return false;
  const int64_t whole = product({outer, length});
  const int64_t parts = product({outer, (length - size) / hop + 1, size});
  s.in = {Cut ? whole : parts};
  s.out = {Cut ? parts : whole};
  return true;
}
template <bool Cut>
int run_windows(const Call& c, const real* from, real* to) {
  const int64_t* n = c.at.ints.data();
  const FeWindows d{c.lanes, c.blocks, c.threads, n[0], n[1], n[2], n[3]};
  return !to ? (int)FE_OK : Cut ? fe_windows(&d, from, to) : fe_overlap_add(&d, from, to);
}
template <bool Cut>
int windows_forward(const Call& c) { return run_windows<Cut>(c, c.in(0), c.out(0)); }
template <bool Cut>
int windows_backward(const Call& c) { return run_windows<!Cut>(c, c.d_out(0), c.d_in(0)); }

}  // namespace

const Row kSequenceRows[] = {
    {"layer_norm", 2, 1, layer_norm_sizes, layer_norm_forward, layer_norm_backward},
    {"softmax", 3, 0, softmax_sizes, softmax_forward<false>, softmax_backward<false>},
    {"log_softmax", 3, 0, softmax_sizes, softmax_forward<true>, softmax_backward<true>},
    {"sum", 3, 1, sum_sizes, sum_forward, sum_backward},
    {"attention", 7, 2, attention_sizes, attention_forward, attention_backward},
    {"windows", 4, 0, windows_sizes<true>, windows_forward<true>, windows_backward<true>},
    {"overlap_add", 4, 0, windows_sizes<false>, windows_forward<false>, windows_backward<false>},
    {}};

}  // namespace fe
