// Activations: one formula of each kind for its value and its derivative.
#pragma once
#include <cmath>

#include "fe_elementwise.h"
#include "fe_math.h"

namespace fe {
namespace {

typedef Vector<kMaxVl>::T V;

struct Constants {
  V a, b;
};

FE_INLINE V clamp(V x, V low, V high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}
// The normal distribution up to x, for the tests' build: float32 has quotients of polynomials.
FE_INLINE V normal(V x) {
  const V half = constant<V>(0.5);
  return half + half * error_function(x * constant<V>(0.70710678118654752440));
}
// Quotients of polynomials in x^2, fitted to the least largest error: an exponential costs twice
// as much. x times the normal distribution up to x, within 2.1e-7 of |x|:
FE_INLINE V gelu(V x) {
  if constexpr (!kSingle) return x * normal(x);
  const V end = constant<V>(5.3740115), t = clamp(x, -end, end), s = t * t;
  const V over = polynomial(s, 2.35571669e-8, 6.36369123e-6, 1.63219811e-4, 4.64447076e-3,
                            3.32531072e-2, 3.98942262e-1);
  const V under = polynomial(s, 1.22179517e-6, 7.21030665e-5, 1.85277371e-3, 2.83128619e-2,
                             2.50019312e-1, 1.0);
  return x < -end ? V{} : x * (t * over / under + constant<V>(0.5));
}
// Its derivative, within 4e-7.
FE_INLINE V gelu_slope(V x) {
  if constexpr (!kSingle)
    return normal(x) + x * constant<V>(0.39894228040143267794) * exponential(x * x * constant<V>(-0.5));
  const V end = constant<V>(5.8), t = clamp(x, -end, end), s = t * t;
  const V over = polynomial(s, 1.92927733e-07, 3.59558316e-05, 1.92223945e-05,
                            0.0142302954, -0.0309957696, 0.797885361);
  const V under = polynomial(s, 8.95236871e-06, 0.00019203671, 0.00352303601,
                             0.040980235, 0.294494147, 1.0);
  return t * over / under + constant<V>(0.5);
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
  static FE_INLINE V value(V x, const Constants&) { return gelu(x); }
  static FE_INLINE V gradient(V x, V dy, const Constants&) { return dy * gelu_slope(x); }
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

// dy * slope, and zero where dy is: a slope may be infinite where nothing is asked of it.
FE_INLINE V times(V dy, V slope) { return dy == V{} ? V{} : dy * slope; }
FE_INLINE V square_root(V x) {
  V y;
  for (int i = 0; i < kMaxVl; i++) y[i] = std::sqrt(x[i]);
  return y;
}
FE_INLINE V natural_logarithm(V x) {  // of zero: minus infinity, as torch has it
  return x == V{} ? constant<V>(-std::numeric_limits<double>::infinity()) : logarithm(x);
}
FE_INLINE V softplus(V x) {
  return (x > V{} ? x : V{}) + log_of_one_plus(exponential(-absolute(x)));
}
// |x|^a, with the sign of x for an odd a; NaN for a negative x unless a is whole.
FE_INLINE V power(V x, V a) {
  const double exponent = a[0], half = exponent / 2;
  const V size = exponential(a * natural_logarithm(absolute(x)));
  if (exponent != std::floor(exponent))
    return x < V{} ? constant<V>(std::numeric_limits<double>::quiet_NaN()) : size;
  return half == std::floor(half) ? size : with_sign_of(size, x);
}

template <>
struct Activation<FE_ELU> {  // a, b >= 0: x > 0 ? b x : b a (e^x - 1), the sign of x
  static constexpr int kSaves = FE_SAVES_OUTPUT;
  static FE_INLINE V value(V x, const Constants& c) {
    return c.b * (x > V{} ? x : c.a * (exponential(x > V{} ? V{} : x) - constant<V>(1)));
  }
  static FE_INLINE V gradient(V y, V dy, const Constants& c) {
    return dy * (y > V{} ? c.b : y + c.a * c.b);
  }
};
template <>
struct Activation<FE_SOFTPLUS> {  // log(1 + e^(a x)) / a; x itself above a x = b
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants& c) {
    return c.a * x > c.b ? x : softplus(c.a * x) / c.a;
  }
  static FE_INLINE V gradient(V x, V dy, const Constants& c) {
    return c.a * x > c.b ? dy : dy * sigmoid(c.a * x);
  }
};
template <>
struct Activation<FE_MISH> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants&) { return x * hyperbolic_tangent(softplus(x)); }
  static FE_INLINE V gradient(V x, V dy, const Constants&) {
    const V t = hyperbolic_tangent(softplus(x));
    return times(dy, t + x * sigmoid(x) * (constant<V>(1) - t * t));
  }
};
template <>
struct Activation<FE_EXP> {
  static constexpr int kSaves = FE_SAVES_OUTPUT;
  static FE_INLINE V value(V x, const Constants&) { return exponential(x); }
  static FE_INLINE V gradient(V y, V dy, const Constants&) { return times(dy, y); }
};
template <>
struct Activation<FE_LOG> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants&) { return natural_logarithm(x); }
  static FE_INLINE V gradient(V x, V dy, const Constants&) {
    return times(dy, constant<V>(1) / x);
  }
};
template <>
struct Activation<FE_SQRT> {
  static constexpr int kSaves = FE_SAVES_OUTPUT;
  static FE_INLINE V value(V x, const Constants&) { return square_root(x); }
  static FE_INLINE V gradient(V y, V dy, const Constants&) {
    return times(dy, constant<V>(0.5) / y);
  }
};
template <>
struct Activation<FE_RECIPROCAL> {
  static constexpr int kSaves = FE_SAVES_OUTPUT;
  static FE_INLINE V value(V x, const Constants&) { return constant<V>(1) / x; }
  static FE_INLINE V gradient(V y, V dy, const Constants&) { return times(dy, -(y * y)); }
};
template <>
struct Activation<FE_ABS> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants&) { return absolute(x); }
  static FE_INLINE V gradient(V x, V dy, const Constants&) {
    const V signed_dy = x < V{} ? -dy : dy;
    return x == V{} ? V{} : signed_dy;
  }
};
template <>
struct Activation<FE_POWER> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants& c) { return power(x, c.a); }
  static FE_INLINE V gradient(V x, V dy, const Constants& c) {
    return times(dy, c.a * power(x, c.a - constant<V>(1)));
  }
};
template <>
struct Activation<FE_SIN> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants&) { return sine(x, 0); }
  static FE_INLINE V gradient(V x, V dy, const Constants&) { return times(dy, sine(x, 1)); }
};
template <>
struct Activation<FE_COS> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants&) { return sine(x, 1); }
  static FE_INLINE V gradient(V x, V dy, const Constants&) { return times(dy, -sine(x, 0)); }
};
template <>
struct Activation<FE_ERF> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants&) { return error_function(x); }
  static FE_INLINE V gradient(V x, V dy, const Constants&) {
    return dy * constant<V>(1.12837916709551257390) * exponential(-x * x);
  }
};
template <>
struct Activation<FE_ATAN> {
  static constexpr int kSaves = FE_SAVES_INPUT;
  static FE_INLINE V value(V x, const Constants&) { return arc_tangent(x); }
  static FE_INLINE V gradient(V x, V dy, const Constants&) {
    return times(dy, constant<V>(1) / (constant<V>(1) + x * x));
  }
};

