// Functions of every value, of two values, and of the values of a row.
#ifndef FLSP_SIMD_VALUES_H
#define FLSP_SIMD_VALUES_H

#include "simd.h"
#include "simd_depthwise.h"

namespace flsp {
namespace {

typedef float HalfVec __attribute__((vector_size(FLSP_BYTES / 2), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(FLSP_BYTES)));

// e^v, relative error below 2e-7; from -87 to 88, beyond as at these.
FLSP_INLINE Vec exp_vec(Vec v) {
  const Vec x = clip(v, splat(-87.0f), splat(88.0f));
  const Vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounds to a whole number
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
#if FLSP_BYTES == 64
  const __m512 power = reinterpret_cast<__m512>(p);
  return reinterpret_cast<Vec>(
      _mm512_mask_scalef_ps(power, 0xffff, power, reinterpret_cast<__m512>(n)));
#else
  return p * reinterpret_cast<Vec>((__builtin_convertvector(n, Index) + 127) << 23);
#endif
}

// 1 / v within a unit in the last place. The widest vectors divide in 16 cycles, as long as the
// rest of a sigmoid takes; an estimate of 14 bits and one step of Newton's take 4.
FLSP_INLINE Vec reciprocal(Vec v) {
#if FLSP_BYTES == 64
  const __m512 of = reinterpret_cast<__m512>(v);
  const Vec r = reinterpret_cast<Vec>(_mm512_mask_rcp14_ps(of, 0xffff, of));
  return r + r * (1.0f - v * r);
#else
  return 1.0f / v;
#endif
}

FLSP_INLINE Vec sigmoid_vec(Vec v) { return reciprocal(1.0f + exp_vec(-v)); }

// Abramowitz and Stegun 7.1.26: absolute error below 2e-7.
FLSP_INLINE Vec erf_vec(Vec v) {
  const Vec x = v < 0.0f ? -v : v;
  const Vec t = reciprocal(1.0f + 0.3275911f * x);
  const Vec p =
      ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t +
       0.254829592f) * t;
  const Vec y = 1.0f - p * exp_vec(-x * x);
  return v < 0.0f ? -y : y;
}

// A quotient of polynomials, within 5 units in the last place.
FLSP_INLINE Vec tanh_vec(Vec v) {
  const Vec x = clip(v, splat(-7.90531110763549805f), splat(7.90531110763549805f));
  const Vec s = x * x;
  Vec p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
  p = p * s - 8.60467152213735e-11f;
  p = p * s + 5.12229709037114e-08f;
  p = p * s + 1.48572235717979e-05f;
  p = p * s + 6.37261928875436e-04f;
  p = p * s + 4.89352455891786e-03f;
  Vec q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
  q = q * s + 2.26843463243900e-03f;
  q = q * s + 4.89352518554385e-03f;
  return x * p * reciprocal(q);
}

// v times the share of a normal distribution below v, within 2.1e-7 of |v|. The share less a
// half is v times a quotient of polynomials in v^2, fitted to the least largest error.
FLSP_INLINE Vec gelu_vec(Vec v) {
  const Vec end = splat(5.3740115f);
  const Vec x = clip(v, -end, end), s = x * x;
  Vec p = s * 2.35571669e-08f + 6.36369123e-06f;
  p = p * s + 1.63219811e-04f;
  p = p * s + 4.64447076e-03f;
  p = p * s + 3.32531072e-02f;
  p = p * s + 3.98942262e-01f;
  Vec q = s * 1.22179517e-06f + 7.21030665e-05f;
  q = q * s + 1.85277371e-03f;
  q = q * s + 2.83128619e-02f;
  q = q * s + 2.50019312e-01f;
  q = q * s + 1.0f;
  const Vec share = x * p * reciprocal(q) + 0.5f;
  return v < -end ? Vec{} : v * share;
}

// Calls use(first value, values) for each vector of n values.
template <class Use>
FLSP_INLINE void each_vector(int64_t n, Use use) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) use(i, kLanes);
  if (i < n) use(i, static_cast<int>(n - i));
}

template <class F>
FLSP_INLINE void map_each(const float* x, float* y, int64_t n, float low, float high, F f) {
  const Vec least = splat(low), most = splat(high);
  each_vector(n, [&](int64_t i, int count) {
    store_some(y + i, clip(f(load(x + i)), least, most), count);
  });
}

