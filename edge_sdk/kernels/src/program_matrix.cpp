// Rows of products of two tensors' matrices, and of the choice between two values.
#include "fe_matrix.h"
#include "program.h"

namespace fe {
namespace {

constexpr int64_t kMost = 1 << 24;

// ints: matrices, rows, depth, columns.
bool product_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const int64_t* n = at.ints.data();
  for (int k = 0; k < 4; k++)
    if (n[k] < 1 || n[k] > kMost) return false;
  s.in = {product({n[0], n[1], n[2]}), product({n[0], n[2], n[3]})};
  s.out = {product({n[0], n[1], n[3]})};
  s.reads_in = 3;
  return true;
}
FeProduct product_of(const Call& c) {
  return {c.lanes, c.blocks, c.threads, c.i(0), c.i(1), c.i(2), c.i(3)};
}
int product_forward(const Call& c) {
  const FeProduct d = product_of(c);
  return fe_product_forward(&d, c.in(0), c.in(1), c.out(0));
}
int product_backward(const Call& c) {
  const FeProduct d = product_of(c);
  return fe_product_backward(&d, c.in(0), c.in(1), c.d_out(0), c.d_in(0), c.d_in(1));
}

// ints: values per sample. Inputs: which (0 or not), and the two to choose from.
bool choice_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const int64_t n = product({at.ints[0]});
  s.in = {n, n, n};
  s.out = {n};
  s.reads_in = 1;
  return true;
}
int64_t reals(const Call& c) { return c.at.ints[0] * c.blocks * c.lanes; }
int choice_forward(const Call& c) {
  return fe_choice_forward(reals(c), c.threads, c.in(0), c.in(1), c.in(2), c.out(0));
}
int choice_backward(const Call& c) {
  if (c.d_in(0)) fe_scale(c.d_in(0), reals(c), 0);
  return fe_choice_backward(reals(c), c.threads, c.in(0), c.d_out(0), c.d_in(1), c.d_in(2));
}

}  // namespace

const Row kMatrixRows[] = {{"product", 4, 0, product_sizes, product_forward, product_backward},
                           {"choice", 1, 0, choice_sizes, choice_forward, choice_backward},
                           {}};

}  // namespace fe