// What has no gradient: F::of(x, a), and f of each lane by itself.
template <class F>
struct Flat {
  static constexpr int kSaves = FE_SAVES_NOTHING;
  static FE_INLINE V value(V x, const Constants& c) { return F::of(x, c.a); }
  static FE_INLINE V gradient(V, V, const Constants&) { return V{}; }
};
template <real (*f)(real)>
struct EachLane {
  static FE_INLINE V of(V x, V) {
    for (int i = 0; i < kMaxVl; i++) x[i] = f(x[i]);
    return x;
  }
};
struct Greater {
  static FE_INLINE V of(V x, V a) { return x > a ? constant<V>(1) : V{}; }
};
struct Equal {
  static FE_INLINE V of(V x, V a) { return x == a ? constant<V>(1) : V{}; }
};
struct Itself {
  static FE_INLINE V of(V x, V) { return x; }
};
template <> struct Activation<FE_GREATER> : Flat<Greater> {};
template <> struct Activation<FE_EQUAL> : Flat<Equal> {};
template <> struct Activation<FE_TRUNC> : Flat<EachLane<std::trunc>> {};
template <> struct Activation<FE_FLOOR> : Flat<EachLane<std::floor>> {};
template <> struct Activation<FE_ROUND> : Flat<EachLane<std::nearbyint>> {};
template <> struct Activation<FE_STOP> : Flat<Itself> {};

}  // namespace
}  // namespace fe