void map_values(int32_t function, const float* x, float* y, int64_t n, float low, float high) {
  const auto all = [&](auto f) { map_each(x, y, n, low, high, f); };
  switch (function) {
    case kMapSigmoid: return all([](Vec v) { return sigmoid_vec(v); });
    case kMapTanh: return all([](Vec v) { return tanh_vec(v); });
    case kMapHardSwish:
      return all([](Vec v) { return v * clip(v / 6.0f + 0.5f, Vec{}, splat(1.0f)); });
    case kMapSilu: return all([](Vec v) { return v * sigmoid_vec(v); });
    case kMapGelu: return all([](Vec v) { return gelu_vec(v); });
    case kMapGeluTanh:
      return all([](Vec v) {
        return v * sigmoid_vec(1.5957691216f * (v + 0.044715f * v * v * v));
      });
    case kMapExp: return all([](Vec v) { return exp_vec(v); });
    case kMapErf: return all([](Vec v) { return erf_vec(v); });
    default: return all([](Vec v) { return v; });
  }
}

// V vectors from `at` on.
template <int V>
FLSP_INLINE void mix_vectors(const float* const* planes, const float* weights, int32_t count,
                             Vec bias, float* y, int64_t at, Vec low, Vec high) {
  Vec sum[V];
  FLSP_UNROLL for (int v = 0; v < V; v++) sum[v] = bias;
  for (int32_t k = 0; k < count; k++) {
    const float* from = planes[k] + at;
    const Vec w = splat(weights[k]);
    FLSP_UNROLL for (int v = 0; v < V; v++) sum[v] += w * load(from + v * kLanes);
  }
  FLSP_UNROLL for (int v = 0; v < V; v++) store(y + at + v * kLanes, clip(sum[v], low, high));
}

void mix_planes(const float* const* planes, const float* weights, int32_t count, float bias,
                float* y, int64_t n, float low, float high) {
  constexpr int kWide = kMaxSparse - 4;
  const Vec start = splat(bias), least = splat(low), most = splat(high);
  int64_t i = 0;
  for (; i + kWide * kLanes <= n; i += kWide * kLanes)
    mix_vectors<kWide>(planes, weights, count, start, y, i, least, most);
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    mix_vectors<4>(planes, weights, count, start, y, i, least, most);
  for (; i < n; i += kLanes) mix_vectors<1>(planes, weights, count, start, y, i, least, most);
}

// z[0] with every value, or z[i] with x[i].
template <class F>
FLSP_INLINE void map_pairs(const float* x, const float* z, bool one, float* y, int64_t n,
                           float low, float high, F f) {
  const Vec least = splat(low), most = splat(high), same = splat(z[0]);
  each_vector(n, [&](int64_t i, int count) {
    store_some(y + i, clip(f(load(x + i), one ? same : load(z + i)), least, most), count);
  });
}

void pair_values(int32_t function, const float* x, const float* z, bool one, float* y,
                 int64_t n, float low, float high) {
  const auto all = [&](auto f) { map_pairs(x, z, one, y, n, low, high, f); };
  switch (function) {
    case kPairPlus: return all([](Vec a, Vec b) { return a + b; });
    case kPairMinus: return all([](Vec a, Vec b) { return a - b; });
    case kPairTimes: return all([](Vec a, Vec b) { return a * b; });
    case kPairOver: return all([](Vec a, Vec b) { return a / b; });
    case kPairLeast: return all([](Vec a, Vec b) { return a < b ? a : b; });
    case kPairMost: return all([](Vec a, Vec b) { return a > b ? a : b; });
    case kPairFromSecond: return all([](Vec a, Vec b) { return b - a; });
    default: return all([](Vec a, Vec b) { return b / a; });
  }
}

void scale_values(const float* x, const float* scale, const float* shift, bool one, float* y,
                  int64_t n, float low, float high) {
  const Vec least = splat(low), most = splat(high);
  const Vec factor = splat(scale[0]), added = splat(shift[0]);
  each_vector(n, [&](int64_t i, int count) {
    const Vec v = one ? load(x + i) * factor + added : load(x + i) * load(scale + i) + load(shift + i);
    store_some(y + i, clip(v, least, most), count);
  });
}

// All gates of a step in one pass. Reset comes after the recurrent matrix, as in torch.
void gru_gates(const float* x, const float* s, float* h, int32_t n) {
  for (int32_t i = 0; i < n; i += kLanes) {
    const Vec keep = sigmoid_vec(load(x + i) + load(s + i));
    const Vec reset = sigmoid_vec(load(x + n + i) + load(s + n + i));
    const Vec made = tanh_vec(load(x + 2 * n + i) + reset * load(s + 2 * n + i));
    store_some(h + i, made + keep * (load(h + i) - made), n - i < kLanes ? n - i : kLanes);
  }
}

