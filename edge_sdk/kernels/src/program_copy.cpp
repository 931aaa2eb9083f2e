// Rows that move values: permute, slice, flip, join, a parameter (or the lengths in it) for
// every sample, and into and out of the bfloat16 in which activations may wait for the
// backward pass.
#include <cmath>
#include <cstring>

#include "fe_elementwise.h"
#include "fe_sequence.h"
#include "program.h"

namespace fe {
namespace {

// ints: six sizes of the result, six strides in the input, offset, values of the input, whether
// what the result lacks of them has a gradient of zero: else other copies write it.
constexpr int kOffset = 2 * FE_COPY_DIMS, kValues = kOffset + 1, kFill = kValues + 1;

bool copy_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const int64_t* n = at.ints.data();
  // A value that is read twice would need a sum backward.
  for (int i = 0; i < FE_COPY_DIMS; i++)
    if (n[i] > 1 && n[FE_COPY_DIMS + i] == 0) return false;
  s.out = {product({n[0], n[1], n[2], n[3], n[4], n[5]})};
  s.in = {product({n[kValues]})};
  return true;
}
FeCopy copy_of(const Call& c, int strided) {
  const int64_t* n = c.at.ints.data();
  FeCopy d{};
  d.lanes = c.lanes;
  d.blocks = c.blocks;
  d.threads = c.threads;
  d.dims = FE_COPY_DIMS;
  int64_t dense = 1;
  for (int i = FE_COPY_DIMS - 1; i >= 0; i--) {
    d.shape[i] = n[i];
    d.stride[strided][i] = n[FE_COPY_DIMS + i];
    d.stride[1 - strided][i] = dense;
    dense *= n[i];
  }
  d.offset[strided] = n[kOffset];
  d.elements[strided] = n[kValues];
  d.elements[1 - strided] = dense;
  return d;
}
int copy_forward(const Call& c) {
  const FeCopy d = copy_of(c, 0);
  return fe_copy(&d, c.in(0), c.out(0));
}
int copy_backward(const Call& c) {
  if (!c.d_in(0)) return FE_OK;
  const FeCopy d = copy_of(c, 1);
  if (c.at.ints[kFill] && d.elements[0] != d.elements[1])
    fe_fill(d.elements[1] * c.blocks * c.lanes, 0, c.d_in(0));
  return fe_copy(&d, c.d_out(0), c.d_in(0));
}

// ints: sizes before the axis that is joined, and of both parts from it on.
bool join_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.in = {product({at.ints[0], at.ints[1]}), product({at.ints[0], at.ints[2]})};
  if (s.in[0] < 0 || s.in[1] < 0) return false;
  s.out = {product({at.ints[0], at.ints[1] + at.ints[2]})};
  return true;
}
// Between part k and its place in the whole.
int join_part(const Call& c, int k, const real* from, real* to, bool into) {
  const int64_t outer = c.at.ints[0], own = c.at.ints[1 + k];
  const int64_t both = c.at.ints[1] + c.at.ints[2];
  FeCopy d{c.lanes, c.blocks, c.threads, 2, {outer, own}, {}, {}, {}};
  const int whole = into ? 1 : 0;
  d.stride[whole][0] = both;
  d.stride[1 - whole][0] = own;
  d.stride[0][1] = d.stride[1][1] = 1;
  d.offset[whole] = k ? c.at.ints[1] : 0;
  d.elements[whole] = outer * both;
  d.elements[1 - whole] = outer * own;
  return fe_copy(&d, from, to);
}
int join_forward(const Call& c) {
  const int code = join_part(c, 0, c.in(0), c.out(0), true);
  return code ? code : join_part(c, 1, c.in(1), c.out(0), true);
}
int join_backward(const Call& c) {
  for (int k = 0; k < 2; k++) {
    const int code = c.d_in(k) ? join_part(c, k, c.d_out(0), c.d_in(k), false) : 0;
    if (code) return code;
  }
  return FE_OK;
}

