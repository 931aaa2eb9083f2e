// Convolutions on bytes in vectors of 32 bytes (AVX2, with or without dot products) and of 16
// (NEON, likewise): bytes_vnni.cpp says how they go. Compiled once per instruction set with
// FLSP_DOT = avxvnni, avx2, dot or neon. Sums are exact in all four:
// * avxvnni, dot: four products are added to 32 bits at once; `dot` takes inputs less 128.
// * avx2: two products are added to 16 bits first, which bytes_plan.cpp keeps from overflowing.
// * neon: likewise, on inputs less 128; with weights of -127 to 127 no pair can overflow.
#ifdef FLSP_DOT
#include "simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif

namespace flsp {
namespace {

#if defined(__x86_64__)

constexpr int kRows = 8, kWindow = 16, kPixels = 8, kOffset = 0;
typedef __m256i Sums;

FLSP_INLINE Sums sums_at(const int32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const Sums*>(p));
}

struct Step {
  __m256i place, weight;
  FLSP_INLINE_MEMBER explicit Step(const uint8_t* p)
      : place(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))),
        weight(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))) {}
  FLSP_INLINE_MEMBER void add(Sums& sum, const uint8_t* x) const {
    const __m128i window = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    const __m256i v = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(window), place);
#if defined(__AVXVNNI__)
    sum = _mm256_dpbusd_avx_epi32(sum, v, weight);
#else
    const __m256i pairs = _mm256_maddubs_epi16(v, weight);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
  }
};

FLSP_INLINE Vec floats_of(Sums sum) { return reinterpret_cast<Vec>(_mm256_cvtepi32_ps(sum)); }

FLSP_INLINE void turn(Vec (&v)[kPixels]) {  // 8 rows of 8
  __m256 t[8];
  FLSP_UNROLL for (int i = 0; i < 8; i += 2) {
    const auto a = reinterpret_cast<__m256>(v[i]), b = reinterpret_cast<__m256>(v[i + 1]);
    t[i] = _mm256_unpacklo_ps(a, b);
    t[i + 1] = _mm256_unpackhi_ps(a, b);
  }
  __m256 q[8];
  FLSP_UNROLL for (int i = 0; i < 8; i += 4) FLSP_UNROLL for (int k = 0; k < 2; k++) {
    q[i + 2 * k] = _mm256_shuffle_ps(t[i + k], t[i + 2 + k], 0x44);
    q[i + 2 * k + 1] = _mm256_shuffle_ps(t[i + k], t[i + 2 + k], 0xEE);
  }
  FLSP_UNROLL for (int i = 0; i < 4; i++) {
    v[i] = reinterpret_cast<Vec>(_mm256_permute2f128_ps(q[i], q[i + 4], 0x20));
    v[i + 4] = reinterpret_cast<Vec>(_mm256_permute2f128_ps(q[i], q[i + 4], 0x31));
  }
}

// Four pixels' values, of which the last byte is kept.
struct BytesOfFour {
  uint8_t at[32];
  FLSP_INLINE_MEMBER explicit BytesOfFour(const Index (&q)[4]) {
    const auto part = [&](int k) { return reinterpret_cast<__m256i>(q[k]); };
    const __m256i a = _mm256_packs_epi32(part(0), part(1)), b = _mm256_packs_epi32(part(2), part(3));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), bytes);
  }
};

#else

constexpr int kRows = 4, kWindow = 32, kPixels = 16, kOffset = 128;
typedef int32x4_t Sums;

FLSP_INLINE Sums sums_at(const int32_t* p) { return vld1q_s32(p); }

struct Step {
  uint8x16_t place;
  int8x16_t weight;
  FLSP_INLINE_MEMBER explicit Step(const uint8_t* p)
      : place(vld1q_u8(p)), weight(vreinterpretq_s8_u8(vld1q_u8(p + 16))) {}
  FLSP_INLINE_MEMBER void add(Sums& sum, const uint8_t* x) const {
    const uint8x16x2_t window = {{vld1q_u8(x), vld1q_u8(x + 16)}};
    const int8x16_t v = vreinterpretq_s8_u8(vqtbl2q_u8(window, place));
#if defined(__ARM_FEATURE_DOTPROD)
    sum = vdotq_s32(sum, v, weight);
#else
    const int16x8_t pairs = vmull_s8(vget_low_s8(v), vget_low_s8(weight));
    sum = vpadalq_s16(sum, vmlal_high_s8(pairs, v, weight));
#endif
  }
};

