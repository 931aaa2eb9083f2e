// Rows of what the samples of a whole batch make together.
#include "fe_batch.h"
#include "program.h"

namespace fe {
namespace {

// ints: values per sample, 1 for their mean.
bool sum_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  if (at.ints[0] > INT32_MAX || at.ints[1] < 0 || at.ints[1] > 1) return false;
  s.in = s.out = {product({at.ints[0]})};
  return true;
}
FeBatchSum sum_of(const Call& c) {
  return {c.samples, c.lanes, c.blocks, c.threads, c.i(0), c.i(1)};
}
int sum_forward(const Call& c) {
  const FeBatchSum d = sum_of(c);
  return c.samples == c.batch ? fe_batch_sum_forward(&d, c.in(0), c.out(0)) : (int)FE_BAD_BATCH;
}
int sum_backward(const Call& c) {
  const FeBatchSum d = sum_of(c);
  return c.d_in(0) ? fe_batch_sum_backward(&d, c.d_out(0), c.d_in(0)) : (int)FE_OK;
}

// ints: values per sample, kind of order, places, number of the operation. reals: 0 for an
// order that is not drawn.
bool order_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  if (at.ints[0] > INT32_MAX || at.ints[1] < FE_FLIPPED || at.ints[1] > FE_SHUFFLED) return false;
  if (at.ints[2] < INT32_MIN || at.ints[2] > INT32_MAX) return false;
  s.in = s.out = {product({at.ints[0]})};
  return true;
}
FeBatchOrder order_of(const Call& c) {
  return {c.samples, c.lanes, c.blocks, c.threads, c.i(0), c.i(1), c.i(2), c.r(0) == 0,
          c.dropout_key(c.at.ints[3])};
}
int order_forward(const Call& c) {
  const FeBatchOrder d = order_of(c);
  return c.samples == c.batch ? fe_batch_order_forward(&d, c.in(0), c.out(0)) : (int)FE_BAD_BATCH;
}
int order_backward(const Call& c) {
  const FeBatchOrder d = order_of(c);
  return c.d_in(0) ? fe_batch_order_backward(&d, c.d_out(0), c.d_in(0)) : (int)FE_OK;
}

// ints: rows and columns of a sample, their width, shift, 1 where a row does not see its own
// column. Stash: each row's logarithm of a sum.
constexpr int64_t kMost = 1 << 20;

bool contrast_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const int64_t* n = at.ints.data();
  for (int k = 0; k < 3; k++)
    if (n[k] < 1 || n[k] > kMost) return false;
  if (n[3] < 0 || n[3] >= n[1] || n[4] < 0 || n[4] > 1) return false;
  if (n[4] && (n[0] != n[1] || !n[3])) return false;
  s.in = {product({n[0], n[2]}), product({n[1], n[2]})};
  s.out = {product({n[0]})};
  s.stash = {product({n[0]})};
  s.reads_in = 3;
  s.reads_stash = 1;
  return true;
}
FeContrast contrast_of(const Call& c) {
  return {c.samples, c.lanes, c.blocks, c.threads, c.i(0), c.i(1), c.i(2), c.i(3), c.i(4)};
}
int contrast_forward(const Call& c) {
  if (c.samples != c.batch) return FE_BAD_BATCH;
  const FeContrast d = contrast_of(c);
  return fe_contrast_forward(&d, c.in(0), c.in(1), c.out(0), c.stash(0));
}
int contrast_backward(const Call& c) {
  const FeContrast d = contrast_of(c);
  return fe_contrast_backward(&d, c.in(0), c.in(1), c.stash(0), c.d_out(0), c.d_in(0), c.d_in(1));
}

}  // namespace

const Row kBatchRows[] = {
    {"batch_sum", 2, 0, sum_sizes, sum_forward, sum_backward},
    {"batch_order", 4, 1, order_sizes, order_forward, order_backward},
    {"contrast", 5, 0, contrast_sizes, contrast_forward, contrast_backward},
    {}};

}  // namespace fe
