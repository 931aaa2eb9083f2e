// Sums over the samples of a batch.
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

}  // extern "C"
