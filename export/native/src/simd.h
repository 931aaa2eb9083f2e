// Vectors of floats by GCC's extensions: what every kernel of one instruction set is written in.
// Only kernels.cpp, once per instruction set, and bytes_*.cpp include it.
#ifndef FLSP_SIMD_H
#define FLSP_SIMD_H

#include "format.h"
#include "kernels.h"

#if FLSP_BYTES >= 32
#include <immintrin.h>
#endif

#ifndef FLSP_BYTES
#define FLSP_BYTES 16
#endif
#ifndef FLSP_ISA
#define FLSP_ISA base
#endif
#define FLSP_JOIN2(a, b) a##b
#define FLSP_JOIN(a, b) FLSP_JOIN2(a, b)
#define FLSP_TEXT2(a) #a
#define FLSP_TEXT(a) FLSP_TEXT2(a)
#define FLSP_INLINE static inline __attribute__((always_inline))
#define FLSP_INLINE_MEMBER inline __attribute__((always_inline))
#define FLSP_INLINE_LAMBDA __attribute__((always_inline))
#define FLSP_KEEP(p) asm("" : "+r"(p))
// A product that is not joined with the addition behind it, which some processors do.
#if FLSP_BYTES == 64
#define FLSP_KEEP_VEC(v) asm("" : "+v"(v))
#elif defined(__x86_64__)
#define FLSP_KEEP_VEC(v) asm("" : "+x"(v))
#elif defined(__aarch64__)
#define FLSP_KEEP_VEC(v) asm("" : "+w"(v))
#else
#define FLSP_KEEP_VEC(v) asm("" : "+m"(v))
#endif
#define FLSP_KEEP_LOOP asm volatile("" ::: "memory")
#define FLSP_UNROLL _Pragma("GCC unroll 32")

namespace flsp {
namespace {

constexpr int kLanes = FLSP_BYTES / 4;
typedef float Vec __attribute__((vector_size(FLSP_BYTES), aligned(4), may_alias));
typedef int32_t Index __attribute__((vector_size(FLSP_BYTES), aligned(4), may_alias));

// Accumulators that fit the registers beside one input and one weight.
#if FLSP_BYTES == 64 || defined(__aarch64__)
constexpr int kMaxSparse = 16, kMaxDense = 6;  // 32 registers
#else
constexpr int kMaxSparse = 12, kMaxDense = 3;  // 16 registers
#endif

FLSP_INLINE Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
FLSP_INLINE void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
FLSP_INLINE Vec splat(float a) { return a - Vec{}; }
FLSP_INLINE float real(float v) { return v; }
FLSP_INLINE float real(int8_t v) { return static_cast<float>(v); }
// b where either is not a number. GCC compares and blends where b is a constant.
#if FLSP_BYTES == 64
FLSP_INLINE Vec larger(Vec a, Vec b) {
  const __m512 v = reinterpret_cast<__m512>(a);
  return reinterpret_cast<Vec>(_mm512_mask_max_ps(v, 0xffff, v, reinterpret_cast<__m512>(b)));
}
FLSP_INLINE Vec smaller(Vec a, Vec b) {
  const __m512 v = reinterpret_cast<__m512>(a);
  return reinterpret_cast<Vec>(_mm512_mask_min_ps(v, 0xffff, v, reinterpret_cast<__m512>(b)));
}
#elif FLSP_BYTES == 32
FLSP_INLINE Vec larger(Vec a, Vec b) {
  return reinterpret_cast<Vec>(
      _mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
FLSP_INLINE Vec smaller(Vec a, Vec b) {
  return reinterpret_cast<Vec>(
      _mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
#else
FLSP_INLINE Vec larger(Vec a, Vec b) { return a > b ? a : b; }
FLSP_INLINE Vec smaller(Vec a, Vec b) { return a < b ? a : b; }
#endif
FLSP_INLINE Vec clip(Vec v, Vec low, Vec high) { return smaller(larger(v, low), high); }

// The whole number next to each, half to even; |v| < 2^22.
FLSP_INLINE Vec whole(Vec v) {
  const Vec large = splat(12582912.0f);
  return (v + large) - large;
}

FLSP_INLINE float clip_one(float v, float low, float high) {
  v = v > low ? v : low;
  return v < high ? v : high;
}

// Lanes in another order; the other vectors are not asked to.
FLSP_INLINE Vec ordered(Vec v, const int32_t* order) {
#if FLSP_BYTES == 64
  return reinterpret_cast<Vec>(_mm512_maskz_permutexvar_ps(0xffff, _mm512_loadu_si512(order),
                                                           reinterpret_cast<__m512>(v)));
#else
  (void)order;
  return v;
#endif
}

FLSP_INLINE void store_some(float* p, Vec v, int count) {
  if (count == kLanes) return store(p, v);
#if FLSP_BYTES == 64
  const auto lanes = static_cast<__mmask16>((1u << count) - 1);
  _mm512_mask_storeu_ps(p, lanes, reinterpret_cast<__m512>(v));
#else
  if (count & 4) __builtin_memcpy(p, &v, 16);
  const int tail = count & 3, from = count & 4;
  for (int i = 0; i < tail; i++) p[from + i] = v[from + i];
#endif
}

}  // namespace
}  // namespace flsp

#endif
