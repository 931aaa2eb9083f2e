// Convolutions on bytes for processors with AVX-512 VBMI and VNNI. Sums are whole numbers,
// and what is done with them is done everywhere alike: the results are, bit by bit, those of
// the float32 kernels on inputs that were rounded before. Measured on Zen 5, one thread: 130 to
// 180 G places of weights a second, of which two thirds to nine tenths are in use; float32
// kernels do 77 G weights.
#include "kernels.h"

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of GCC 12's own headers

#if defined(__AVX512VBMI__) && defined(__AVX512VNNI__)
#include "simd.h"

namespace flsp {
namespace {

constexpr int kRows = 16, kStep = 8 * kRows;  // output channels, bytes of a step

FLSP_INLINE __m512i bytes_at(const void* p) { return _mm512_loadu_si512(p); }

FLSP_INLINE void turn(__m512 (&v)[16]) {  // 16 rows of 16
  __m512 t[16];
  FLSP_UNROLL for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
  FLSP_UNROLL for (int i = 0; i < 16; i += 4) {
    const auto wide = [&](int k) { return _mm512_castps_pd(t[i + k]); };
    v[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(wide(0), wide(2)));
    v[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(wide(0), wide(2)));
    v[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(wide(1), wide(3)));
    v[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(wide(1), wide(3)));
  }
  FLSP_UNROLL for (int j = 0; j < 4; j++) {
    const __m512 a = v[j], b = v[4 + j], c = v[8 + j], d = v[12 + j];
    const __m512 p = _mm512_shuffle_f32x4(a, b, 0x44), q = _mm512_shuffle_f32x4(c, d, 0x44);
    const __m512 r = _mm512_shuffle_f32x4(a, b, 0xEE), s = _mm512_shuffle_f32x4(c, d, 0xEE);
    v[j] = _mm512_shuffle_f32x4(p, q, 0x88);
    v[4 + j] = _mm512_shuffle_f32x4(p, q, 0xDD);
    v[8 + j] = _mm512_shuffle_f32x4(r, s, 0x88);
    v[12 + j] = _mm512_shuffle_f32x4(r, s, 0xDD);
  }
}

// A pixel's 16 values lie beside each other as they are.
FLSP_INLINE void store_rounded(const ByteTarget& to, int32_t group, const __m512 (&v)[16],
                               Vec low, Vec high) {
  const Vec inverse = splat(to.inverse), least = splat(to.low), most = splat(to.high);
  const __m512i zero = _mm512_set1_epi32(to.zero);
  FLSP_UNROLL for (int p = 0; p < kBytePixels; p++) {
    if (!to.at[p]) continue;
    const Vec y = clip(reinterpret_cast<Vec>(v[p]), low, high);
    const Vec whole = clip(y * inverse, least, most);
    const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(reinterpret_cast<__m512>(whole)), zero);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to.at[p] + group * kRows),
                     _mm512_cvtepi32_epi8(q));
  }
}

// 16 sums of each of 16 pixels become 16 pixels of each output channel.
FLSP_INLINE void finish(const ByteTile& t, const ByteSteps& s, int32_t group,
                        const __m512i (&sum)[kBytePixels]) {
  __m512 v[16];
  const Vec scale = load(s.scale + group * kRows), bias = load(s.bias + group * kRows);
  FLSP_UNROLL for (int p = 0; p < kBytePixels; p++) {
    Vec y = reinterpret_cast<Vec>(_mm512_cvtepi32_ps(sum[p])) * scale;
    FLSP_KEEP_VEC(y);
    y += bias;
    v[p] = reinterpret_cast<__m512>(y);
  }
  const Vec low = splat(t.finish.low), high = splat(t.finish.high);
  if (t.rounded) return store_rounded(t.target, group, v, low, high);
  turn(v);
  FLSP_UNROLL for (int r = 0; r < kRows; r++) {
    const int32_t row = s.row[group * kRows + r];
    if (row < 0) break;
    const ptrdiff_t at = row * t.y_plane;
    Vec y = reinterpret_cast<Vec>(v[r]);
    if (t.finish.residual) y += load(t.finish.residual + at);
    store(t.y + at, clip(y, low, high));
  }
}

