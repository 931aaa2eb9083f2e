// Vectors of samples: one blocked pixel is L lanes, held in NV hardware vectors.
//
// GCC and Clang vector extensions instead of intrinsics: one source serves AVX-512, AVX2,
// SSE and NEON, and the register blocking is the one written here, not the
// auto-vectoriser's guess.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "fe.h"

#ifndef FE_VECTOR_BYTES
#define FE_VECTOR_BYTES 16
#endif
#define FE_INLINE inline __attribute__((always_inline))
#define FE_INLINE_LAMBDA __attribute__((always_inline))
#define FE_UNROLL _Pragma("GCC unroll 64")

namespace fe {

typedef FE_REAL real;
constexpr int kMaxVl = FE_VECTOR_BYTES / (int)sizeof(real);

// 32 architectural vector registers on AVX-512 and AArch64, 16 on AVX2 and SSE.
#if FE_VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

template <int Width>
struct Vector {
  // may_alias: tensors arrive as plain real pointers. Blocked tensors are 64-byte aligned
  // and a pixel is L reals, so every vector inside one is aligned to its own size.
  typedef real T __attribute__((vector_size(Width * sizeof(real)), may_alias));
  typedef int32_t Int __attribute__((vector_size(Width * sizeof(int32_t)), may_alias));
  typedef uint8_t Byte __attribute__((vector_size(Width), may_alias, aligned(1)));
};

template <int L>
struct Lanes {
  static constexpr int VL = L < kMaxVl ? L : kMaxVl;
  static constexpr int NV = L / VL;
  typedef typename Vector<VL>::T V;
};

template <class V>
FE_INLINE V load(const real* p) {
  return *(const V*)p;
}
template <class V>
FE_INLINE void store(real* p, V v) {
  *(V*)p = v;
}
template <class V>
FE_INLINE V splat(real a) {
  return a - V{};
}

// relu as torch has it: a NaN stays a NaN, so the test is "not above" on the negative side.
template <class V>
FE_INLINE V relu(V v) {
  return v <= V{} ? V{} : v;
}
template <class V>
FE_INLINE V relu_gradient(V activation, V gradient) {
  return activation <= V{} ? V{} : gradient;
}

// A: FE_FUSED_NONE, FE_FUSED_RELU or FE_FUSED_RELU6.
template <int A, class V>
FE_INLINE V activate(V v) {
  if constexpr (A == FE_FUSED_NONE) return v;
  v = relu(v);
  if constexpr (A == FE_FUSED_RELU6) v = v >= splat<V>(6) ? splat<V>(6) : v;
  return v;
}
// `at` is the activation's input or its output: the gradient passes at the same places.
template <int A, class V>
FE_INLINE V activation_gradient(V at, V gradient) {
  if constexpr (A == FE_FUSED_NONE) return gradient;
  gradient = relu_gradient(at, gradient);
  if constexpr (A == FE_FUSED_RELU6) gradient = at >= splat<V>(6) ? V{} : gradient;
  return gradient;
}
// Calls body(constant) with the activation as a constant of the compiler's.
template <class F>
FE_INLINE void with_activation(int activation, F body) {
  if (activation == FE_FUSED_RELU6) body(std::integral_constant<int, FE_FUSED_RELU6>{});
  else if (activation) body(std::integral_constant<int, FE_FUSED_RELU>{});
  else body(std::integral_constant<int, FE_FUSED_NONE>{});
}

template <class V>
FE_INLINE real sum(V v) {
  constexpr int n = sizeof(V) / sizeof(real);
  real s = 0;
  FE_UNROLL for (int i = 0; i < n; i++) s += v[i];
  return s;
}

// {sum(a), sum(b), sum(c), sum(d)} by shuffles: a quarter of the work of four sums.
template <class V>
struct SumFour {
  typedef real Four __attribute__((vector_size(4 * sizeof(real))));
  static FE_INLINE Four of(V a, V b, V c, V d) { return Four{sum(a), sum(b), sum(c), sum(d)}; }
};
template <>
struct SumFour<Vector<4>::T> {
  typedef Vector<4>::T V;
  static FE_INLINE V of(V a, V b, V c, V d) {
    V ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    V cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) +
           __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  }
};
#if FE_VECTOR_BYTES >= 32
template <>
struct SumFour<Vector<8>::T> {
  typedef Vector<8>::T V;
  typedef Vector<4>::T Four;
  static FE_INLINE Four half(V v) {
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
  }
  static FE_INLINE Four of(V a, V b, V c, V d) {
    V ab = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13) +
           __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    V cd = __builtin_shufflevector(c, d, 0, 8, 1, 9, 4, 12, 5, 13) +
           __builtin_shufflevector(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
    return half(__builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15));
  }
};
#endif
#if FE_VECTOR_BYTES >= 64
template <>
struct SumFour<Vector<16>::T> {
  typedef Vector<16>::T V;
  typedef Vector<8>::T Half;
  typedef Vector<4>::T Four;
#define FE_LOW(a, b) \
  a, b, a + 1, b + 1, a + 4, b + 4, a + 5, b + 5, a + 8, b + 8, a + 9, b + 9, a + 12, b + 12, \
      a + 13, b + 13
#define FE_PAIR(a, b) \
  a, a + 1, b, b + 1, a + 4, a + 5, b + 4, b + 5, a + 8, a + 9, b + 8, b + 9, a + 12, a + 13, \
      b + 12, b + 13
  static FE_INLINE Four of(V a, V b, V c, V d) {
    V ab = __builtin_shufflevector(a, b, FE_LOW(0, 16)) +
           __builtin_shufflevector(a, b, FE_LOW(2, 18));
    V cd = __builtin_shufflevector(c, d, FE_LOW(0, 16)) +
           __builtin_shufflevector(c, d, FE_LOW(2, 18));
    V s = __builtin_shufflevector(ab, cd, FE_PAIR(0, 16)) +
          __builtin_shufflevector(ab, cd, FE_PAIR(2, 18));
    Half h = __builtin_shufflevector(s, s, 0, 1, 2, 3, 4, 5, 6, 7) +
             __builtin_shufflevector(s, s, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(h, h, 0, 1, 2, 3) +
           __builtin_shufflevector(h, h, 4, 5, 6, 7);
  }
#undef FE_LOW
#undef FE_PAIR
};
#endif

// Ties two sums to this point of the program. With 16 registers GCC otherwise sinks the
// sums below a whole tile's loads and spills them: a third of the SSE backward pass.
template <class V>
FE_INLINE void pin(V& a, V& b) {
#if defined(__x86_64__)
  if constexpr (!kManyRegisters && sizeof(V) >= 16) asm("" : "+x"(a), "+x"(b));
#else
  (void)a;
  (void)b;
#endif
}

// to[0..3] += four, wherever `to` starts.
template <class Four>
FE_INLINE void add_four(real* to, Four four) {
  Four old;
  __builtin_memcpy(&old, to, sizeof old);
  old += four;
  __builtin_memcpy(to, &old, sizeof old);
}

// Calls f<L>() for the run-time lane width; 4, 8 and 16 are the only ones built.
#define FE_FOR_LANES(lanes, CALL)      \
  switch (lanes) {                     \
    case 4: { constexpr int L = 4; CALL; } break;   \
    case 8: { constexpr int L = 8; CALL; } break;   \
    case 16: { constexpr int L = 16; CALL; } break; \
    default: return FE_BAD_ARGUMENT;   \
  }

}  // namespace fe
