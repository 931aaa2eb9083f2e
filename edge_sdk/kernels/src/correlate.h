// One plane's correlation with one filter, tiled over pixels, and the filter's gradient.
#pragma once
#include <cstdint>

#include "lanes.h"
#include "support.h"

namespace fe {

// out[y][x] (+)= start + sum over taps k of w[k] * in[y * in_row + x * in_col + offset[k]]
struct Correlation {
  int out_h, out_w;
  ptrdiff_t in_row, in_col, out_row, out_col;  // elements
  int taps;
  const int32_t* offset;  // elements
  int kernel_h, kernel_w, stride;  // of a window of neighbours, else zero: offsets only
  ptrdiff_t pitch;                 // elements between the window's rows
};

// Calls body(constant width, x) for tiles of W, 4, 2 and 1 pixels that cover a row.
template <int W, class F>
FE_INLINE void for_row(int width, F body) {
  int x = 0;
  for (; x + W <= width; x += W) body(std::integral_constant<int, W>{}, x);
  if constexpr (W > 4)
    for (; x + 4 <= width; x += 4) body(std::integral_constant<int, 4>{}, x);
  if constexpr (W > 2)
    for (; x + 2 <= width; x += 2) body(std::integral_constant<int, 2>{}, x);
  for (; x < width; x++) body(std::integral_constant<int, 1>{}, x);
}

// Filters without a compiled window, in correlate_taps.cpp. The gradient adds to sums[tap].
template <int L>
void correlate_taps(const Correlation& c, const real* in, const real* w, real start, bool add,
                    real* out);
template <int L>
void gradient_taps(const Correlation& c, const real* in, const real* dy, double* sums);

// A KH x KW window of neighbours at stride S: a loaded pixel serves all its products.
template <int L, int KH, int KW, int S>
struct FilterWindow {
  typedef typename Lanes<L>::V V;
  static constexpr int TH = KH > 1 && S == 1 ? 2 : 1;

  template <int H, int TW>
  static FE_INLINE void tile(const Correlation& c, const real* in, const V* w, real start, bool add,
                             real* out) {
    V acc[H][TW];
    FE_UNROLL for (int h = 0; h < H; h++) FE_UNROLL for (int t = 0; t < TW; t++)
      acc[h][t] = add ? load<V>(out + h * c.out_row + t * L) : splat<V>(start);
    FE_UNROLL for (int r = 0; r < (H - 1) * S + KH; r++) {
      V a[(TW - 1) * S + KW];
      FE_UNROLL for (int i = 0; i < (TW - 1) * S + KW; i++) a[i] = load<V>(in + r * c.pitch + i * L);
      FE_UNROLL for (int h = 0; h < H; h++) {
        const int ky = r - h * S;
        if (ky < 0 || ky >= KH) continue;
        FE_UNROLL for (int kx = 0; kx < KW; kx++) FE_UNROLL for (int t = 0; t < TW; t++)
          acc[h][t] += w[ky * KW + kx] * a[t * S + kx];
      }
    }
    FE_UNROLL for (int h = 0; h < H; h++) FE_UNROLL for (int t = 0; t < TW; t++)
      store(out + h * c.out_row + t * L, acc[h][t]);
  }

  static void run(const Correlation& c, const real* in, const real* weight, real start, bool add,
                  real* out) {
    V w[KH * KW];
    FE_UNROLL for (int k = 0; k < KH * KW; k++) w[k] = splat<V>(weight[k]);
    for (int v = 0; v < Lanes<L>::NV; v++, in += Lanes<L>::VL, out += Lanes<L>::VL) {
      int y = 0;
      for (; y + TH <= c.out_h; y += TH)
        for_row<4>(c.out_w, [&](auto width, int x) FE_INLINE_LAMBDA {
          tile<TH, width>(c, in + y * c.in_row + x * S * L, w, start, add, out + y * c.out_row + x * L);
        });
      for (; y < c.out_h; y++)
        for_row<4>(c.out_w, [&](auto width, int x) FE_INLINE_LAMBDA {
          tile<1, width>(c, in + y * c.in_row + x * S * L, w, start, add, out + y * c.out_row + x * L);
        });
    }
  }

  // sums[k] += sum of dy[y][x] * in[...]; dy rows are out_row apart.
  static void gradient(const Correlation& c, const real* in, const real* dy, double* sums) {
    // 16 registers hold nine sums and two pixels' gradients.
    constexpr int TW = kManyRegisters ? 4 : 2;
    const int strip = std::max(1, 1024 / c.out_w);  // rows whose sums stay in `real`
    for (int v = 0; v < Lanes<L>::NV; v++, in += Lanes<L>::VL, dy += Lanes<L>::VL)
      for (int y0 = 0; y0 < c.out_h; y0 += strip) {
        V acc[KH][KW] = {};
        for (int y = y0; y < std::min(c.out_h, y0 + strip); y++)
          for_row<TW>(c.out_w, [&](auto width, int x) FE_INLINE_LAMBDA {
            constexpr int W = width;
            const real* from = in + y * c.in_row + x * S * L;
            V g[W];
            FE_UNROLL for (int t = 0; t < W; t++) g[t] = load<V>(dy + y * c.out_row + (x + t) * L);
            FE_UNROLL for (int ky = 0; ky < KH; ky++) FE_UNROLL for (int t = 0; t < W; t++)
              FE_UNROLL for (int kx = 0; kx < KW; kx++)
                acc[ky][kx] += g[t] * load<V>(from + ky * c.pitch + (t * S + kx) * L);
          });
        FE_UNROLL for (int k = 0; k < KH * KW; k++) sums[k] += sum(acc[k / KW][k % KW]);
      }
  }
};

// The compiled windows; everything else goes tap by tap.
template <int L, class F>
FE_INLINE bool with_window(const Correlation& c, F body) {
  const bool unit = c.stride == 1;
  if (c.kernel_h == 3 && c.kernel_w == 3 && unit) body(FilterWindow<L, 3, 3, 1>{});
  else if (c.kernel_h == 3 && c.kernel_w == 3 && c.stride == 2) body(FilterWindow<L, 3, 3, 2>{});
  else if (c.kernel_h == 1 && c.kernel_w == 3 && unit) body(FilterWindow<L, 1, 3, 1>{});
  else if (c.kernel_h == 1 && c.kernel_w == 5 && unit) body(FilterWindow<L, 1, 5, 1>{});
  else return false;
  return true;
}

template <int L>
void correlate(const Correlation& c, const real* in, const real* w, real start, bool add, real* out) {
  if (!with_window<L>(c, [&](auto window) { decltype(window)::run(c, in, w, start, add, out); }))
    correlate_taps<L>(c, in, w, start, add, out);
}

template <int L>
void filter_gradient(const Correlation& c, const real* in, const real* dy, double* sums) {
  if (!with_window<L>(c, [&](auto window) { decltype(window)::gradient(c, in, dy, sums); }))
    gradient_taps<L>(c, in, dy, sums);
}

}  // namespace fe
