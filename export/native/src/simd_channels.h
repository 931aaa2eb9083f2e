// Depth-wise convolutions of small planes: a vector holds one pixel of as many channels as it
// has lanes, so that no row is padded, split by the stride or rounded up. What turning the
// planes costs, copies of short rows cost twice.
#ifndef FLSP_SIMD_CHANNELS_H
#define FLSP_SIMD_CHANNELS_H

#include "simd_depthwise.h"
#include "simd_matrix.h"

namespace flsp {
namespace {

// Taps begin..end of a window of which part lies outside.
struct WindowPart {
  int32_t begin, end;
  FLSP_INLINE_MEMBER WindowPart(int32_t first, int32_t kernel, int32_t dilation, int32_t size)
      : begin(0), end(kernel) {
    while (begin < end && first + begin * dilation < 0) begin++;
    while (end > begin && first + (end - 1) * dilation >= size) end--;
  }
};

// P neighbouring output pixels: each tap is read once for all of them. K: side of windows without
// dilation, 0 for any other; S: their stride along the row, 0 for any other.
template <int K, int S, int P>
FLSP_INLINE void turned_tile(const DepthwiseGroup& d, const float* x, const float* filter, Vec bias,
                             float* y) {
  const ptrdiff_t row = static_cast<ptrdiff_t>(d.padded_width) * kLanes;
  const ptrdiff_t step = static_cast<ptrdiff_t>(S ? S : d.stride_w) * kLanes;
  Vec sum[P];
  FLSP_UNROLL for (int p = 0; p < P; p++) sum[p] = bias;
  const auto add = [&](const float* at, const float* tap) FLSP_INLINE_LAMBDA {
    const Vec w = load(tap);
    FLSP_UNROLL for (int p = 0; p < P; p++) sum[p] += w * load(at + p * step);
  };
  if constexpr (K > 0) {
    for (int i = 0; i < K; i++, x += row, filter += K * kLanes)
      FLSP_UNROLL for (int j = 0; j < K; j++) add(x + j * kLanes, filter + j * kLanes);
  } else {
    for (int32_t i = 0; i < d.kernel_h; i++)
      for (int32_t j = 0; j < d.kernel_w; j++, filter += kLanes)
        add(x + i * d.dilation_h * row + j * d.dilation_w * static_cast<ptrdiff_t>(kLanes), filter);
  }
  if (!d.residual) {
    const Vec low = splat(d.low), high = splat(d.high);
    FLSP_UNROLL for (int p = 0; p < P; p++) sum[p] = clip(sum[p], low, high);
  }
  FLSP_UNROLL for (int p = 0; p < P; p++) store(y + p * kLanes, sum[p]);
}

template <int K, int S>
void turned_pixels(const DepthwiseGroup& d, const float* x, const float* filter, Vec bias, float* y) {
  const ptrdiff_t row = static_cast<ptrdiff_t>(d.padded_width) * kLanes * d.stride_h;
  const ptrdiff_t step = static_cast<ptrdiff_t>(d.stride_w) * kLanes;
  const float* next = d.x + d.channels * d.plane;  // of the next channels
  const ptrdiff_t share = d.channels * d.plane / d.out_height;
  for (int32_t h = 0; h < d.out_height; h++, x += row) {
    for (ptrdiff_t i = 0; i < share; i += 16) __builtin_prefetch(next + i);
    next += share;
    int32_t w = 0;
    const auto tile = [&](auto pixels) FLSP_INLINE_LAMBDA {
      constexpr int P = decltype(pixels)::value;
      turned_tile<K, S, P>(d, x + w * step, filter, bias, y);
      w += P, y += P * kLanes;
    };
    for (; w + 8 <= d.out_width;) tile(Count<8>{});
    if (w + 7 <= d.out_width) tile(Count<7>{});
    if (w + 4 <= d.out_width) tile(Count<4>{});
    for (; w < d.out_width;) tile(Count<1>{});
  }
}

void depthwise_group(const DepthwiseGroup& d) {
  const int32_t taps = d.kernel_h * d.kernel_w, outputs = d.out_height * d.out_width;
  // Planes have room for whole groups of four pixels.
  const int32_t inputs = (d.height * d.width + 3) / 4 * 4, turned = (outputs + 3) / 4 * 4;
  float* const x = d.scratch;  // zero but for the pixels
  float* const y = x + (static_cast<ptrdiff_t>(d.padded_height) * d.padded_width + 1) * kLanes;
  float* const filter = y + static_cast<ptrdiff_t>(turned) * kLanes;
  float* const bias = filter + static_cast<ptrdiff_t>(taps) * kLanes;
  transpose_to(d.x, d.plane, [&](int32_t i) FLSP_INLINE_LAMBDA { return x + d.places[i]; },
               d.channels, inputs);
  transpose_block(d.filters, taps, filter, kLanes, d.channels, taps);
  for (int32_t c = 0; c < d.channels; c++) bias[c] = d.bias[c];
  const bool plain = d.kernel_h == d.kernel_w && d.dilation_h == 1 && d.dilation_w == 1;
  const int32_t side = plain && d.stride_w <= 2 ? d.kernel_h : 0;
  const bool twice = d.stride_w == 2;
  const auto run = side == 3   ? (twice ? turned_pixels<3, 2> : turned_pixels<3, 1>)
                   : side == 5 ? (twice ? turned_pixels<5, 2> : turned_pixels<5, 1>)
                               : turned_pixels<0, 0>;
  run(d, x, filter, load(bias), y);
  transpose_block(y, kLanes, d.y, d.y_plane, d.y_plane < turned ? outputs : turned, d.channels);
  if (!d.residual) return;
  const Vec low = splat(d.low), high = splat(d.high);
  for (int32_t c = 0; c < d.channels; c++)
    for (int32_t i = 0; i < outputs; i += kLanes) {
      float* const at = d.y + c * d.y_plane + i;
      store(at, clip(load(at) + load(d.residual + c * d.y_plane + i), low, high));
    }
}

}  // namespace
}  // namespace flsp

#endif
