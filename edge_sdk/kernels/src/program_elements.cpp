// Element-wise operations and means over pixels.
#include "program.h"
#include "support.h"

namespace fe {
namespace {

// ints: values per sample.
bool relu_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.in = s.out = {product({at.ints[0]})};
  s.reads_out = 1;
  return true;
}

bool add_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.out = {product({at.ints[0]})};
  s.in = {s.out[0], s.out[0]};
  return true;
}

typedef Vector<4>::T Four;  // lanes come in fours at least

// f(i) for every fourth value of a chunk.
template <class F>
void by_fours(const Call& c, F f) {
  const int64_t per_block = c.at.ints[0] * c.lanes;
  parallel_for(c.blocks, c.threads, [&](int b) {
    const int64_t end = (b + 1) * per_block;
    for (int64_t i = b * per_block; i < end; i += 4) f(i);
  });
}

int relu_forward(const Call& c) {
  const real* x = c.in(0);
  real* y = c.out(0);
  by_fours(c, [&](int64_t i) { store(y + i, relu(load<Four>(x + i))); });
  return FE_OK;
}

int relu_backward(const Call& c) {
  const real *y = c.out(0), *dy = c.d_out(0);
  real* dx = c.d_in(0);
  if (!dx) return FE_OK;
  by_fours(c, [&](int64_t i) {
    store(dx + i, relu_gradient(load<Four>(y + i), load<Four>(dy + i)));
  });
  return FE_OK;
}

int add_forward(const Call& c) {
  const real *a = c.in(0), *b = c.in(1);
  real* y = c.out(0);
  by_fours(c, [&](int64_t i) { store(y + i, load<Four>(a + i) + load<Four>(b + i)); });
  return FE_OK;
}

// ints: channels, pixels.
bool mean_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.in = {product({at.ints[0], at.ints[1]})};
  s.out = {product({at.ints[0]})};
  return true;
}

int mean_forward(const Call& c) {
  const int64_t pixels = c.at.ints[1];
  const int lanes = c.lanes;
  const real share = (real)(1.0 / pixels);
  parallel_for(c.blocks * c.i(0), c.threads, [&](int plane) {
    const real* x = c.in(0) + plane * pixels * lanes;
    for (int l = 0; l < lanes; l += 4) {
      Four total = {};
      for (int64_t p = 0; p < pixels; p++) total += load<Four>(x + p * lanes + l);
      store(c.out(0) + (int64_t)plane * lanes + l, total * share);
    }
  });
  return FE_OK;
}

int mean_backward(const Call& c) {
  const int64_t pixels = c.at.ints[1];
  const int lanes = c.lanes;
  const real share = (real)(1.0 / pixels);
  if (!c.d_in(0)) return FE_OK;
  parallel_for(c.blocks * c.i(0), c.threads, [&](int plane) {
    real* dx = c.d_in(0) + plane * pixels * lanes;
    for (int l = 0; l < lanes; l += 4) {
      const Four g = load<Four>(c.d_out(0) + (int64_t)plane * lanes + l) * share;
      for (int64_t p = 0; p < pixels; p++) store(dx + p * lanes + l, g);
    }
  });
  return FE_OK;
}

}  // namespace

const Row kElementRows[] = {{"relu", 1, 0, relu_sizes, relu_forward, relu_backward},
                            {"add", 1, 0, add_sizes, add_forward, nullptr},
                            {"mean", 2, 0, mean_sizes, mean_forward, mean_backward},
                            {}};

}  // namespace fe