FLSP_INLINE Vec floats_of(Sums sum) { return reinterpret_cast<Vec>(vcvtq_f32_s32(sum)); }

FLSP_INLINE void turn(Vec (&v)[kPixels]) {  // 16 rows of 4 become 4 times 4 of 4
  FLSP_UNROLL for (int i = 0; i < kPixels; i += 4) {
    const Vec a = __builtin_shufflevector(v[i], v[i + 1], 0, 4, 1, 5);
    const Vec b = __builtin_shufflevector(v[i], v[i + 1], 2, 6, 3, 7);
    const Vec c = __builtin_shufflevector(v[i + 2], v[i + 3], 0, 4, 1, 5);
    const Vec d = __builtin_shufflevector(v[i + 2], v[i + 3], 2, 6, 3, 7);
    v[i] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    v[i + 1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    v[i + 2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    v[i + 3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
  }
}

struct BytesOfFour {
  uint8_t at[16];
  FLSP_INLINE_MEMBER explicit BytesOfFour(const Index (&q)[4]) {
    const auto part = [&](int k) { return vmovn_s32(reinterpret_cast<int32x4_t>(q[k])); };
    const int8x8_t a = vmovn_s16(vcombine_s16(part(0), part(1)));
    const int8x8_t b = vmovn_s16(vcombine_s16(part(2), part(3)));
    vst1q_u8(at, vreinterpretq_u8_s8(vcombine_s8(a, b)));
  }
};

#endif

constexpr int kStep = 8 * kRows;  // bytes: places, then values

// A pixel's values lie beside each other as they are.
FLSP_INLINE void store_rounded(const ByteTarget& to, int32_t group, int first,
                               const Vec (&v)[kPixels], Vec low, Vec high) {
  const Vec inverse = splat(to.inverse), least = splat(to.low), most = splat(to.high);
  FLSP_UNROLL for (int p = 0; p < kPixels; p += 4) {
    Index q[4];
    FLSP_UNROLL for (int k = 0; k < 4; k++) {
      const Vec y = whole(clip(clip(v[p + k], low, high) * inverse, least, most));
      q[k] = __builtin_convertvector(y, Index) + to.zero;
    }
    const BytesOfFour bytes(q);
    FLSP_UNROLL for (int k = 0; k < 4; k++)
      if (to.at[first + p + k])
        __builtin_memcpy(to.at[first + p + k] + group * kRows, bytes.at + k * kRows, kRows);
  }
}

// The sums of some pixels, a row of them per output channel.
FLSP_INLINE void finish(const ByteTile& t, const ByteSteps& s, int32_t group, int first,
                        const Sums (&sum)[kPixels]) {
  Vec v[kPixels];
  const Vec scale = load(s.scale + group * kRows), bias = load(s.bias + group * kRows);
  FLSP_UNROLL for (int p = 0; p < kPixels; p++) {
    v[p] = floats_of(sum[p]) * scale;
    FLSP_KEEP_VEC(v[p]);
    v[p] += bias;
  }
  const Vec low = splat(t.finish.low), high = splat(t.finish.high);
  if (t.rounded) return store_rounded(t.target, group, first, v, low, high);
  turn(v);
  FLSP_UNROLL for (int r = 0; r < kRows; r++) {
    const int32_t row = s.row[group * kRows + r];
    if (row < 0) break;
    const ptrdiff_t at = row * t.y_plane + first;
    FLSP_UNROLL for (int i = 0; i < kPixels / kLanes; i++) {
      Vec y = v[i * kLanes + r];
      if (t.finish.residual) y += load(t.finish.residual + at + i * kLanes);
      store(t.y + at + i * kLanes, clip(y, low, high));
    }
  }
}

template <bool QUADS>
FLSP_INLINE void run_groups(const ByteTile& t, const ByteSteps& s, int32_t begin, int32_t end,
                            int first) {
  const ptrdiff_t one = t.step, three = 3 * t.step;
  for (int32_t group = begin; group < end; group++) {
    Sums sum[kPixels];
    FLSP_UNROLL for (int p = 0; p < kPixels; p++) sum[p] = sums_at(s.shift + group * kRows);
    const int32_t stop = s.start[group + 1];
    const uint8_t* at = s.steps + static_cast<ptrdiff_t>(s.start[group]) * kStep;
    for (int32_t i = s.start[group]; i < stop; i++, at += kStep) {
      const Step step(at);
      const ptrdiff_t base = s.base[i];
      FLSP_UNROLL for (int p = 0; p < kPixels; p += 4) {
        const uint8_t* const* from = t.x + first + p;
        const uint8_t* x = from[0] + base;
        step.add(sum[p], x);
        step.add(sum[p + 1], QUADS ? x + one : from[1] + base);
        step.add(sum[p + 2], QUADS ? x + 2 * one : from[2] + base);
        step.add(sum[p + 3], QUADS ? x + three : from[3] + base);
      }
    }
    finish(t, s, group, first, sum);
  }
}

void tile(const ByteTile& t, const ByteSteps& s, int32_t begin, int32_t end) {
  for (int first = 0; first < kBytePixels; first += kPixels)
    if (t.quads)
      run_groups<true>(t, s, begin, end, first);
    else
      run_groups<false>(t, s, begin, end, first);
}

typedef int32_t Four __attribute__((vector_size(16), aligned(4), may_alias));

// Four pixels of 16 channels at a time are turned in registers.
void copy(const ByteCopy& c) {
  const ByteTarget& to = c.target;
  const Vec inverse = splat(to.inverse), low = splat(to.low), high = splat(to.high);
  for (int32_t first = 0; first < c.channels; first += 16) {
    int32_t four[4][kBytePixels];  // four channels of each pixel
    FLSP_UNROLL for (int p = 0; p < kBytePixels; p += kLanes)
      FLSP_UNROLL for (int i = 0; i < 4; i++) {
        Index joined{};
        FLSP_UNROLL for (int k = 0; k < 4; k++) {
          const int32_t channel = first + 4 * i + k;
          if (channel >= c.channels) continue;
          const Vec v = clip(load(c.x + channel * c.plane + p) * inverse, low, high);
          const Index q = __builtin_convertvector(whole(v), Index) + to.zero;
          joined |= (q & 255) << 8 * k;
        }
        *reinterpret_cast<Index*>(four[i] + p) = joined;
      }
    FLSP_UNROLL for (int p = 0; p < kBytePixels; p += 4) {
      Four q[4];
      FLSP_UNROLL for (int i = 0; i < 4; i++) q[i] = *reinterpret_cast<const Four*>(four[i] + p);
      const Four a = __builtin_shufflevector(q[0], q[1], 0, 4, 1, 5);
      const Four b = __builtin_shufflevector(q[0], q[1], 2, 6, 3, 7);
      const Four d = __builtin_shufflevector(q[2], q[3], 0, 4, 1, 5);
      const Four e = __builtin_shufflevector(q[2], q[3], 2, 6, 3, 7);
      const Four pixel[4] = {__builtin_shufflevector(a, d, 0, 1, 4, 5),
                             __builtin_shufflevector(a, d, 2, 3, 6, 7),
                             __builtin_shufflevector(b, e, 0, 1, 4, 5),
                             __builtin_shufflevector(b, e, 2, 3, 6, 7)};
      FLSP_UNROLL for (int k = 0; k < 4; k++)
        if (to.at[p + k]) *reinterpret_cast<Four*>(to.at[p + k] + first) = pixel[k];
    }
  }
}

// Of 32 places that a step has (16 on NEON), so many used ones take as long as in float32.
#if defined(__AVXVNNI__)
constexpr ByteKernels kBytes = {kRows, kWindow, kOffset, kFours, 8, copy, tile};
#elif defined(__x86_64__)
constexpr ByteKernels kBytes = {kRows, kWindow, kOffset, kSafePairs, 9, copy, tile};
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr ByteKernels kBytes = {kRows, kWindow, kOffset, kFours, 7, copy, tile};
#else
constexpr ByteKernels kBytes = {kRows, kWindow, kOffset, kHalves, 7, copy, tile};
#endif

}  // namespace

const ByteKernels* FLSP_JOIN(bytes_, FLSP_DOT)() { return &kBytes; }

}  // namespace flsp
#endif
