// Activations and their gradients, on tensors as flat arrays: one formula per kind.
#include <cstring>

#include "fe_elementwise.h"
#include "fe_math.h"
#include "support.h"

namespace fe {
namespace {

typedef Vector<kMaxVl>::T V;
// A tensor may begin at any block, which is aligned to its lanes only.
typedef real Loose __attribute__((vector_size(sizeof(V)), may_alias, aligned(sizeof(real))));
constexpr int64_t kPiece = 1 << 14;  // values per piece of work: 64 KiB

struct Constants {
  V a, b;
};

FE_INLINE V clamp(V x, V low, V high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}
// The normal distribution up to x, and its density there but for the constant factor.
struct Normal {
  V below, bell;
};
FE_INLINE Normal normal(V x) {
  const V half = constant<V>(0.5), one = constant<V>(1), bell = exponential(x * x * -half);
  if constexpr (kSingle) {
    // Abramowitz and Stegun 7.1.26: within 1e-7, and one exponential serves both.
    const V t = one / (one + constant<V>(0.3275911 * 0.70710678118654752440) * absolute(x));
    const V tail = half * bell * t *
                   polynomial(t, 1.061405429, -1.453152027, 1.421413741, -0.284496736,
                              0.254829592);
    const V below = x < V{} ? tail : one - tail;
    return {x == x ? below : x, bell};
  } else {
    return {half + half * error_function(x * constant<V>(0.70710678118654752440)), bell};
  }
}
FE_INLINE V gelu_argument(V x) {
  return constant<V>(0.79788456080286535588) * (x + constant<V>(0.044715) * x * x * x);
}

// value(x), slope(saved): the derivative, of the input or of the output as kSaves says.
template <int Kind>
struct Activation;

template <>
struct Activation<FE_AFFINE> {
  static constexpr int kSaves = FE_SAVES_NOTHING;
  static FE_INLINE V value(V x, const Constants& c) { return c.a * x + c.b; }
  static FE_INLINE V gradient(V, V dy, const Constants& c) { return c.a * dy; }
};
template <>
struct Activation<FE_RELU> {
  static constexpr int kSaves = FE_SAVES_OUTPUT;
  static FE_INLINE V value(V x, const Constants&) { return relu(x); }
  static FE_INLINE V gradient(V y, V dy, const Constants&) { return relu_gradient(y, dy); }
};
template <>
struct Activation<FE_HARDTANH> {
  static constexpr int kSaves = FE_SAVES_OUTPUT;
  static FE_INLINE V value(V x, const Constants& c) { return clamp(x, c.a, c.b); }
  static FE_INLINE V gradient(V y, V dy, const Constants& c) {
    dy = y <= c.a ? V{} : dy;
    return y >= c.b ? V{} : dy;
  }
};
template <>
struct Activation<FE_LEAKY_RELU> {  // a >= 0, so the output has the input's sign
  static constexpr int kSaves = FE_SAVES_OUTPUT;
  static FE_INLINE V value(V x, const Constants& c) { return x > V{} ? x : c.a * x; }
  static FE_INLINE V gradient(V y, V dy, const Constants& c) { return y > V{} ? dy : c.a * dy; }
};
template <>
struct Activation<FE_GELU> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants&) { return x * normal(x).below; }
  static FE_INLINE V gradient(V x, V dy, const Constants&) {
    const Normal n = normal(x);
    return dy * (n.below + x * constant<V>(0.39894228040143267794) * n.bell);
  }
};
template <>
struct Activation<FE_GELU_TANH> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants&) {
    return constant<V>(0.5) * x * (constant<V>(1) + hyperbolic_tangent(gelu_argument(x)));
  }
  static FE_INLINE V gradient(V x, V dy, const Constants&) {
    const V half = constant<V>(0.5), one = constant<V>(1);
    const V t = hyperbolic_tangent(gelu_argument(x));
    const V inner = constant<V>(0.79788456080286535588) * (one + constant<V>(0.134145) * x * x);
    return dy * (half * (one + t) + half * x * (one - t * t) * inner);
  }
};
template <>
struct Activation<FE_SILU> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants&) { return x * sigmoid(x); }
  static FE_INLINE V gradient(V x, V dy, const Constants&) {
    const V s = sigmoid(x), one = constant<V>(1);
    return dy * s * (one + x * (one - s));
  }
};
template <>
struct Activation<FE_HARDSWISH> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants&) {
    const V three = constant<V>(3), six = constant<V>(6);
    return x * clamp(x + three, V{}, six) / six;
  }
  static FE_INLINE V gradient(V x, V dy, const Constants&) {
    const V three = constant<V>(3);
    const V inside = dy * (x / three + constant<V>(0.5));
    const V bent = x >= three ? dy : inside;
    return x <= -three ? V{} : bent;
  }
};
template <>
struct Activation<FE_HARDSIGMOID> {
  static constexpr int kSaves = FE_SAVES_OUTPUT;
  static FE_INLINE V value(V x, const Constants&) {
    return clamp(x + constant<V>(3), V{}, constant<V>(6)) / constant<V>(6);
  }
  static FE_INLINE V gradient(V y, V dy, const Constants&) {
    const V bent = y <= V{} ? V{} : dy / constant<V>(6);
    return y >= constant<V>(1) ? V{} : bent;
  }
};
template <>
struct Activation<FE_SIGMOID> {
  static constexpr int kSaves = FE_SAVES_OUTPUT;
  static FE_INLINE V value(V x, const Constants&) { return sigmoid(x); }
  static FE_INLINE V gradient(V y, V dy, const Constants&) { return dy * y * (constant<V>(1) - y); }
};
template <>
struct Activation<FE_TANH> {
  static constexpr int kSaves = FE_SAVES_OUTPUT;
  static FE_INLINE V value(V x, const Constants&) { return hyperbolic_tangent(x); }
  static FE_INLINE V gradient(V y, V dy, const Constants&) { return dy * (constant<V>(1) - y * y); }
};