// The structure of a weight that a mask has thinned out; null if every value is there.
const FeStructure* thinned(const Instruction& at, const FeParameter* parameters) {
  if (at.parameters.empty() || at.parameters[0] < 0) return nullptr;
  const FeStructure* s = parameters[at.parameters[0]].structure;
  return s && !s->full ? s : nullptr;
}

// body(place, k): where kept value k is among all values.
template <class F>
void each_kept(const FeStructure& s, F body) {
  fe::with_columns(s, [&](auto columns) {
    for (int64_t row = 0; row < s.rows; row++)
      for (int32_t k = s.row_start[row]; k < s.row_start[row + 1]; k++)
        body(row * s.cols + columns[k], k);
  });
}

// ints: values. The parameter, the same for every sample; zero where a mask has cut it.
bool repeat_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  s.out = s.parameters = {product({at.ints[0]})};
  if (const FeStructure* own = thinned(at, parameters)) {
    if ((int64_t)own->rows * own->cols != at.ints[0]) return false;
    s.parameters = {own->nnz};
  }
  return true;
}
int repeat_forward(const Call& c) {
  const int64_t n = c.at.ints[0];
  const real* p = c.value(0);
  real* y = c.out(0);
  if (const FeStructure* own = thinned(c.at, c.parameters)) {
    real* all = scratch<real>(kWeights, (size_t)n);
    if (!all) return FE_NO_MEMORY;
    std::memset(all, 0, (size_t)n * sizeof(real));
    each_kept(*own, [&](int64_t place, int64_t k) { all[place] = p[k]; });
    p = all;
  }
  for (int b = 0; b < c.blocks; b++)
    for (int64_t i = 0; i < n; i++)
      for (int l = 0; l < c.lanes; l++) y[(b * n + i) * c.lanes + l] = p[i];
  return FE_OK;
}
int repeat_backward(const Call& c) {
  real* to = c.gradient(0);
  if (!to) return FE_OK;
  const FeStructure* own = thinned(c.at, c.parameters);
  real* all = own ? scratch<real>(kUntrained, (size_t)c.at.ints[0]) : to;
  if (!all) return FE_NO_MEMORY;
  FeBinary d{};
  d.kind = FE_ADD;
  d.lanes = c.lanes;
  d.blocks = c.blocks;
  d.threads = c.threads;
  d.dims = 1;
  d.accumulate = c.accumulate && !own;
  d.shape[0] = d.elements[0] = d.elements[1] = c.at.ints[0];
  d.stride[0][0] = d.stride[1][0] = d.batched[0] = 1;
  const int code = fe_binary_backward(&d, nullptr, nullptr, c.d_out(0), nullptr, all);
  if (own)
    each_kept(*own, [&](int64_t place, int64_t k) {
      to[k] = all[place] + (c.accumulate ? to[k] : 0);
    });
  return code;
}

