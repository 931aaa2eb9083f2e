// y = conv(x, kept weights): an output tile stays in registers while a row's kept
// weights stream by; per weight one broadcast and one contiguous load + FMA per vector.
#include "conv.h"
#include "tiling.h"

namespace fe {

const real* padded_input(const FeConv& c, const Geometry& g, const real* x,
                         const FePrologue* pro) {
  const bool work = pro && (pro->scale || pro->residual || pro->relu);
  if (!g.pads && !work) return x;
  real* y = scratch<real>(kPadded,
                          (size_t)c.blocks * g.channels * g.padded_h * g.padded_w * c.lanes);
  if (!y) return nullptr;
  const Border border{c.pad_h, c.pad_w, g.padded_h, g.padded_w};
  switch (c.lanes) {
    case 4: pad_planes<4>(x, y, c.blocks, g.channels, c.in_h, c.in_w, border, pro, c.threads); break;
    case 8: pad_planes<8>(x, y, c.blocks, g.channels, c.in_h, c.in_w, border, pro, c.threads); break;
    default: pad_planes<16>(x, y, c.blocks, g.channels, c.in_h, c.in_w, border, pro, c.threads);
  }
  return y;
}

bool forward_offsets(const FeStructure& s, const FeConv& c, const Geometry& g, int blocks,
                     int32_t* offset, int32_t* start) {
  int32_t* table = scratch<int32_t>(kTable, s.cols);
  if (!table) return false;
  const int32_t plane = g.padded_h * g.padded_w * c.lanes;
  for (int ic = 0, at = 0; ic < s.in_per_group; ic++)
    for (int ky = 0; ky < s.kernel_h; ky++)
      for (int kx = 0; kx < s.kernel_w; kx++)
        table[at++] =
            ic * plane + (ky * c.dilation_h * g.padded_w + kx * c.dilation_w) * c.lanes;
  with_columns(s, [&](auto column) {
    for (int r = 0; r < s.rows; r++) {
      const int32_t base = r / s.rows_per_group() * s.in_per_group * plane;
      int32_t i = s.row_start[r];
      for (int b = 0; b < blocks; b++) {
        start[b * s.rows + r] = i;
        const int32_t until = split(s.in_per_group, b + 1, blocks) * s.taps();
        const int32_t end = s.row_start[r + 1];
        if (b + 1 == blocks) for (; i < end; i++) offset[i] = base + table[column[i]];
        else for (; i < end && (int32_t)column[i] < until; i++) offset[i] = base + table[column[i]];
      }
      start[blocks * s.rows + r] = i;
    }
  });
  return true;
}

int channel_blocks(int channels, int64_t region_pixels, int lanes, int64_t kept, int rows) {
  const int64_t bytes = channels * region_pixels * lanes * (int64_t)sizeof(real);
  const int wanted = (int)(bytes / (int64_t)(l1_bytes() * 3 / 4)) + 1;
  // A run of fewer than 16 weights costs more in loop ends than it saves in cache misses.
  const int most = (int)std::max<int64_t>(1, kept / rows / 16);
  return std::max(1, std::min({wanted, most, channels}));
}

namespace {

struct ForwardArgs {
  const int32_t* start;  // [blocks + 1][rows]
  const int32_t* offset;
  const real* w;
  const real* bias;
  ptrdiff_t out_plane, in_row, out_row;  // elements
  int rows, blocks, stride_w;
};

template <int L, int TH, int TW, int S>
struct ForwardTile {
  typedef void (*Fn)(const ForwardArgs&, const real*, real*, int, int);
  typedef typename Lanes<L>::V V;
  static constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV, P = TH * TW * NV;
  // Independent sums hide the FMA latency where a tile is small.
  static constexpr int U = P >= 8 ? 1 : (P >= 4 ? 2 : (P >= 2 ? 4 : 8));

