// exp, log, tanh, sigmoid, erf, sin, cos and atan of whole vectors: polynomials, the same code on every ISA.
//
// The float versions are within 4e-7 of the true value, relative; the double ones, which
// only the tests' build uses, within 1e-14. A NaN stays a NaN; infinities give the limits.
#pragma once
#include <cmath>
#include <limits>
#include <type_traits>

#include "lanes.h"

namespace fe {

constexpr bool kSingle = sizeof(real) == 4;
typedef std::conditional_t<kSingle, int32_t, int64_t> bits_t;

// The integers of a vector's own shape: for its bits, and for the result of comparisons.
template <class V>
struct BitsOf {
  typedef bits_t T __attribute__((vector_size(sizeof(V)), may_alias));
};

template <class V>
FE_INLINE V constant(double a) {
  return (real)a - V{};
}
template <class V>
FE_INLINE V absolute(V x) {
  typedef typename BitsOf<V>::T I;
  return (V)((I)x & std::numeric_limits<bits_t>::max());
}
template <class V>
FE_INLINE V with_sign_of(V magnitude, V sign) {
  typedef typename BitsOf<V>::T I;
  constexpr bits_t top = std::numeric_limits<bits_t>::min();
  return (V)(((I)magnitude & ~top) | ((I)sign & top));
}
// a[0] + a[1] x + ... by Horner's rule, highest first in the argument list.
template <class V>
FE_INLINE V horner(V, V sum) {
  return sum;
}
template <class V, class... Rest>
FE_INLINE V horner(V x, V sum, double next, Rest... rest) {
  return horner(x, sum * x + constant<V>(next), rest...);
}
template <class V, class... Rest>
FE_INLINE V polynomial(V x, double first, Rest... rest) {
  return horner(x, constant<V>(first), rest...);
}

// 2^n for whole n given as the bits of n, where the result is a normal number.
template <class V>
FE_INLINE V power_of_two(typename BitsOf<V>::T n) {
  constexpr int fraction = kSingle ? 23 : 52, bias = kSingle ? 127 : 1023;
  return (V)((n + bias) << fraction);
}

// e^x; 0 below -87.3 (float) or -708 (double), infinity above 88.7 or 709.7.
template <class V>
FE_INLINE V exponential(V x) {
  typedef typename BitsOf<V>::T I;
  constexpr double low = kSingle ? -87.33 : -708.3, high = kSingle ? 88.72283 : 709.782712893;
  const V lo = constant<V>(low), hi = constant<V>(high);
  V t = x < lo ? lo : x;
  t = t > hi ? hi : t;
  // Adding 1.5 * 2^23 (2^52) rounds to a whole number and leaves it in the low bits.
  const V magic = constant<V>(kSingle ? 12582912.0 : 6755399441055744.0);
  const V shifted = t * constant<V>(1.44269504088896340736) + magic;
  const I n = (I)shifted - (I)magic;
  const V whole = shifted - magic;
  V r, p;
  if constexpr (kSingle) {
    r = t - whole * constant<V>(0.693359375) - whole * constant<V>(-2.12194440e-4);
    p = polynomial(r, 1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                   1.6666665459e-1, 5.0000001201e-1);
    p = p * r * r + r + constant<V>(1);
  } else {
    r = t - whole * constant<V>(6.93147180369123816490e-1) -
        whole * constant<V>(1.90821492927058770002e-10);
    p = polynomial(r, 1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
                   1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0,
                   1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0);
  }
  const I half = n >> 1;  // in two factors: 2^128 alone is out of range
  p = p * power_of_two<V>(half) * power_of_two<V>(n - half);
  p = x < lo ? V{} : p;
  return x > hi ? constant<V>(std::numeric_limits<double>::infinity()) : p;
}

// The natural logarithm of a normal number above 0 (of 0: about -87 or -708).
template <class V>
FE_INLINE V logarithm(V x) {
  typedef typename BitsOf<V>::T I;
  constexpr int fraction = kSingle ? 23 : 52, bias = kSingle ? 127 : 1023;
  constexpr bits_t below = (bits_t(1) << fraction) - 1;
  I exponent = ((I)x >> fraction) - bias;
  V m = (V)(((I)x & below) | (bits_t(bias) << fraction));  // [1, 2)
  const I large = (I)(m > constant<V>(1.41421356237309504880));
  m = large ? m * constant<V>(0.5) : m;
  exponent = exponent - large;  // true is -1
  const V s = (m - constant<V>(1)) / (m + constant<V>(1)), z = s * s;
  V p;
  if constexpr (kSingle) p = polynomial(z, 1.0 / 9, 1.0 / 7, 1.0 / 5, 1.0 / 3);
  else
    p = polynomial(z, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11, 1.0 / 9, 1.0 / 7,
                   1.0 / 5, 1.0 / 3);
  const V e = __builtin_convertvector(exponent, V), twice = s + s;
  V y = twice * z * p + e * constant<V>(kSingle ? -2.12194440e-4 : 1.90821492927058770002e-10);
  y = y + twice + e * constant<V>(kSingle ? 0.693359375 : 6.93147180369123816490e-1);
  y = x < constant<V>(std::numeric_limits<double>::infinity()) ? y : x;  // infinity and NaN
  return x < V{} ? constant<V>(std::numeric_limits<double>::quiet_NaN()) : y;
}

// log(1 + x) for x >= 0, exact to the last digits for tiny x too.
template <class V>
FE_INLINE V log_of_one_plus(V x) {
  const V one = constant<V>(1), u = one + x, d = u - one;
  const V y = logarithm(u) * (x / d);
  return d == V{} ? x : y;
}

// 1 / (1 + e^-x)
template <class V>
FE_INLINE V sigmoid(V x) {
  const V one = constant<V>(1);
  return one / (one + exponential(-x));
}

template <class V>
FE_INLINE V hyperbolic_tangent(V x) {
  const V one = constant<V>(1), a = absolute(x), z = x * x;
  V near;
  if constexpr (kSingle) {
    near = polynomial(z, -5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2,
                      1.33314422036e-1, -3.33332819422e-1);
  } else {
    near = polynomial(z, -9.64399179425052238628e-1, -9.92877231001918586564e1,
                      -1.61468768441708447952e3) /
           polynomial(z, 1.0, 1.12811678491632931402e2, 2.23548839060100448583e3,
                      4.84406305325125486048e3);
  }
  near = near * z * x + x;
  const V far = one - constant<V>(2) / (exponential(a + a) + one);
  return a < constant<V>(0.625) ? near : with_sign_of(far, x);
}

// 2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x.
template <class V>
FE_INLINE V error_function(V x) {
  const V one = constant<V>(1), a = absolute(x), z = x * x;
  V near, far, limit;
  if constexpr (kSingle) {
    limit = constant<V>(0.927734375);
    near = polynomial(z, -5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1,
                      -3.76125336e-1, 1.28379166e-1);
    near = near * x + x;
    const V t = a > constant<V>(4) ? constant<V>(4) : a;
    const V p = polynomial(t, -1.72853470e-5, 3.83197126e-4, -3.88396438e-3, 2.42546219e-2,
                           -1.06777877e-1, -6.34846687e-1, -1.28717512e-1);
    far = one - exponential(p * t - t);
  } else {
    limit = one;
    near = polynomial(z, 9.60497373987051638749e0, 9.00260197203842689217e1,
                      2.23200534594684319226e3, 7.00332514112805075473e3,
                      5.55923013010394962768e4) /
           polynomial(z, 1.0, 3.35617141647503099647e1, 5.21357949780152679795e2,
                      4.59432382970980127987e3, 2.26290000613890934246e4,
                      4.92673942608635921086e4);
    near = near * x;
    const V t = a > constant<V>(7.9) ? constant<V>(7.9) : a;
    far = polynomial(t, 2.46196981473530512524e-10, 5.64189564831068821977e-1,
                     7.46321056442269912687e0, 4.86371970985681366614e1,
                     1.96520832956077098242e2, 5.26445194995477358631e2,
                     9.34528527171957607540e2, 1.02755188689515710272e3,
                     5.57535335369399327526e2) /
          polynomial(t, 1.0, 1.32281951154744992508e1, 8.67072140885989742329e1,
                     3.54937778887819891062e2, 9.75708501743205489753e2,
                     1.82390916687909736289e3, 2.24633760818710981792e3,
                     1.65666309194161350182e3, 5.57535340817727675546e2);
    far = one - exponential(-t * t) * far;
  }
  const V y = a < limit ? near : with_sign_of(far, x);
  return x == x ? y : x;
}

// As many doubles as a vector has lanes, and their bits.
template <class V>
struct DoublesOf {
  static constexpr int lanes = sizeof(V) / sizeof(real);
  typedef double T __attribute__((vector_size(sizeof(V) / sizeof(real) * 8), may_alias));
  typedef int64_t I __attribute__((vector_size(sizeof(V) / sizeof(real) * 8), may_alias));
};

// sin(x + turns pi / 2), in double: x less whole quarter turns, then Taylor's polynomials.
// Lanes beyond a million, where the three parts of pi / 2 no longer do, go one by one.
template <class V>
FE_INLINE V sine(V x, int turns) {
  typedef typename DoublesOf<V>::T D;
  typedef typename DoublesOf<V>::I I;
  const D t = __builtin_convertvector(x, D), magic = 6755399441055744.0 - D{};
  const D shifted = t * 0.63661977236758134308 + magic, whole = shifted - magic;
  const D r = t - whole * 1.57079632673412561417 - whole * 6.07710050630396597660e-11 -
              whole * 2.02226624879595063154e-21;
  const D z = r * r, one = 1.0 - D{};
  D s = one, c = one;
  for (const double n : {210.0, 156.0, 110.0, 72.0, 42.0, 20.0, 6.0}) s = one - z * s * (1 / n);
  for (const double n : {240.0, 182.0, 132.0, 90.0, 56.0, 30.0, 12.0, 2.0})
    c = one - z * c * (1 / n);
  const I n = (I)shifted - (I)magic + turns;
  D y = (n & 1) != 0 ? c : s * r;
  y = (n & 2) != 0 ? -y : y;
  for (int i = 0; i < DoublesOf<V>::lanes; i++)
    if (!(std::abs(t[i]) < 1e6)) y[i] = turns ? std::cos(t[i]) : std::sin(t[i]);
  return __builtin_convertvector(y, V);
}

// In double: the angle is halved three times, then Taylor's polynomial, then doubled back.
template <class V>
FE_INLINE V arc_tangent(V x) {
  typedef typename DoublesOf<V>::T D;
  D t = __builtin_convertvector(x, D);
  const D far = 1e150 - D{};  // its square is finite, its angle a quarter turn
  t = t > far ? far : t;
  t = t < -far ? -far : t;
  for (int half = 0; half < 3; half++) {
    D root;
    for (int i = 0; i < DoublesOf<V>::lanes; i++) root[i] = std::sqrt(1.0 + t[i] * t[i]);
    t = t / (1.0 + root);
  }
  const D z = t * t;
  D sum = 1.0 / 19 - D{};
  for (const double n : {17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0}) sum = 1 / n - z * sum;
  return __builtin_convertvector(8.0 * t * sum, V);
}

}  // namespace fe
