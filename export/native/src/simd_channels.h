// Depth-wise convolutions of small planes: a vector holds one pixel of as many channels as it
// has lanes, so that no row is padded, split by the stride or rounded up. What turning the
// planes costs, copies of short rows cost twice.
#ifndef FLSP_SIMD_CHANNELS_H
#define FLSP_SIMD_CHANNELS_H

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

template <int K>
FLSP_INLINE Vec whole_window(const float* x, ptrdiff_t row, const float* filter, Vec sum) {
  FLSP_UNROLL for (int i = 0; i < K; i++) FLSP_UNROLL for (int j = 0; j < K; j++)
    sum += load(x + i * row + j * kLanes) * load(filter + (i * K + j) * kLanes);
  return sum;
}

// K: side of windows without dilation, 0 for any other.
template <int K>
FLSP_INLINE void turned_pixels(const DepthwiseGroup& d, const float* x, const float* filter,
                               Vec bias, float* y) {
  const bool add = d.residual != nullptr;
  const Vec low = splat(d.low), high = splat(d.high);
  const ptrdiff_t row = static_cast<ptrdiff_t>(d.width) * kLanes;
  for (int32_t h = 0; h < d.out_height; h++) {
    const int32_t top = h * d.stride_h - d.pad_top;
    const WindowPart rows(top, d.kernel_h, d.dilation_h, d.height);
    const bool tall = rows.end - rows.begin == d.kernel_h;
    for (int32_t w = 0; w < d.out_width; w++, y += kLanes) {
      const int32_t left = w * d.stride_w - d.pad_left;
      Vec sum = bias;
      if (K && tall && left >= 0 && left + K <= d.width) {
        sum = whole_window<K>(x + top * row + left * kLanes, row, filter, sum);
      } else {
        const WindowPart columns(left, d.kernel_w, d.dilation_w, d.width);
        for (int32_t i = rows.begin; i < rows.end; i++)
          for (int32_t j = columns.begin; j < columns.end; j++)
            sum += load(x + (top + i * d.dilation_h) * row +
                        (left + j * d.dilation_w) * static_cast<ptrdiff_t>(kLanes)) *
                   load(filter + (i * d.kernel_w + j) * static_cast<ptrdiff_t>(kLanes));
      }
      store(y, add ? sum : clip(sum, low, high));
    }
  }
}

void depthwise_group(const DepthwiseGroup& d) {
  const int32_t taps = d.kernel_h * d.kernel_w, outputs = d.out_height * d.out_width;
  // Planes have room for whole groups of four pixels.
  const int32_t inputs = (d.height * d.width + 3) / 4 * 4, turned = (outputs + 3) / 4 * 4;
  float* const x = d.scratch;
  float* const y = x + static_cast<ptrdiff_t>(inputs) * kLanes;
  float* const filter = y + static_cast<ptrdiff_t>(turned) * kLanes;
  float* const bias = filter + static_cast<ptrdiff_t>(taps) * kLanes;
  transpose_block(d.x, d.plane, x, kLanes, d.channels, inputs);
  transpose_block(d.filters, taps, filter, kLanes, d.channels, taps);
  for (int32_t c = 0; c < d.channels; c++) bias[c] = d.bias[c];
  const bool plain = d.kernel_h == d.kernel_w && d.dilation_h == 1 && d.dilation_w == 1;
  if (plain && d.kernel_h == 3) {
    turned_pixels<3>(d, x, filter, load(bias), y);
  } else if (plain && d.kernel_h == 5) {
    turned_pixels<5>(d, x, filter, load(bias), y);
  } else {
    turned_pixels<0>(d, x, filter, load(bias), y);
  }
  transpose_block(y, kLanes, d.y, d.y_plane, turned, d.channels);
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