void lstm_gates(const float* x, const float* s, float* h, float* c, int32_t n) {
  for (int32_t i = 0; i < n; i += kLanes) {
    const auto gate = [&](int32_t g) { return load(x + g * n + i) + load(s + g * n + i); };
    const Vec in = sigmoid_vec(gate(0)), out = sigmoid_vec(gate(1)), keep = sigmoid_vec(gate(2));
    const Vec cell = keep * load(c + i) + in * tanh_vec(gate(3));
    const int count = n - i < kLanes ? n - i : kLanes;
    store_some(c + i, cell, count);
    store_some(h + i, out * tanh_vec(cell), count);
  }
}

FLSP_INLINE Vec some(Vec v, int count, float other) {
  if (count == kLanes) return v;
  return first_lanes(count) ? v : splat(other);
}

FLSP_INLINE void add_doubles(Vec v, Doubles (&sum)[2]) {
  HalfVec half[2];
  __builtin_memcpy(half, &v, sizeof v);
  sum[0] += __builtin_convertvector(half[0], Doubles);
  sum[1] += __builtin_convertvector(half[1], Doubles);
}

// Pairs of lanes, pairs of these, and so on: one after the other would wait for each.
template <class Real, int N, class Join>
FLSP_INLINE Real joined(Real (&lane)[N], Join join) {
  FLSP_UNROLL for (int half = N / 2; half > 0; half /= 2)
    FLSP_UNROLL for (int i = 0; i < half; i++) lane[i] = join(lane[i], lane[i + half]);
  return lane[0];
}

FLSP_INLINE double total(const Doubles (&sum)[2]) {
  const Doubles both = sum[0] + sum[1];
  double lane[kLanes / 2];
  __builtin_memcpy(lane, &both, sizeof lane);
  return joined(lane, [](double a, double b) { return a + b; });
}

// Sums of vectors: in float32 of kPart of them, in double precision of those sums.
struct Sum {
  static constexpr int kPart = 8;
  Vec part = {};
  Doubles all[2] = {};
  FLSP_INLINE_MEMBER void flush() {
    add_doubles(part, all);
    part = Vec{};
  }
  FLSP_INLINE_MEMBER double value() {
    flush();
    return total(all);
  }
};

// In double precision: a plane has ten thousand values.
double sum_values(const float* x, int64_t n) {
  Doubles sum[2] = {};
  each_vector(n, [&](int64_t i, int count) { add_doubles(some(load(x + i), count, 0), sum); });
  return total(sum);
}

void softmax_values(const float* x, float* y, int64_t n) {
  Vec top = splat(-__builtin_inff());
  each_vector(n, [&](int64_t i, int count) {
    top = larger(top, some(load(x + i), count, -__builtin_inff()));
  });
  float lane[kLanes];
  __builtin_memcpy(lane, &top, sizeof lane);
  const float most = joined(lane, [](float a, float b) { return a > b ? a : b; });
  if (most == -__builtin_inff()) {  // everything is masked: there are no shares
    each_vector(n, [&](int64_t i, int count) { store_some(y + i, splat(__builtin_nanf("")), count); });
    return;
  }
  Sum sum;  // of positive values up to 1
  each_vector(n, [&](int64_t i, int count) {
    const Vec v = exp_vec(load(x + i) - splat(most));
    sum.part += some(v, count, 0);
    store_some(y + i, v, count);
    if (i / kLanes % Sum::kPart == Sum::kPart - 1) sum.flush();
  });
  const Vec over = splat(static_cast<float>(1.0 / sum.value()));
  each_vector(n, [&](int64_t i, int count) { store_some(y + i, load(y + i) * over, count); });
}

// y = (x - mean) / deviation of a row. Distances from a value near the mean are as exact as the
// row's own spread, so that their sums may begin in float32.
void normal_row(const float* x, float* y, int64_t n, double epsilon) {
  Sum sum;
  each_vector(n, [&](int64_t i, int count) {
    sum.part += some(load(x + i), count, 0);
    if (i / kLanes % Sum::kPart == Sum::kPart - 1) sum.flush();
  });
  const Vec middle = splat(static_cast<float>(sum.value() / static_cast<double>(n)));
  Sum apart, squares;
  each_vector(n, [&](int64_t i, int count) {
    const Vec v = some(load(x + i) - middle, count, 0);
    apart.part += v;
    squares.part += v * v;
    if (i / kLanes % Sum::kPart == Sum::kPart - 1) {
      apart.flush();
      squares.flush();
    }
  });
  const double rest = apart.value() / static_cast<double>(n);
  const double variance = squares.value() / static_cast<double>(n) - rest * rest;
  const double over = 1.0 / __builtin_sqrt((variance > 0 ? variance : 0) + epsilon);
  const Vec factor = splat(static_cast<float>(over)), moved = splat(static_cast<float>(rest * over));
  each_vector(n, [&](int64_t i, int count) {
    store_some(y + i, (load(x + i) - middle) * factor - moved, count);
  });
}

}  // namespace
}  // namespace flsp

#endif
