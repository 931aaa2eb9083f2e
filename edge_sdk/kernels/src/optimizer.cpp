// Optimizers over flat vectors of values; what they compute is torch.optim's.
#include <algorithm>
#include <cmath>

#include "fe_program.h"
#include "lanes.h"

using fe::real;

extern "C" {

double fe_sum_of_squares(const real* x, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count;) {
    const int64_t end = std::min(count, i + 1024);
    real part[8] = {};
    for (; i + 8 <= end; i += 8)
      for (int k = 0; k < 8; k++) part[k] += x[i + k] * x[i + k];
    for (int k = 0; k < 8; k++) total += part[k];
    for (; i < end; i++) total += (double)x[i] * x[i];
  }
  return total;
}

void fe_scale(real* x, int64_t count, double factor) {
  const real f = (real)factor;
  for (int64_t i = 0; i < count; i++) x[i] *= f;
}

void fe_sgd(real* w, const real* gradient, real* momentum, int64_t count, double rate, double mu,
            double decay, int32_t nesterov, int32_t first) {
  const real r = (real)rate, m = (real)mu, d = (real)decay;
  if (!momentum) {
    for (int64_t i = 0; i < count; i++) w[i] -= r * (gradient[i] + d * w[i]);
    return;
  }
  for (int64_t i = 0; i < count; i++) {
    const real g = gradient[i] + d * w[i];
    const real v = first ? g : m * momentum[i] + g;
    momentum[i] = v;
    w[i] -= r * (nesterov ? g + m * v : v);
  }
}

void fe_adam(real* w, const real* gradient, real* mean, real* square, int64_t count, double rate,
             double beta1, double beta2, double eps, double decay, int32_t decoupled,
             int64_t step) {
  const double first = 1 - std::pow(beta1, (double)step);
  const real root = (real)std::sqrt(1 - std::pow(beta2, (double)step));
  const real size = (real)(rate / first), e = (real)eps;
  const real b1 = (real)beta1, b2 = (real)beta2, rest1 = (real)(1 - beta1), rest2 = (real)(1 - beta2);
  const real shrink = (real)(decoupled ? 1 - rate * decay : 1), d = (real)(decoupled ? 0 : decay);
  for (int64_t i = 0; i < count; i++) {
    const real before = w[i] * shrink, g = gradient[i] + d * before;
    mean[i] = b1 * mean[i] + rest1 * g;
    square[i] = b2 * square[i] + rest2 * g * g;
    w[i] = before - size * mean[i] / (std::sqrt(square[i]) / root + e);
  }
}

}  // extern "C"
