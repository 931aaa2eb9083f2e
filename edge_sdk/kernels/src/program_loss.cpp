// Rows of losses: means over the samples of a whole step.
#include <cmath>

#include "fe_loss.h"
#include "program.h"

namespace fe {
namespace {

// ints: classes, positions per sample; in the general form also the label that is ignored,
// whether predictions are log-probabilities, and the external that labels come from or
// -1. reals of the general form: smoothing. Inputs: predictions, labels. Stash: the
// logarithm of the sum of exponentials at each position.
constexpr int64_t kIgnoredByDefault = -100;

bool class_loss_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  if (at.ints[0] > INT32_MAX || at.ints[1] > INT32_MAX) return false;
  s.in = {product({at.ints[0], at.ints[1]}), product({at.ints[1]})};
  s.stash = {product({at.ints[1]})};
  s.reads_in = 3;
  s.reads_stash = 1;
  return true;
}

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

// Labels of the whole batch that are not ignored; -1 where a chunk cannot know it.
double labels_of_batch(const Call& c, const FeClassLoss& d, double own) {
  if (c.samples == c.batch) return own;
  const int64_t at = c.at.ints.size() > 2 ? c.at.ints[4] : -1;
  if (at < 0 || at >= c.external_count)
    return own == (double)c.samples * d.positions ? (double)c.batch * d.positions : -1;
  const FeExternal& e = c.externals[at];
  if (e.type != FE_FROM_INT64 || !e.data || e.per_sample != d.positions) return -1;
  int64_t count = 0;
  for (int64_t i = 0; i < c.batch * e.per_sample; i++)
    count += ((const int64_t*)e.data)[i] != d.ignore;
  return (double)count;
}

int divisor_of(const Call& c, const FeClassLoss& d, double& divisor) {
  double own = 0;
  int32_t sample;
  const int code = fe_class_loss_weight(&d, c.in(1), nullptr, &own, &sample);
  if (code) return told(c, code, sample);
  divisor = labels_of_batch(c, d, own);
  return divisor < 0 ? (int)FE_BAD_BATCH : (int)FE_OK;
}

int class_loss_forward(const Call& c) {
  const FeClassLoss d = class_loss_of(c);
  double divisor = 0, total = 0;
  int32_t sample = -1;
  int code = divisor_of(c, d, divisor);
  if (code) return code;
  code = fe_class_loss_forward(&d, c.in(0), c.in(1), nullptr, c.stash(0), &total, &sample);
  *c.loss += total / divisor;
  return told(c, code, sample);
}

int class_loss_backward(const Call& c) {
  if (!c.d_in(0)) return FE_OK;
  const FeClassLoss d = class_loss_of(c);
  double divisor = 0;
  const int code = divisor_of(c, d, divisor);
  if (code) return code;
  return fe_class_loss_backward(&d, c.in(0), c.in(1), nullptr, c.stash(0),
                                divisor > 0 ? 1 / divisor : 0, c.d_in(0));
}

// ints: values per sample. reals: delta, except for the squared error. Inputs: predictions,
// targets.
bool value_loss_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const int64_t size = product({at.ints[0]});
  s.in = {size, size};
  s.reads_in = 3;
  return true;
}

template <int Kind>
FeValueLoss value_loss_of(const Call& c) {
  return {Kind, c.samples, c.lanes, c.blocks, c.threads, c.at.ints[0],
          c.at.reals.empty() ? 1.0 : c.r(0)};
}

double values_of_batch(const Call& c) { return (double)c.batch * (double)c.at.ints[0]; }

template <int Kind>
int value_loss_forward(const Call& c) {
  const FeValueLoss d = value_loss_of<Kind>(c);
  double total = 0;
  int32_t sample = -1;
  const int code = fe_value_loss_forward(&d, c.in(0), c.in(1), nullptr, &total, &sample);
  *c.loss += total / values_of_batch(c);
  return told(c, code, sample);
}

template <int Kind>
int value_loss_backward(const Call& c) {
  const FeValueLoss d = value_loss_of<Kind>(c);
  if (!c.d_in(0)) return FE_OK;
  return fe_value_loss_backward(&d, c.in(0), c.in(1), nullptr, 1 / values_of_batch(c), c.d_in(0));
}

template <int Kind>
constexpr Row value_loss(const char* name) {
  return {name, 1, Kind != FE_SQUARED_ERROR, value_loss_sizes, value_loss_forward<Kind>,
          value_loss_backward<Kind>};
}

}  // namespace

const Row kLossRows[] = {
    {"cross_entropy", 2, 0, class_loss_sizes, class_loss_forward, class_loss_backward},
    {"class_loss", 5, 1, class_loss_sizes, class_loss_forward, class_loss_backward},
    value_loss<FE_SQUARED_ERROR>("mse"),
    value_loss<FE_ABSOLUTE_ERROR>("l1"),
    value_loss<FE_SMOOTH_L1>("smooth_l1"),
    value_loss<FE_HUBER>("huber"),
    value_loss<FE_BINARY_CROSS_ENTROPY>("binary_cross_entropy"),
    {}};

}  // namespace fe