// ints: sizes before an axis, of it, behind it. One over the length of each of the axis's
// parts of a parameter, the same for every sample; zero where a mask has cut the part.
bool lengths_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  const int64_t all = product({at.ints[0], at.ints[1], at.ints[2]});
  s.out = {product({at.ints[1]})};
  s.parameters = {all};
  if (const FeStructure* own = thinned(at, parameters)) {
    if ((int64_t)own->rows * own->cols != all) return false;
    s.parameters = {own->nnz};
  }
  s.reads_out = 1;
  return true;
}
// body(part, k): which part of the axis value k of the parameter belongs to.
template <class F>
void each_part(const Call& c, F body) {
  const int64_t parts = c.at.ints[1], behind = c.at.ints[2];
  if (const FeStructure* own = thinned(c.at, c.parameters))
    each_kept(*own, [&](int64_t place, int64_t k) { body(place / behind % parts, k); });
  else
    for (int64_t k = 0, n = c.at.ints[0] * parts * behind; k < n; k++)
      body(k / behind % parts, k);
}
int lengths_forward(const Call& c) {
  const int64_t parts = c.at.ints[1];
  double* sums = scratch<double>(kWeights, (size_t)parts);
  if (!sums) return FE_NO_MEMORY;
  std::memset(sums, 0, (size_t)parts * sizeof(double));
  const real* p = c.value(0);
  each_part(c, [&](int64_t part, int64_t k) { sums[part] += (double)p[k] * p[k]; });
  real* y = c.out(0);
  for (int b = 0; b < c.blocks; b++)
    for (int64_t i = 0; i < parts; i++) {
      const real own = sums[i] > 0 ? (real)(1 / std::sqrt(sums[i])) : 0;
      for (int l = 0; l < c.lanes; l++) y[(b * parts + i) * c.lanes + l] = own;
    }
  return FE_OK;
}
int lengths_backward(const Call& c) {
  real* to = c.gradient(0);
  if (!to) return FE_OK;
  const int64_t parts = c.at.ints[1];
  real* slope = scratch<real>(kUntrained, (size_t)parts);
  if (!slope) return FE_NO_MEMORY;
  FeBinary d{};
  d.kind = FE_ADD;
  d.lanes = c.lanes;
  d.blocks = c.blocks;
  d.threads = c.threads;
  d.dims = 1;
  d.shape[0] = d.elements[0] = d.elements[1] = parts;
  d.stride[0][0] = d.stride[1][0] = d.batched[0] = 1;
  const int code = fe_binary_backward(&d, nullptr, nullptr, c.d_out(0), nullptr, slope);
  const real* y = c.out(0);
  for (int64_t i = 0; i < parts; i++) slope[i] *= y[i * c.lanes] * y[i * c.lanes] * y[i * c.lanes];
  const real* p = c.value(0);
  each_part(c, [&](int64_t part, int64_t k) {
    to[k] = (c.accumulate ? to[k] : 0) - slope[part] * p[k];
  });
  return code;
}

// ints: values per sample. Two bfloat16 lie in one real of four bytes.
using Half = uint16_t __attribute__((may_alias));

bool narrow_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.in = {product({at.ints[0]})};
  s.out = {(s.in[0] + 1) / 2};
  return s.in[0] > 0;
}
bool widen_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.out = {product({at.ints[0]})};
  s.in = {(s.out[0] + 1) / 2};
  return s.out[0] > 0;
}
// To the nearest, ties to even; what is no number stays none.
inline Half narrowed(real x) {
  const float value = (float)x;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return (Half)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
}
inline real widened(Half x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return (real)value;
}
int narrow_forward(const Call& c) {
  const int64_t each = c.at.ints[0] * c.lanes;
  parallel_for(c.blocks, c.threads, [&](int b) {
    const real* x = c.in(0) + b * each;
    Half* y = (Half*)c.out(0) + b * each;
    for (int64_t i = 0; i < each; i++) y[i] = narrowed(x[i]);
  });
  return FE_OK;
}
int widen_forward(const Call& c) {
  const int64_t each = c.at.ints[0] * c.lanes;
  parallel_for(c.blocks, c.threads, [&](int b) {
    const Half* x = (const Half*)c.in(0) + b * each;
    real* y = c.out(0) + b * each;
    for (int64_t i = 0; i < each; i++) y[i] = widened(x[i]);
  });
  return FE_OK;
}

}  // namespace

const Row kCopyRows[] = {
    {"copy", kFill + 1, 0, copy_sizes, copy_forward, copy_backward},
    {"join", 3, 0, join_sizes, join_forward, join_backward},
    {"repeat", 1, 0, repeat_sizes, repeat_forward, repeat_backward},
    {"lengths", 3, 0, lengths_sizes, lengths_forward, lengths_backward},
    {"to_bf16", 1, 0, narrow_sizes, narrow_forward, nullptr},
    {"from_bf16", 1, 0, widen_sizes, widen_forward, nullptr},
    {}};

}  // namespace fe
