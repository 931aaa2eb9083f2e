// Losses: means over the samples of a whole step.
#include <cmath>

#include "program.h"
#include "support.h"

namespace fe {
namespace {

// ints: classes, positions per sample. Inputs: logits, labels. Stash: the logarithm of
// the sum of exponentials at each position.
bool cross_entropy_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.in = {product({at.ints[0], at.ints[1]}), product({at.ints[1]})};
  s.stash = {product({at.ints[1]})};
  s.reads_in = 3;
  s.reads_stash = 1;
  return true;
}

int cross_entropy_forward(const Call& c) {
  const int64_t classes = c.at.ints[0], positions = c.at.ints[1], step = positions * c.lanes;
  double total = 0;
  for (int b = 0; b < c.blocks; b++)
    for (int64_t p = 0; p < positions; p++)
      for (int l = 0; l < c.lanes; l++) {
        const int64_t at = (b * positions + p) * c.lanes + l;
        const real* x = c.in(0) + b * classes * step + p * c.lanes + l;
        real most = x[0];
        for (int64_t k = 1; k < classes; k++) most = std::max(most, x[k * step]);
        double sum = 0;
        for (int64_t k = 0; k < classes; k++) sum += std::exp((real)(x[k * step] - most));
        c.stash(0)[at] = most + (real)std::log(sum);
        if (b * c.lanes + l >= c.samples) continue;
        const real label = c.in(1)[at];
        if (!(label >= 0 && label < (real)classes)) return FE_BAD_DATA;
        total += c.stash(0)[at] - x[(int64_t)label * step];
      }
  *c.loss += total / ((double)c.batch * positions);
  return FE_OK;
}

int cross_entropy_backward(const Call& c) {
  const int64_t classes = c.at.ints[0], positions = c.at.ints[1], step = positions * c.lanes;
  if (!c.d_in(0)) return FE_OK;
  const real share = (real)(1.0 / ((double)c.batch * positions));
  for (int b = 0; b < c.blocks; b++)
    for (int64_t p = 0; p < positions; p++)
      for (int l = 0; l < c.lanes; l++) {
        const int64_t at = (b * positions + p) * c.lanes + l;
        const int64_t from = b * classes * step + p * c.lanes + l;
        const bool valid = b * c.lanes + l < c.samples;
        const int64_t label = (int64_t)c.in(1)[at];
        for (int64_t k = 0; k < classes; k++) {
          const real chance = std::exp(c.in(0)[from + k * step] - c.stash(0)[at]);
          c.d_in(0)[from + k * step] = valid ? (chance - (k == label)) * share : 0;
        }
      }
  return FE_OK;
}

// ints: values per sample. Inputs: predictions, targets.
bool mse_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  const int64_t size = product({at.ints[0]});
  s.in = {size, size};
  s.reads_in = 3;
  return true;
}

int mse_forward(const Call& c) {
  const int64_t n = c.at.ints[0];
  double total = 0;
  for (int b = 0; b < c.blocks; b++)
    for (int64_t i = 0; i < n; i++)
      for (int l = 0; l < c.lanes && b * c.lanes + l < c.samples; l++) {
        const int64_t at = (b * n + i) * c.lanes + l;
        const real d = c.in(0)[at] - c.in(1)[at];
        total += d * d;
      }
  *c.loss += total / ((double)c.batch * n);
  return FE_OK;
}

int mse_backward(const Call& c) {
  const int64_t n = c.at.ints[0];
  if (!c.d_in(0)) return FE_OK;
  const real share = (real)(2.0 / ((double)c.batch * n));
  for (int b = 0; b < c.blocks; b++)
    for (int64_t i = 0; i < n; i++)
      for (int l = 0; l < c.lanes; l++) {
        const int64_t at = (b * n + i) * c.lanes + l;
        const bool valid = b * c.lanes + l < c.samples;
        c.d_in(0)[at] = valid ? (c.in(0)[at] - c.in(1)[at]) * share : 0;
      }
  return FE_OK;
}

}  // namespace

const Row kLossRows[] = {
    {"cross_entropy", 2, 0, cross_entropy_sizes, cross_entropy_forward, cross_entropy_backward},
    {"mse", 1, 0, mse_sizes, mse_forward, mse_backward},
    {}};

}  // namespace fe
