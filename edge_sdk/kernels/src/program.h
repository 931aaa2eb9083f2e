// What an operation of the training program is: a row of a table that says the sizes of
// its operands and calls its kernels. To add one: its rows in a family file, and the
// family in program_table.cpp.
#pragma once
#include <cstdint>
#include <vector>

#include "fe_program.h"
#include "lanes.h"
#include "structure.h"
#include "support.h"

namespace fe {

// One operation, forward or backward. Operands are tensors of the arena by number, -1
// where absent: what the operation reads and writes, what its forward pass leaves for
// the backward pass (stash), and the gradients of outputs and inputs.
struct Instruction {
  int32_t row = 0;
  bool backward = false;
  bool accumulate = false;  // parameter gradients are added to, not overwritten
  std::vector<int32_t> in, out, stash, d_out, d_in, parameters;
  std::vector<int64_t> ints;
  std::vector<double> reals;
};

// Sizes that an operation's integers ask for: reals per sample of each tensor, and
// entries of each parameter.
struct Sizes {
  std::vector<int64_t> in, out, stash, parameters;
  uint32_t optional = 0;    // bit k: parameter k may be absent
  uint32_t structured = 0;  // bit k: parameter k is a weight with a structure
  // Bit k: the backward pass reads input, output or stash k.
  uint32_t reads_in = 0, reads_out = 0, reads_stash = 0;
  // Bit k: output k may have no gradient, if nothing that counts is made of it.
  uint32_t unread = 0;
};

struct Tensor {
  int64_t offset, per_sample;  // reals; one sample takes per_sample of them
};

// An operation at work on one chunk of blocks.
struct Call {
  const Instruction& at;
  const Tensor* tensors;
  real* arena;
  const FeParameter* parameters;
  const FeExternal* externals;
  int32_t external_count;
  double* loss;
  int32_t samples, blocks, lanes, threads;
  int32_t first;       // sample at which this chunk begins
  int32_t batch;       // samples of the whole step: the loss is a mean over them
  bool accumulate;     // parameter gradients are added to, not overwritten
  uint64_t seed;       // of this run's random masks
  int32_t* bad_sample; // where a loss puts the sample whose label is no class

  // Another key for every operation that draws (`number`) and every run.
  uint64_t dropout_key(int64_t number) const {
    return seed ^ (0x9E3779B97F4A7C15u * ((uint64_t)number + 1));
  }
  real* tensor(int32_t id) const { return id < 0 ? nullptr : arena + tensors[id].offset; }
  real* in(int k) const { return tensor(at.in[k]); }
  real* out(int k) const { return tensor(at.out[k]); }
  real* stash(int k) const { return tensor(at.stash[k]); }
  real* d_out(int k) const { return tensor(at.d_out[k]); }
  real* d_in(int k) const { return tensor(at.d_in[k]); }
  const FeParameter* parameter(int k) const {
    return at.parameters[k] < 0 ? nullptr : parameters + at.parameters[k];
  }
  real* value(int k) const { return parameter(k) ? parameter(k)->value : nullptr; }
  real* gradient(int k) const { return parameter(k) ? parameter(k)->gradient : nullptr; }
  const FeStructure* structure(int k) const { return parameter(k)->structure; }
  int32_t i(int k) const { return (int32_t)at.ints[k]; }
  double r(int k) const { return at.reals[k]; }
};

struct Row {
  const char* name;
  int ints, reals;  // how many
  // False if the integers make no sense; structure(k) of the parameters may be asked.
  bool (*sizes)(const Instruction&, const FeParameter*, Sizes&);
  int (*forward)(const Call&);
  int (*backward)(const Call&);
};

// Ends with a row without a name.
extern const Row kEntryRows[], kLayerRows[], kNormRows[], kPoolRows[], kElementRows[],
    kLossRows[], kImageRows[], kDepthwiseRows[], kRecurrentRows[], kActivationRows[], kSequenceRows[],
    kCopyRows[], kNormConvRows[], kMatrixRows[], kBatchRows[];

const Row* find_row(int32_t number);

// Product of sizes; -1 if one is below 1 or it passes 2^40.
inline int64_t product(std::initializer_list<int64_t> sizes) {
  int64_t n = 1;
  for (const int64_t s : sizes) {
    if (s < 1 || s > (int64_t)1 << 31 || n > ((int64_t)1 << 40) / s) return -1;
    n *= s;
  }
  return n;
}

// Runs write(gradient): straight into parameter k's gradient, or into work space that is
// then added where it accumulates. For kernels that overwrite small gradients.
template <class F>
int into_gradient(const Call& c, int k, Slot slot, F write) {
  real* to = c.gradient(k);
  if (!to || !c.accumulate) return write(to);
  const int64_t count = c.parameter(k)->count;
  real* part = scratch<real>(slot, count);
  if (!part) return FE_NO_MEMORY;
  const int code = write(part);
  for (int64_t i = 0; i < count; i++) to[i] += part[i];
  return code;
}

// Where the gradient of parameter 0 goes; work space if it is not trained.
real* weight_gradient(const Call&);

// Ints 0 to 11 of an instruction are a convolution's: its geometry, and whether they fit
// the structure of parameter 0.
FeConv conv_of(const Instruction&, int samples, int lanes, int blocks, int threads);
bool conv_sizes(const Instruction&, const FeParameter*, Sizes&);

// With accumulate, weight gradients are added to what dw holds.
int linear_backward(const FeStructure*, int lanes, int blocks, int threads, const real* x,
                    const real* w, const real* dy, real* dx, real* dw, real* db, bool accumulate);
int conv_backward(const FeStructure&, const FeConv&, const real* x, const FePrologue*,
                  const real* w, const real* dy, real* dx, real* dw, real* db, bool accumulate);

}  // namespace fe
