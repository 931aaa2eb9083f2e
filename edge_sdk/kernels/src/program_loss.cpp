// Rows of losses: means over the samples of a whole step.
#include <cmath>

#include "fe_loss.h"
#include "loss_sum.h"
#include "program.h"

namespace fe {
namespace {

// ints: classes, positions per sample; in the general form also the label that is ignored,
// whether predictions are log-probabilities, and the external that labels come from or
// -1. reals of the general form: smoothing, and the loss's factor in the step's; its
// parameter: weights of the classes. Inputs: predictions, labels. Stash: the logarithm of
// the sum of exponentials at each position.
constexpr int64_t kIgnoredByDefault = -100;

bool class_loss_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  if (at.ints[0] > INT32_MAX || at.ints[1] > INT32_MAX) return false;
  s.in = {product({at.ints[0], at.ints[1]}), product({at.ints[1]})};
  s.stash = {product({at.ints[1]})};
  s.reads_in = 3;
  s.reads_stash = 1;
  if (at.ints.size() > 2) s.parameters = {at.ints[0]};
  s.optional = 1;
  return true;
}

const real* class_weights(const Call& c) {
  return c.at.parameters.empty() ? nullptr : c.value(0);
}
double factor_of(const Call& c) { return c.at.reals.size() > 1 ? c.r(1) : 1.0; }

FeClassLoss class_loss_of(const Call& c) {
  const bool general = c.at.ints.size() > 2;
  return {c.samples, c.lanes, c.blocks, c.threads, c.i(0), c.i(1), general ? c.i(3) : 0,
          general ? c.at.ints[2] : kIgnoredByDefault, general ? c.r(0) : 0.0};
}

// A loss that is NaN or infinite is a result; a label that is no class is an error.
int told(const Call& c, int code, int32_t sample) {
  if (code == FE_NOT_FINITE) *c.loss = std::nan("");
  if (code == FE_BAD_LABEL) *c.bad_sample = c.first + sample;
  return code == FE_NOT_FINITE ? FE_OK : code == FE_BAD_LABEL ? FE_BAD_DATA : code;
}

// Weights of the whole batch's labels that are not ignored; NaN where a chunk cannot know.
double labels_of_batch(const Call& c, const FeClassLoss& d, double own) {
  if (c.samples == c.batch) return own;
  const real* weight = class_weights(c);
  const int64_t at = c.at.ints.size() > 2 ? c.at.ints[4] : -1;
  if (at < 0 || at >= c.external_count)
    return !weight && own == (double)c.samples * d.positions ? (double)c.batch * d.positions
                                                             : std::nan("");
  const FeExternal& e = c.externals[at];
  if (e.type != FE_FROM_INT64 || !e.data || e.per_sample != d.positions)
    return std::nan("");
  double sum = 0;
  for (int64_t i = 0; i < c.batch * e.per_sample; i++) {
    const int64_t label = ((const int64_t*)e.data)[i];
    const bool good = label >= 0 && label < d.classes;
    if (label != d.ignore) sum += weight && good ? (double)weight[label] : 1.0;
  }
  return sum;
}

int divisor_of(const Call& c, const FeClassLoss& d, double& divisor) {
  double own = 0;
  int32_t sample;
  const int code = fe_class_loss_weight(&d, c.in(1), class_weights(c), &own, &sample);
  if (code) return told(c, code, sample);
  divisor = labels_of_batch(c, d, own);
  return std::isnan(divisor) ? (int)FE_BAD_BATCH : (int)FE_OK;
}

int class_loss_forward(const Call& c) {
  const FeClassLoss d = class_loss_of(c);
  double divisor = 0, total = 0;
  int32_t sample = -1;
  int code = divisor_of(c, d, divisor);
  if (code) return code;
  code = fe_class_loss_forward(&d, c.in(0), c.in(1), class_weights(c), c.stash(0), &total, &sample);
  *c.loss += factor_of(c) * total / divisor;
  return told(c, code, sample);
}

int class_loss_backward(const Call& c) {
  if (!c.d_in(0)) return FE_OK;
  const FeClassLoss d = class_loss_of(c);
  double divisor = 0;
  const int code = divisor_of(c, d, divisor);
  if (code) return code;
  return fe_class_loss_backward(&d, c.in(0), c.in(1), class_weights(c), c.stash(0),
                                divisor != 0 ? factor_of(c) / divisor : 0, c.d_in(0));
}

// ints: values per sample. reals: delta and the loss's factor; none in the short form of
// the squared error. Inputs: predictions, targets. Parameter of the binary cross-entropy:
// weights of its positive terms, one for each value.
template <int Kind>
bool value_loss_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const int64_t size = product({at.ints[0]});
  s.in = {size, size};
  s.reads_in = 3;
  if (Kind == FE_BINARY_CROSS_ENTROPY) s.parameters = {size};
  s.optional = 1;
  return true;
}