template <bool QUADS>
FLSP_INLINE void run_groups(const ByteTile& t, const ByteSteps& s, int32_t begin, int32_t end) {
  const ptrdiff_t one = t.step, three = 3 * t.step;
  for (int32_t group = begin; group < end; group++) {
    __m512i sum[kBytePixels];
    FLSP_UNROLL for (int p = 0; p < kBytePixels; p++)
      sum[p] = bytes_at(s.shift + group * kRows);
    const int32_t stop = s.start[group + 1];
    const uint8_t* step = s.steps + static_cast<ptrdiff_t>(s.start[group]) * kStep;
    for (int32_t i = s.start[group]; i < stop; i++, step += kStep) {
      const __m512i place = bytes_at(step), weight = bytes_at(step + 64);
      const ptrdiff_t base = s.base[i];
      const auto add = [&](int p, const uint8_t* x) FLSP_INLINE_LAMBDA {
        sum[p] = _mm512_dpbusd_epi32(sum[p], _mm512_permutexvar_epi8(place, bytes_at(x)), weight);
      };
      FLSP_UNROLL for (int p = 0; p < kBytePixels; p += 4) {
        const uint8_t* x = t.x[p] + base;
        add(p, x);
        add(p + 1, QUADS ? x + one : t.x[p + 1] + base);
        add(p + 2, QUADS ? x + 2 * one : t.x[p + 2] + base);
        add(p + 3, QUADS ? x + three : t.x[p + 3] + base);
      }
    }
    finish(t, s, group, sum);
  }
}

void tile(const ByteTile& t, const ByteSteps& s, int32_t begin, int32_t end) {
  return t.quads ? run_groups<true>(t, s, begin, end) : run_groups<false>(t, s, begin, end);
}

// 16 channels of 16 pixels at a time, whose bytes are turned in registers.
void copy(const ByteCopy& c) {
  const ByteTarget& to = c.target;
  const Vec inverse = splat(to.inverse), low = splat(to.low), high = splat(to.high);
  const __m512i zero = _mm512_set1_epi32(to.zero);
  for (int32_t first = 0; first < c.channels; first += 16) {
    __m512i four[4];
    FLSP_UNROLL for (int i = 0; i < 4; i++) {
      four[i] = _mm512_setzero_si512();
      FLSP_UNROLL for (int k = 0; k < 4; k++) {
        const int32_t channel = first + 4 * i + k;
        if (channel >= c.channels) continue;
        const Vec v = clip(load(c.x + channel * c.plane) * inverse, low, high);
        const __m512i q =
            _mm512_add_epi32(_mm512_cvtps_epi32(reinterpret_cast<__m512>(v)), zero);
        four[i] = _mm512_or_si512(four[i], _mm512_slli_epi32(q, 8 * k));
      }
    }
    const __m512i a = _mm512_unpacklo_epi32(four[0], four[1]);
    const __m512i b = _mm512_unpackhi_epi32(four[0], four[1]);
    const __m512i d = _mm512_unpacklo_epi32(four[2], four[3]);
    const __m512i e = _mm512_unpackhi_epi32(four[2], four[3]);
    const __m512i pixel[4] = {_mm512_unpacklo_epi64(a, d), _mm512_unpackhi_epi64(a, d),
                              _mm512_unpacklo_epi64(b, e), _mm512_unpackhi_epi64(b, e)};
    FLSP_UNROLL for (int k = 0; k < 4; k++) {
      const __m128i lane[4] = {_mm512_castsi512_si128(pixel[k]),
                               _mm512_extracti32x4_epi32(pixel[k], 1),
                               _mm512_extracti32x4_epi32(pixel[k], 2),
                               _mm512_extracti32x4_epi32(pixel[k], 3)};
      FLSP_UNROLL for (int l = 0; l < 4; l++)
        if (to.at[4 * l + k])
          _mm_storeu_si128(reinterpret_cast<__m128i*>(to.at[4 * l + k] + first), lane[l]);
    }
  }
}

// Of 64 places that a step has, 20 used ones take as long as in float32.
const ByteKernels kBytes = {kRows, 64, 0, kFours, 20, copy, tile};

}  // namespace

const ByteKernels* bytes_vnni() { return &kBytes; }

}  // namespace flsp
#else
namespace flsp {
const ByteKernels* bytes_vnni() { return nullptr; }
}  // namespace flsp
#endif
