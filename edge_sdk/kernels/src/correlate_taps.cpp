// Correlations with filters for which no window is compiled: any taps, and rows of
// neighbouring taps of any size. Tiles have as many sums as the registers hold.
#include "correlate.h"
#include "tiling.h"

namespace fe {
namespace {

// Sums of one tile, or of one group of taps; the rest of 16 registers holds the operands.
constexpr int kSumsHeld = kManyRegisters ? 16 : 12;

// TH x TW pixels, whose inputs are S pixels apart (0: as far as the correlation says).
template <int L, int TH, int TW, int S>
struct TapTile {
  typedef void (*Fn)(const Correlation&, const real*, const real*, real, bool, real*);
  typedef typename Lanes<L>::V V;

  static void run(const Correlation& c, const real* in, const real* w, real start, bool add,
                  real* out) {
    const ptrdiff_t step = S ? S * L : c.in_col, row = c.in_row;
#define FE_EACH FE_UNROLL for (int h = 0; h < TH; h++) FE_UNROLL for (int t = 0; t < TW; t++)
    for (int v = 0; v < Lanes<L>::NV; v++, in += Lanes<L>::VL, out += Lanes<L>::VL) {
      V acc[TH][TW];
      FE_EACH acc[h][t] = add ? load<V>(out + h * c.out_row + t * c.out_col) : splat<V>(start);
      for (int k = 0; k < c.taps; k++) {
        const V wk = splat<V>(w[k]);
        const real* p = in + c.offset[k];
        FE_EACH acc[h][t] += wk * load<V>(p + h * row + t * step);
      }
      FE_EACH store(out + h * c.out_row + t * c.out_col, acc[h][t]);
    }
#undef FE_EACH
  }
};

template <int L, int TH, int TW, int S>
typename TapTile<L, 1, 1, 1>::Fn tap_tile(int th, int tw) {
  if constexpr (TW < 1) return nullptr;
  else if (tw != TW) return tap_tile<L, TH, TW - 1, S>(th, tw);
  else return &TapTile<L, TH, TW, S>::run;
}

template <int L, int S>
typename TapTile<L, 1, 1, 1>::Fn find_tile(int th, int tw) {
  switch (th) {
    case 1: return tap_tile<L, 1, kSumsHeld, S>(th, tw);
    case 2: return tap_tile<L, 2, kSumsHeld / 2, S>(th, tw);
    default: return tap_tile<L, 4, kSumsHeld / 4, S>(th, tw);
  }
}

// Calls f(constant n) for n in 1 .. Most.
template <int Most, class F>
FE_INLINE void with_number(int n, F f) {
  if constexpr (Most > 1) {
    if (n < Most) return with_number<Most - 1>(n, f);
  }
  f(std::integral_constant<int, Most>{});
}

// Gradients of R rows of N neighbouring taps, rows `pitch` apart: sums[r * width + n] +=.
template <int L, int R, int N>
void gradient_of(const Correlation& c, const real* in, const real* dy, int y0, int y1, int width,
                 double* sums) {
  typedef typename Lanes<L>::V V;
  // Few sums wait for each other: every other pixel has sums of its own.
  constexpr int U = R * N <= 6 ? 2 : 1;
  V acc[U][R][N] = {};
  for (int y = y0; y < y1; y++) {
    const real* p = in + y * c.in_row;
    const real* g = dy + y * c.out_row;
    const auto pixel = [&](int u) FE_INLINE_LAMBDA {
      const V own = load<V>(g);
      FE_UNROLL for (int r = 0; r < R; r++) FE_UNROLL for (int n = 0; n < N; n++)
        acc[u][r][n] += own * load<V>(p + r * c.pitch + n * L);
      g += L;
      p += c.in_col;
    };
    int x = 0;
    for (; x + U <= c.out_w; x += U) FE_UNROLL for (int u = 0; u < U; u++) pixel(u);
    if (U > 1 && x < c.out_w) pixel(0);
  }
  FE_UNROLL for (int r = 0; r < R; r++) FE_UNROLL for (int n = 0; n < N; n++) {
    FE_UNROLL for (int u = 1; u < U; u++) acc[0][r][n] += acc[u][r][n];
    sums[r * width + n] += sum(acc[0][r][n]);
  }
}

// A window of neighbours, in near-equal groups of rows and of columns.
template <int L>
void window_gradient(const Correlation& c, const real* in, const real* dy, int y0, int y1,
                     double* sums) {
  const int across = (c.kernel_w + kSumsHeld - 1) / kSumsHeld;
  for (int i = 0; i < across; i++) {
    const int x0 = split(c.kernel_w, i, across), n = split(c.kernel_w, i + 1, across) - x0;
    const int most = std::min(4, kSumsHeld / n), down = (c.kernel_h + most - 1) / most;
    for (int j = 0; j < down; j++) {
      const int r0 = split(c.kernel_h, j, down), r = split(c.kernel_h, j + 1, down) - r0;
      with_number<kSumsHeld>(n, [&](auto columns) {
        constexpr int N = columns, most_rows = std::min(4, kSumsHeld / N);
        with_number<most_rows>(r, [&](auto rows) {
          gradient_of<L, rows, N>(c, in + r0 * c.pitch + x0 * L, dy, y0, y1, c.kernel_w,
                                  sums + r0 * c.kernel_w + x0);
        });
      });
    }
  }
}

// Taps anywhere: four at a time share the gradient's load.
template <int L>
void scattered_gradient(const Correlation& c, const real* in, const real* dy, int y0, int y1,
                        double* sums) {
  typedef typename Lanes<L>::V V;
  for (int k = 0; k < c.taps; k += 4) {
    const int n = std::min(4, c.taps - k);
    ptrdiff_t offset[4];
    for (int i = 0; i < 4; i++) offset[i] = c.offset[k + std::min(i, n - 1)];
    V acc[4] = {};
    for (int y = y0; y < y1; y++)
      for (int x = 0; x < c.out_w; x++) {
        const V g = load<V>(dy + y * c.out_row + (ptrdiff_t)x * L);
        const real* from = in + y * c.in_row + x * c.in_col;
        FE_UNROLL for (int i = 0; i < 4; i++) acc[i] += g * load<V>(from + offset[i]);
      }
    for (int i = 0; i < n; i++) sums[k + i] += sum(acc[i]);
  }
}

}  // namespace

template <int L>
void correlate_taps(const Correlation& c, const real* in, const real* w, real start, bool add,
                    real* out) {
  const Tiling t = tiling(c.out_h, c.out_w, kSumsHeld);
  for (int row = 0; row < t.rows; row++)
    for (int column = 0; column < t.columns; column++)
      for_tile(t, row, column, [&](int th, int tw, int y, int x) {
        const auto tile = c.in_col == L       ? find_tile<L, 1>(th, tw)
                          : c.in_col == 2 * L ? find_tile<L, 2>(th, tw)
                                              : find_tile<L, 0>(th, tw);
        tile(c, in + y * c.in_row + x * c.in_col, w, start, add,
             out + y * c.out_row + x * c.out_col);
      });
}

template <int L>
void gradient_taps(const Correlation& c, const real* in, const real* dy, double* sums) {
  const int strip = std::max(1, 1024 / c.out_w);  // rows whose sums stay in `real`
  for (int v = 0; v < Lanes<L>::NV; v++, in += Lanes<L>::VL, dy += Lanes<L>::VL)
    for (int y0 = 0; y0 < c.out_h; y0 += strip) {
      const int y1 = std::min(c.out_h, y0 + strip);
      if (c.kernel_h) window_gradient<L>(c, in, dy, y0, y1, sums);
      else scattered_gradient<L>(c, in, dy, y0, y1, sums);
    }
}

#define FE_BUILD(L)                                                                            \
  template void correlate_taps<L>(const Correlation&, const real*, const real*, real, bool, real*); \
  template void gradient_taps<L>(const Correlation&, const real*, const real*, double*);
FE_BUILD(4)
FE_BUILD(8)
FE_BUILD(16)
#undef FE_BUILD

}  // namespace fe