template <int Kind>
FeValueLoss value_loss_of(const Call& c) {
  return {Kind, c.samples, c.lanes, c.blocks, c.threads, c.at.ints[0],
          c.at.reals.empty() ? 1.0 : c.r(0)};
}

// What one value's term counts for in the step's loss.
double share_of(const Call& c) {
  return factor_of(c) / ((double)c.batch * (double)c.at.ints[0]);
}

template <int Kind>
int value_loss_forward(const Call& c) {
  const FeValueLoss d = value_loss_of<Kind>(c);
  double total = 0;
  int32_t sample = -1;
  const int code = fe_value_loss_forward(&d, c.in(0), c.in(1), class_weights(c), &total, &sample);
  *c.loss += total * share_of(c);
  return told(c, code, sample);
}

template <int Kind>
int value_loss_backward(const Call& c) {
  const FeValueLoss d = value_loss_of<Kind>(c);
  if (!c.d_in(0)) return FE_OK;
  return fe_value_loss_backward(&d, c.in(0), c.in(1), class_weights(c), share_of(c), c.d_in(0));
}

template <int Kind>
constexpr Row value_loss(const char* name, int reals = 2) {
  return {name, 1, reals, value_loss_sizes<Kind>, value_loss_forward<Kind>,
          value_loss_backward<Kind>};
}

// The mean of all values as the loss. ints: values per sample. reals: 1, and its factor.
bool mean_loss_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.in = {product({at.ints[0]})};
  return true;
}
int mean_loss_forward(const Call& c) {
  const int64_t n = c.at.ints[0];
  double total = 0;
  int32_t sample = -1;
  const int code = sum_of_samples(c.samples, c.lanes, c.blocks, c.threads, &total, &sample,
                                  [&](int block, double* sums) {
    for (int64_t i = 0; i < n; i++)
      for (int l = 0; l < valid_in_block(c.samples, c.lanes, block); l++)
        sums[l] += c.in(0)[((int64_t)block * n + i) * c.lanes + l];
    return true;
  });
  *c.loss += total * share_of(c);
  return told(c, code, sample);
}
int mean_loss_backward(const Call& c) {
  if (!c.d_in(0)) return FE_OK;
  const int64_t n = c.at.ints[0];
  const real share = (real)share_of(c);
  parallel_for(c.blocks, c.threads, [&](int block) {
    const int valid = valid_in_block(c.samples, c.lanes, block);
    real* to = c.d_in(0) + (int64_t)block * n * c.lanes;
    for (int64_t i = 0; i < n; i++)
      for (int l = 0; l < c.lanes; l++) to[i * c.lanes + l] = l < valid ? share : 0;
  });
  return FE_OK;
}

}  // namespace

const Row kLossRows[] = {
    {"cross_entropy", 2, 0, class_loss_sizes, class_loss_forward, class_loss_backward},
    {"class_loss", 5, 2, class_loss_sizes, class_loss_forward, class_loss_backward},
    value_loss<FE_SQUARED_ERROR>("mse", 0),
    value_loss<FE_SQUARED_ERROR>("squared_error"),
    value_loss<FE_ABSOLUTE_ERROR>("l1"),
    value_loss<FE_SMOOTH_L1>("smooth_l1"),
    value_loss<FE_HUBER>("huber"),
    value_loss<FE_BINARY_CROSS_ENTROPY>("binary_cross_entropy"),
    {"mean_loss", 1, 2, mean_loss_sizes, mean_loss_forward, mean_loss_backward},
    {}};

}  // namespace fe
