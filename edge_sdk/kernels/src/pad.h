// Copies planes into a zero-bordered work space, normalising on the way where asked.
#pragma once
#include <cstring>

#include "fe.h"
#include "lanes.h"
#include "support.h"

namespace fe {

template <class V>
struct Affine {
  V scale, shift;
  bool has_scale, relu_after;
  FE_INLINE V operator()(V x) const {
    if (has_scale) x = x * scale + shift;
    return x;
  }
};

// One row of `pixels` pixels through relu?(x * scale + shift + residual?).
template <int L>
FE_INLINE void prologue_row(const real* x, const real* residual, const real* scale,
                            const real* shift, bool relu_after, real* y, int64_t pixels) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  V a[NV], b[NV];
  FE_UNROLL for (int v = 0; v < NV; v++) {
    a[v] = scale ? load<V>(scale + v * VL) : splat<V>(1);
    b[v] = scale ? load<V>(shift + v * VL) : V{};
  }
  for (int64_t p = 0; p < pixels; p++) {
    FE_UNROLL for (int v = 0; v < NV; v++) {
      const int64_t i = p * L + v * VL;
      V t = scale ? load<V>(x + i) * a[v] + b[v] : load<V>(x + i);
      if (residual) t += load<V>(residual + i);
      store(y + i, relu_after ? relu(t) : t);
    }
  }
}

struct Border {
  int top, left, padded_h, padded_w;
};

// x [blocks][channels][h][w][L] -> y [blocks][channels][padded_h][padded_w][L]
template <int L>
void pad_planes(const real* x, real* y, int blocks, int channels, int h, int w, const Border& b,
                const FePrologue* pro, int threads) {
  const int64_t in = (int64_t)h * w * L, out = (int64_t)b.padded_h * b.padded_w * L;
  parallel_for(blocks * channels, threads, [&](int p) {
    const real* from = x + p * in;
    real* to = y + p * out;
    const bool work = pro && (pro->scale || pro->residual || pro->relu);
    const real* scale = pro && pro->scale ? pro->scale + (int64_t)p * L : nullptr;
    const real* shift = scale ? pro->shift + (int64_t)p * L : nullptr;
    const real* residual = pro && pro->residual ? pro->residual + p * in : nullptr;
    const int right = b.padded_w - b.left - w;
    std::memset(to, 0, sizeof(real) * ((size_t)b.top * b.padded_w + b.left) * L);
    for (int r = 0; r < h; r++) {
      real* row = to + ((int64_t)(r + b.top) * b.padded_w + b.left) * L;
      const int64_t at = (int64_t)r * w * L;
      if (work) prologue_row<L>(from + at, residual ? residual + at : nullptr, scale, shift,
                                pro->relu != 0, row, w);
      else std::memcpy(row, from + at, sizeof(real) * (size_t)w * L);
      // The right border of this row and the left border of the next touch each other.
      const int gap = r + 1 < h ? right + b.left : right;
      std::memset(row + (int64_t)w * L, 0, sizeof(real) * (size_t)gap * L);
    }
    const int below = b.padded_h - b.top - h;
    std::memset(to + (int64_t)(b.top + h) * b.padded_w * L, 0,
                sizeof(real) * (size_t)below * b.padded_w * L);
  });
}

}  // namespace fe
