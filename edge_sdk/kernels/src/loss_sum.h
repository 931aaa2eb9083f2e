// The sum of a loss over samples, and the first sample whose term cannot be used.
#pragma once
#include <cmath>

#include "fe_loss.h"
#include "support.h"

namespace fe {

// 1 in lanes that hold a sample, else 0.
inline int valid_in_block(int samples, int lanes, int block) {
  return std::min(lanes, samples - block * lanes);
}

// Runs terms(block, sums): sums[lanes] gets each sample's term. Returns false from it for
// labels that cannot be used, having set sums[lane] to NaN there.
template <class F>
int sum_of_samples(int samples, int lanes, int blocks, int threads, double* total,
                   int32_t* sample, F terms) {
  double* sums = scratch<double>(kSums, (size_t)blocks * (lanes + 1));
  if (!sums) return FE_NO_MEMORY;
  double* labels_good = sums + (size_t)blocks * lanes;
  parallel_for(blocks, threads, [&](int block) {
    double* own = sums + (size_t)block * lanes;
    for (int l = 0; l < lanes; l++) own[l] = 0;
    labels_good[block] = terms(block, own) ? 1 : 0;
  });
  *sample = -1;
  for (int n = 0; n < samples; n++) {
    if (!std::isfinite(sums[n])) {
      *sample = n;
      return labels_good[n / lanes] > 0 ? FE_NOT_FINITE : FE_BAD_LABEL;
    }
    *total += sums[n];
  }
  return FE_OK;
}

}  // namespace fe