  static __attribute__((noinline)) void run(const ForwardArgs& a, const real* x, real* y, int r0,
                                            int r1) {
    const ptrdiff_t sx = (S ? S : a.stride_w) * L, in_row = a.in_row, out_row = a.out_row;
#define FE_EACH                                    \
  FE_UNROLL for (int h = 0; h < TH; h++)           \
  FE_UNROLL for (int t = 0; t < TW; t++)           \
  FE_UNROLL for (int v = 0; v < NV; v++)
    for (int b = 0; b < a.blocks; b++) {
      const int32_t* start = a.start + (ptrdiff_t)b * a.rows;
      for (int r = r0; r < r1; r++) {
        int i = start[r];
        const int end = start[a.rows + r];
        if (i == end && b) continue;
        real* yp = y + r * a.out_plane;
        V acc[U][TH][TW][NV];
        FE_UNROLL for (int u = 1; u < U; u++) FE_EACH acc[u][h][t][v] = V{};
        if (b == 0) {
          const V bias = splat<V>(a.bias ? a.bias[r] : real(0));
          FE_EACH acc[0][h][t][v] = bias;
        } else {
          FE_EACH acc[0][h][t][v] = load<V>(yp + h * out_row + t * L + v * VL);
        }
        for (; i + U <= end; i += U)
          FE_UNROLL for (int u = 0; u < U; u++) {
            const real* xp = x + a.offset[i + u];
            const V w = splat<V>(a.w[i + u]);
            FE_EACH acc[u][h][t][v] += w * load<V>(xp + h * in_row + t * sx + v * VL);
          }
        if (U > 1)
          for (; i < end; i++) {
            const real* xp = x + a.offset[i];
            const V w = splat<V>(a.w[i]);
            FE_EACH acc[0][h][t][v] += w * load<V>(xp + h * in_row + t * sx + v * VL);
          }
        FE_EACH {
          V s = acc[0][h][t][v];
          FE_UNROLL for (int u = 1; u < U; u++) s += acc[u][h][t][v];
          store(yp + h * out_row + t * L + v * VL, s);
        }
      }
    }
#undef FE_EACH
  }
};

// Accumulators: half of 32 registers is where AVX-512 stops gaining; the rest of 16 hold
// the weight, the input and the addresses' spill.
template <int L>
constexpr int forward_pixels() {
  constexpr int room = kManyRegisters ? (FE_VECTOR_BYTES == 64 ? 16 : 24) : 12;
  return std::max(1, room / Lanes<L>::NV);
}

template <int L>
void forward(const FeStructure& s, const FeConv& c, const Geometry& g, const ForwardArgs& a,
             const real* x, real* y) {
  const ptrdiff_t in_block = (ptrdiff_t)g.channels * g.padded_h * g.padded_w * L;
  const ptrdiff_t out_block = (ptrdiff_t)s.rows * g.out_h * g.out_w * L;
  Tiling t = tiling(g.out_h, g.out_w, c.stride_w > 2 ? 1 : forward_pixels<L>());
  const int tiles = c.blocks * t.tiles();
  // Few tiles and many threads: rows are shared out as well.
  int parts = 1;
  while (c.threads > 1 && tiles * parts < 4 * c.threads && s.rows / (parts + 1) >= 8) parts++;
  parallel_for(tiles * parts, c.threads, [&](int job) {
    const int part = job % parts, tile = job / parts;
    const int column = tile % t.columns, row = tile / t.columns % t.rows;
    const int block = tile / t.tiles();
    for_tile(t, row, column, [&](int th, int tw, int y0, int x0) {
      const real* xp = x + block * in_block + y0 * a.in_row + (ptrdiff_t)x0 * c.stride_w * L;
      real* yp = y + block * out_block + y0 * a.out_row + (ptrdiff_t)x0 * L;
      TileTable<ForwardTile, L, forward_pixels<L>()>::find(th, tw, c.stride_w)(
          a, xp, yp, split(s.rows, part, parts), split(s.rows, part + 1, parts));
    });
  });
}

template <int L>
int64_t region(const FeStructure& s, const FeConv& c, const Geometry& g) {
  const int tw = std::min(g.out_w, forward_pixels<L>());
  return (int64_t)s.kernel_h * ((tw - 1) * c.stride_w + s.kernel_w);
}

}  // namespace
}  // namespace fe

extern "C" int fe_conv_forward(const FeStructure* sp, const FeConv* cp, const fe::real* x,
                               const FePrologue* pro, const fe::real* w, const fe::real* bias,
                               fe::real* y) {
  using namespace fe;
  const FeStructure& s = *sp;
  const FeConv& c = *cp;
  Geometry g;
  if (!geometry(s, c, g)) return FE_BAD_ARGUMENT;
  if (!fits(g.channels, g.padded_h, g.padded_w, c.lanes)) return FE_TOO_LARGE;
  int blocks = 1;
  FE_FOR_LANES(c.lanes, blocks = channel_blocks(s.in_per_group, region<L>(s, c, g), L, s.nnz, s.rows))
  int32_t* offset = scratch<int32_t>(kOffsets, s.nnz + 1);
  int32_t* start = scratch<int32_t>(kPointer, (size_t)(blocks + 1) * s.rows);
  const real* padded = padded_input(c, g, x, pro);
  if (!offset || !start || !padded || !forward_offsets(s, c, g, blocks, offset, start))
    return FE_NO_MEMORY;
  const ForwardArgs a{start, offset, w, bias, (ptrdiff_t)g.out_h * g.out_w * c.lanes,
                      (ptrdiff_t)g.padded_w * c.lanes * c.stride_h, (ptrdiff_t)g.out_w * c.lanes,
                      s.rows, blocks, c.stride_w};
  FE_FOR_LANES(c.lanes, forward<L>(s, c, g, a, padded, y))
  return FE_OK;
}
