// Which outputs a conv's input pixel meets: the gather that a gradient to the input is.
#pragma once
#include <algorithm>

namespace fe {

inline int floor_div(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// Which pixels (class) tap k meets, and how far from pixel u of the class its output is.
struct Tap {
  int phase, distance;
};
inline Tap tap(int k, int dilation, int pad, int stride) {
  const int reach = k * dilation - pad;  // input = output * stride + reach
  const int phase = reach - floor_div(reach, stride) * stride;
  return {phase, (phase - reach) / stride};
}

// Borders so that every pixel of every class finds zeros beyond the output's edge.
inline void axis_border(int kernel, int dilation, int pad, int stride, int in, int out, int& before,
                 int& padded) {
  int last = out - 1;
  before = 0;
  for (int k = 0; k < kernel; k++) {
    const Tap p = tap(k, dilation, pad, stride);
    if (p.phase >= in) continue;
    before = std::max(before, -p.distance);
    last = std::max(last, (in - p.phase - 1) / stride + p.distance);
  }
  padded = before + last + 1;
}

}  // namespace fe
