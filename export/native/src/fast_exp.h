// exp, sigmoid and erf without branches: compilers make vectors of loops over them.
#ifndef FLSP_FAST_EXP_H
#define FLSP_FAST_EXP_H

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace flsp {

// e^v, relative error below 2e-7; from -87 to 88, beyond as at these.
inline float exp_of(float v) {
  const float x = std::min(std::max(v, -87.0f), 88.0f);
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounds to a whole number
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

inline float sigmoid(float v) { return 1.0f / (1.0f + exp_of(-v)); }

// Abramowitz and Stegun 7.1.26: absolute error below 2e-7.
inline float erf_of(float v) {
  const float x = v < 0 ? -v : v;
  const float t = 1.0f / (1.0f + 0.3275911f * x);
  const float p =
      ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t +
       0.254829592f) * t;
  const float y = 1.0f - p * exp_of(-x * x);
  return v < 0 ? -y : y;
}

}  // namespace flsp

#endif
