// Cross-entropy and negative log-likelihood, at one or many positions per sample.
#include "fe_loss.h"
#include "fe_math.h"
#include "loss_sum.h"

namespace fe {
namespace {

// A label: a class, or none because the position is ignored (kIgnored) or wrong (kWrong).
constexpr int kIgnored = -1, kWrong = -2;

int class_of(const FeClassLoss& d, real label) {
  if (label == (real)d.ignore) return kIgnored;
  if (!(label >= 0 && label < (real)d.classes)) return kWrong;
  return (real)(int)label == label ? (int)label : kWrong;
}

real weight_of(const real* class_weight, int c) { return class_weight ? class_weight[c] : real(1); }

double total_weight(const FeClassLoss& d, const real* class_weight) {
  if (!class_weight) return d.classes;
  double total = 0;
  for (int c = 0; c < d.classes; c++) total += class_weight[c];
  return total;
}

// The log of the sum of exponentials of one position's logits, `step` reals apart, as their
// maximum and the rest: together they would round the rest away where logits are large.
template <int L>
void log_sum(const real* x, int64_t step, int classes, real* maximum, real* rest) {
  typedef typename Lanes<L>::V V;
  FE_UNROLL for (int v = 0; v < Lanes<L>::NV; v++) {
    const real* p = x + v * Lanes<L>::VL;
    V most = load<V>(p), total = {};
    for (int c = 1; c < classes; c++) {
      const V y = load<V>(p + c * step);
      most = y > most ? y : most;
    }
    for (int c = 0; c < classes; c++) total += exponential(load<V>(p + c * step) - most);
    store(maximum + v * Lanes<L>::VL, most);
    store(rest + v * Lanes<L>::VL, logarithm(total));
  }
}

// One lane's term at one position.
double term(const FeClassLoss& d, const real* x, int64_t step, int label, const real* class_weight,
            double normalizer) {
  const double own = weight_of(class_weight, label) * (normalizer - (double)x[label * step]);
  if (d.smoothing == 0) return own;
  double others = 0;
  for (int c = 0; c < d.classes; c++)
    others += weight_of(class_weight, c) * (normalizer - (double)x[c * step]);
  return (1 - d.smoothing) * own + d.smoothing / d.classes * others;
}

template <int L>
int forward(const FeClassLoss& d, const real* x, const real* labels, const real* class_weight,
            real* normalizer, double* total, int32_t* sample) {
  const int64_t step = (int64_t)d.positions * L;
  const auto terms = [&](int block, double* sums) {
    bool good = true;
    for (int p = 0; p < d.positions; p++) {
      const real* from = x + ((int64_t)block * d.classes * d.positions + p) * L;
      const int64_t at = ((int64_t)block * d.positions + p) * L;
      alignas(64) real most[L] = {}, rest[L] = {};
      if (!d.log_probabilities) {
        log_sum<L>(from, step, d.classes, most, rest);
        for (int l = 0; l < L; l++) normalizer[at + l] = most[l] + rest[l];
      }
      for (int l = 0; l < valid_in_block(d.samples, L, block); l++) {
        const int label = class_of(d, labels[at + l]);
        if (label == kIgnored) continue;
        if (label == kWrong) good = false;
        sums[l] += label == kWrong ? std::nan("")
                                   : term(d, from + l, step, label, class_weight,
                                          (double)most[l] + (double)rest[l]);
      }
    }
    return good;
  };
  return sum_of_samples(d.samples, L, d.blocks, d.threads, total, sample, terms);
}

// dx[c] = share * p[c] - even * weight[c], less `own` at the label; zero where all are.
template <int L>
void backward_position(const FeClassLoss& d, const real* x, int64_t step, const int* label,
                       const real* class_weight, const real* normalizer, double scale,
                       double all_weights, real* dx) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  alignas(64) real share[L] = {}, even[L] = {}, own[L] = {};
  for (int l = 0; l < L; l++) {
    if (label[l] < 0) continue;
    const double mine = (1 - d.smoothing) * weight_of(class_weight, label[l]);
    own[l] = (real)(scale * mine);
    even[l] = (real)(scale * d.smoothing / d.classes);
    if (!d.log_probabilities)
      share[l] = (real)(scale * (mine + d.smoothing / d.classes * all_weights));
  }
  FE_UNROLL for (int v = 0; v < Lanes<L>::NV; v++) {
    const V s = load<V>(share + v * VL), e = load<V>(even + v * VL);
    const V log_total = normalizer ? load<V>(normalizer + v * VL) : V{};
    for (int c = 0; c < d.classes; c++) {
      const int64_t i = c * step + v * VL;
      const V p = d.log_probabilities ? V{} : exponential(load<V>(x + i) - log_total);
      store(dx + i, s == V{} ? V{} : s * p - e * splat<V>(weight_of(class_weight, c)));
    }
  }
  for (int l = 0; l < L; l++)
    if (label[l] >= 0) dx[label[l] * step + l] -= own[l];
}

template <int L>
void backward(const FeClassLoss& d, const real* x, const real* labels, const real* class_weight,
              const real* normalizer, double scale, real* dx) {
  const int64_t step = (int64_t)d.positions * L;
  const double all_weights = total_weight(d, class_weight);
  parallel_for(d.blocks, d.threads, [&](int block) {
    for (int p = 0; p < d.positions; p++) {
      const int64_t from = ((int64_t)block * d.classes * d.positions + p) * L;
      const int64_t at = ((int64_t)block * d.positions + p) * L;
      int label[L];
      for (int l = 0; l < L; l++) {
        const bool valid = l < valid_in_block(d.samples, L, block);
        label[l] = valid ? class_of(d, labels[at + l]) : kIgnored;
      }
      backward_position<L>(d, x + from, step, label, class_weight,
                           d.log_probabilities ? nullptr : normalizer + at, scale, all_weights,
                           dx + from);
    }
  });
}

bool sound(const FeClassLoss& d) {
  return d.samples > 0 && d.lanes > 0 && d.blocks == (d.samples + (int64_t)d.lanes - 1) / d.lanes &&
         d.classes > 0 && d.positions > 0 && d.smoothing >= 0 && d.smoothing <= 1 &&
         (!d.log_probabilities || d.smoothing == 0);
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_class_loss_weight(const FeClassLoss* d, const real* labels, const real* class_weight,
                         double* total, int32_t* sample) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  const auto terms = [&](int block, double* sums) {
    bool good = true;
    for (int64_t i = 0; i < (int64_t)d->positions * d->lanes; i++) {
      const int l = (int)(i % d->lanes);
      if (l >= valid_in_block(d->samples, d->lanes, block)) continue;
      const int c = class_of(*d, labels[(int64_t)block * d->positions * d->lanes + i]);
      if (c == kWrong) good = false;
      if (c != kIgnored) sums[l] += c == kWrong ? std::nan("") : weight_of(class_weight, c);
    }
    return good;
  };
  return sum_of_samples(d->samples, d->lanes, d->blocks, d->threads, total, sample, terms);
}

int fe_class_loss_forward(const FeClassLoss* d, const real* x, const real* labels,
                          const real* class_weight, real* normalizer, double* total,
                          int32_t* sample) {
  using namespace fe;
  if (!sound(*d) || (!normalizer && !d->log_probabilities)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, return forward<L>(*d, x, labels, class_weight, normalizer, total, sample))
  return FE_OK;
}

int fe_class_loss_backward(const FeClassLoss* d, const real* x, const real* labels,
                           const real* class_weight, const real* normalizer, double scale,
                           real* dx) {
  using namespace fe;
  if (!sound(*d) || (!normalizer && !d->log_probabilities)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, backward<L>(*d, x, labels, class_weight, normalizer, scale, dx))
  return FE_OK;
}

}  // extern "C"
