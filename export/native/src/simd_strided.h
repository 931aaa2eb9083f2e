// Depth-wise convolutions with stride 2 on planes where they lie, and which kernel runs which.
//
// Measured on AVX-512: 96 channels of 112 x 112 pixels take 0.84 of the time that a copy split
// into even and odd columns took, 28 x 28 pixels less.
#ifndef FLSP_SIMD_STRIDED_H
#define FLSP_SIMD_STRIDED_H

#include "simd_depthwise.h"

namespace flsp {
namespace {

// Lanes whose column, two to the next one, lies inside a row.
FLSP_INLINE Index inside_strided(int32_t first, int32_t width) {
  Index column;
  FLSP_UNROLL for (int i = 0; i < kLanes; i++) column[i] = first + 2 * i;
  return (column >= 0) & (column < width);
}

// Sums of R output rows of a K x K filter with stride 2, by how many lanes to the left (0) or
// to the right (2) their inputs lie: even and odd columns of one place serve all taps.
template <int K, int R, bool INSIDE>
FLSP_INLINE void every_second_column(const Taps<K>& taps, const float* const (&from)[2 * R + K - 2],
                                     int32_t first, int32_t width, Vec (&sum)[3][R]) {
  const Index keep = inside_strided(first, width), keep_odd = inside_strided(first + 1, width);
  FLSP_UNROLL for (int j = 0; j < 2 * R + K - 2; j++) {
    const Vec a = load(from[j] + first), b = load(from[j] + first + kLanes);
    Vec of[2] = {even(a, b), odd(a, b)};
    if (!INSIDE) of[0] = masked(of[0], keep), of[1] = masked(of[1], keep_odd);
    FLSP_UNROLL for (int r = 0; r < R; r++) {
      const int y = j - 2 * r;
      if (y >= 0 && y < K)
        FLSP_UNROLL for (int x = 0; x < K; x++)
          sum[(x - K / 2 + 4) / 2 - 1][r] += taps(y * K + x) * of[(x + K / 2) & 1];
    }
  }
}

// Lanes moved by one: the last of `a` before those of b, the first of `b` behind those of a.
#if FLSP_BYTES == 64
FLSP_INLINE Vec moved_right(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, 15, 16, 17, 18, 19, 20, 21, 22,
                                 23, 24, 25, 26, 27, 28, 29, 30);
}
FLSP_INLINE Vec moved_left(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, 1, 2, 3, 4, 5, 6, 7, 8,
                                 9, 10, 11, 12, 13, 14, 15, 16);
}
#elif FLSP_BYTES == 32
FLSP_INLINE Vec moved_right(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, 7, 8, 9, 10, 11, 12, 13, 14);
}
FLSP_INLINE Vec moved_left(Vec a, Vec b) {
  return __builtin_shufflevector(a, b, 1, 2, 3, 4, 5, 6, 7, 8);
}
#else
FLSP_INLINE Vec moved_right(Vec a, Vec b) { return __builtin_shufflevector(a, b, 3, 4, 5, 6); }
FLSP_INLINE Vec moved_left(Vec a, Vec b) { return __builtin_shufflevector(a, b, 1, 2, 3, 4); }
#endif

// A K x K filter of stride 2 on the plane itself: each row is read once for a tile. Sums of
// neighbouring columns are moved into place once for each output, not once for each input.
template <int K>
void strided_rows(const Depthwise& d, int32_t output) {
  constexpr int kTile = K == 3 && kMaxDense >= 4 ? 4 : 2;
  constexpr bool kRight = K == 5;  // some inputs lie to the right, too
  const Place p(d, output);
  const Taps<K> taps(d.filters + output * K * K);
  const int32_t height = d.height, width = d.width, pad_top = d.pad_top;
  const int32_t columns = static_cast<int32_t>(p.out_width);
  const int32_t middle = K / 2 - d.pad_left;  // with less padding the first inputs lie outside
  const float *plane = d.x, *zeros = d.copy + 2 * kLanes;
  const auto tile = [&](auto count, int32_t row) FLSP_INLINE_LAMBDA {
    constexpr int R = decltype(count)::value;
    const float* from[2 * R + K - 2];
    FLSP_UNROLL for (int j = 0; j < 2 * R + K - 2; j++) {
      const int32_t h = 2 * row - pad_top + j;
      from[j] = h >= 0 && h < height ? plane + h * p.width : zeros;
    }
    Vec left[R] = {}, right[R] = {}, whole[R] = {};
    for (int32_t w = middle ? -kLanes : 0; w < columns + kRight; w += kLanes) {
      Vec sum[3][R];
      FLSP_UNROLL for (int r = 0; r < R; r++) sum[0][r] = sum[2][r] = Vec{}, sum[1][r] = p.bias;
      const int32_t first = 2 * w + middle;
      if (R > 1 && first >= 0 && first + 2 * kLanes <= width)
        every_second_column<K, R, true>(taps, from, first, width, sum);
      else
        every_second_column<K, R, false>(taps, from, first, width, sum);
      FLSP_UNROLL for (int r = 0; r < R; r++) {
        const ptrdiff_t at = (row + r) * p.out_width + w;
        const Vec now = sum[1][r] + moved_right(left[r], sum[0][r]);
        left[r] = sum[0][r];
        if (kRight) {
          if (w > 0) p.put(at - kLanes, whole[r] + moved_left(right[r], sum[2][r]));
          whole[r] = now, right[r] = sum[2][r];
        } else if (w >= 0) {
          p.put_last(at, now, columns - w);
        }
      }
    }
    const int32_t last = columns / kLanes * kLanes;
    if (kRight && last < columns)
      FLSP_UNROLL for (int r = 0; r < R; r++)
        p.put_last((row + r) * p.out_width + last, whole[r] + moved_left(right[r], Vec{}),
                    columns - last);
  };
  int32_t row = 0;
  for (; row + kTile <= d.out_height; row += kTile) tile(Count<kTile>{}, row);
  for (; row < d.out_height; row++) tile(Count<1>{}, row);
}

void depthwise(const Depthwise& d) {
  if (d.direct) {
    for (int32_t o = 0; o < d.outputs; o++)
      if (d.stride == 2) d.kernel_h == 3 ? strided_rows<3>(d, o) : strided_rows<5>(d, o);
      else d.kernel_h == 3 ? plane_rows<3>(d, o) : plane_rows<5>(d, o);
    return;
  }
  if (d.stride == 1) return depthwise_copied<1>(d);
  depthwise_copied<2>(d);
}

}  // namespace
}  // namespace flsp

#endif