// out[i] = f(one[i], two[i]), whole vectors; the last few values through a buffer.
template <class F>
void map(int64_t count, int threads, const real* one, const real* two, real* out, F f) {
  const int pieces = (int)((count + kPiece - 1) / kPiece);
  parallel_for(pieces, threads, [&](int piece) {
    const int64_t end = std::min(count, (piece + 1) * kPiece);
    int64_t i = piece * kPiece;
    for (; i + kMaxVl <= end; i += kMaxVl)
      *(Loose*)(out + i) = f((V)*(const Loose*)(one + i), (V)*(const Loose*)(two + i));
    if (i == end) return;
    alignas(64) real a[kMaxVl] = {}, b[kMaxVl] = {};
    std::memcpy(a, one + i, sizeof(real) * (size_t)(end - i));
    std::memcpy(b, two + i, sizeof(real) * (size_t)(end - i));
    store(a, f(load<V>(a), load<V>(b)));
    std::memcpy(out + i, a, sizeof(real) * (size_t)(end - i));
  });
}

template <int Kind>
void run(const FeActivation& d, const real* saved, const real* dy, real* out) {
  const Constants c{constant<V>(d.a), constant<V>(d.b)};
  if (dy) {
    map(d.count, d.threads, saved ? saved : dy, dy, out,
        [&](V s, V g) FE_INLINE_LAMBDA { return Activation<Kind>::gradient(s, g, c); });
  } else {
    map(d.count, d.threads, saved, saved, out,
        [&](V x, V) FE_INLINE_LAMBDA { return Activation<Kind>::value(x, c); });
  }
}

template <int Kind = 0>
int dispatch(const FeActivation& d, const real* saved, const real* dy, real* out) {
  if constexpr (Kind == FE_ACTIVATIONS) {
    return FE_BAD_ARGUMENT;
  } else {
    if (d.kind != Kind) return dispatch<Kind + 1>(d, saved, dy, out);
    if (!saved && !(dy && Activation<Kind>::kSaves == FE_SAVES_NOTHING)) return FE_BAD_ARGUMENT;
    run<Kind>(d, saved, dy, out);
    return FE_OK;
  }
}

template <int Kind = 0>
int saves(int kind) {
  if constexpr (Kind == FE_ACTIVATIONS) return -1;
  else return kind == Kind ? Activation<Kind>::kSaves : saves<Kind + 1>(kind);
}

bool sound(const FeActivation& d) {
  if (d.count < 0 || d.count > (int64_t)kPiece * INT32_MAX) return false;
  if (d.kind == FE_HARDTANH) return d.a <= d.b;
  return d.kind != FE_LEAKY_RELU || d.a >= 0;
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_activation_saves(const FeActivation* d) { return fe::saves(d->kind); }

int fe_activation_forward(const FeActivation* d, const real* x, real* y) {
  return fe::sound(*d) ? fe::dispatch(*d, x, nullptr, y) : (int)FE_BAD_ARGUMENT;
}

int fe_activation_backward(const FeActivation* d, const real* saved, const real* dy, real* dx) {
  if (!fe::sound(*d) || !dy) return FE_BAD_ARGUMENT;
  return fe::dispatch(*d, saved, dy, dx);
}

int fe_accumulate(int64_t count, int32_t threads, const real* x, real* y) {
  using fe::V;
  if (count < 0) return FE_BAD_ARGUMENT;
  fe::map(count, threads, x, y, y, [](V a, V b) FE_INLINE_LAMBDA { return b + a; });
  return FE_OK;
}

}  // extern "C"
