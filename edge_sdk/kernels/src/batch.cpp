// Sums over the samples of a batch, and batches in another order.
#include "dropout.h"
#include "fe_batch.h"
#include "lanes.h"
#include "support.h"

namespace fe {
namespace {

// to[i] of every lane: the sum of x[i] over the samples; of lanes behind them `padded`
// says whether it is the sum, too, or zero.
int total(const FeBatchSum& d, const real* x, real* to, bool padded) {
  if (d.samples < 1 || d.lanes < 1 || d.count < 1 ||
      d.blocks != (d.samples + (int64_t)d.lanes - 1) / d.lanes)
    return FE_BAD_ARGUMENT;
  const int64_t block = (int64_t)d.count * d.lanes;
  parallel_for(d.count, d.threads, [&](int i) {
    const int64_t row = (int64_t)i * d.lanes;
    double sum = 0;
    for (int n = 0; n < d.samples; n++) sum += (double)x[n / d.lanes * block + row + n % d.lanes];
    const real found = (real)(d.mean ? sum / d.samples : sum);
    for (int n = 0; n < d.blocks * d.lanes; n++)
      to[n / d.lanes * block + row + n % d.lanes] = padded || n < d.samples ? found : 0;
  });
  return FE_OK;
}

bool sound(const FeBatchOrder& d) {
  return d.samples >= 1 && d.lanes >= 1 && d.count >= 1 && d.kind >= FE_FLIPPED &&
         d.kind <= FE_SHUFFLED && d.blocks == (d.samples + (int64_t)d.lanes - 1) / d.lanes;
}

// from[n]: which sample comes to place n (Fisher and Yates, by counter). Null without memory.
const int32_t* order_of(const FeBatchOrder& d) {
  int32_t* from = scratch<int32_t>(kCursor, (size_t)d.samples);
  if (!from) return nullptr;
  const bool flips = d.kind == FE_FLIPPED || (d.kind == FE_SHUFFLED && d.fixed);
  for (int64_t n = 0; n < d.samples; n++) {
    const int64_t rolled = ((n - d.shift) % d.samples + d.samples) % d.samples;
    from[n] = (int32_t)(flips ? d.samples - 1 - n : d.kind == FE_ROLLED ? rolled : n);
  }
  const RandomKey key(d.key);
  for (int32_t n = d.samples - 1; n > 0 && d.kind == FE_SHUFFLED && !d.fixed; n--) {
    uint32_t a = (uint32_t)n, b = 0;
    threefry(key, a, b);
    std::swap(from[n], from[(uint64_t)a * ((uint64_t)n + 1) >> 32]);
  }
  return from;
}

template <bool Back>
int reorder(const FeBatchOrder& d, const real* x, real* to) {
  if (!sound(d)) return FE_BAD_ARGUMENT;
  const int32_t* from = order_of(d);
  if (!from) return FE_NO_MEMORY;
  const int64_t block = (int64_t)d.count * d.lanes;
  parallel_for(d.count, d.threads, [&](int i) {
    const int64_t row = (int64_t)i * d.lanes;
    const auto at = [&](int64_t n) { return n / d.lanes * block + row + n % d.lanes; };
    for (int n = 0; n < d.samples; n++) {
      if (Back) to[at(from[n])] = x[at(n)];
      else to[at(n)] = x[at(from[n])];
    }
    for (int64_t n = d.samples; n < (int64_t)d.blocks * d.lanes; n++)
      to[at(n)] = Back ? (real)0 : x[at(n)];
  });
  return FE_OK;
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_batch_sum_forward(const FeBatchSum* d, const real* x, real* y) {
  return fe::total(*d, x, y, true);
}

int fe_batch_sum_backward(const FeBatchSum* d, const real* dy, real* dx) {
  return fe::total(*d, dy, dx, false);
}

int fe_batch_order_forward(const FeBatchOrder* d, const real* x, real* y) {
  return fe::reorder<false>(*d, x, y);
}

int fe_batch_order_backward(const FeBatchOrder* d, const real* dy, real* dx) {
  return fe::reorder<true>(*d, dy, dx);
}

}  // extern "C"
