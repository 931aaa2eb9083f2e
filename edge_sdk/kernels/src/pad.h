// Copies planes into a zero-bordered work space, normalising on the way where asked.
#pragma once
#include <cstring>

#include "fe.h"
#include "lanes.h"
#include "support.h"

namespace fe {

// One row of `pixels` pixels through A(x * scale + shift + residual?).
template <int L, int A>
FE_INLINE void prologue_row(const real* x, const real* residual, const real* scale,
                            const real* shift, real* y, int64_t pixels) {
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
      store(y + i, activate<A>(t));
    }
  }
}

struct Border {
  int top, left, padded_h, padded_w;
};

// What happens to one plane on the way; scale and shift are [L] or null.
struct PlanePrologue {
  const real *scale, *shift, *residual;
  int activation;
  bool works() const { return scale || residual || activation; }
};

// x [h][w][L] -> y [padded_h][padded_w][L]
template <int L>
void pad_plane(const real* x, real* y, int h, int w, const Border& b, const PlanePrologue& pro) {
  const int right = b.padded_w - b.left - w;
  std::memset(y, 0, sizeof(real) * ((size_t)b.top * b.padded_w + b.left) * L);
  for (int r = 0; r < h; r++) {
    real* row = y + ((int64_t)(r + b.top) * b.padded_w + b.left) * L;
    const int64_t at = (int64_t)r * w * L;
    const real* residual = pro.residual ? pro.residual + at : nullptr;
    if (pro.works())
      with_activation(pro.activation, [&](auto activation) {
        prologue_row<L, activation>(x + at, residual, pro.scale, pro.shift, row, w);
      });
    else std::memcpy(row, x + at, sizeof(real) * (size_t)w * L);
    // The right border of this row and the left border of the next touch each other.
    const int gap = r + 1 < h ? right + b.left : right;
    std::memset(row + (int64_t)w * L, 0, sizeof(real) * (size_t)gap * L);
  }
  const int below = b.padded_h - b.top - h;
  std::memset(y + (int64_t)(b.top + h) * b.padded_w * L, 0,
              sizeof(real) * (size_t)below * b.padded_w * L);
}

// Rows [top, top + rows) of the padded plane alone; y [rows][padded_w][L].
template <int L>
void pad_rows(const real* x, real* y, int h, int w, const Border& b, int top, int rows,
              PlanePrologue pro) {
  const int r0 = std::max(0, top - b.top), r1 = std::min(h, top + rows - b.top);
  if (r0 >= r1) return (void)std::memset(y, 0, sizeof(real) * (size_t)rows * b.padded_w * L);
  const int64_t at = (int64_t)r0 * w * L;
  if (pro.residual) pro.residual += at;
  pad_plane<L>(x + at, y, r1 - r0, w, {std::max(0, b.top - top), b.left, rows, b.padded_w}, pro);
}

// What a prologue (null: none) does to plane p, of `in` reals.
template <int L>
PlanePrologue plane_prologue(const FePrologue* pro, int64_t p, int64_t in) {
  if (!pro) return {};
  return {pro->scale ? pro->scale + p * L : nullptr, pro->scale ? pro->shift + p * L : nullptr,
          pro->residual ? pro->residual + p * in : nullptr, pro->relu};
}

// x [blocks][channels][h][w][L] -> y [blocks][channels][padded_h][padded_w][L]
template <int L>
void pad_planes(const real* x, real* y, int blocks, int channels, int h, int w, const Border& b,
                const FePrologue* pro, int threads) {
  const int64_t in = (int64_t)h * w * L, out = (int64_t)b.padded_h * b.padded_w * L;
  parallel_for(blocks * channels, threads, [&](int p) {
    pad_plane<L>(x + p * in, y + p * out, h, w, b, plane_prologue<L>(pro, p, in));
  });
}

}  // namespace fe
