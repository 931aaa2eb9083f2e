// y = conv(x, kept weights): an output tile stays in registers while a row's kept
// weights stream by; per weight one broadcast and one contiguous load + FMA per vector.
#include <atomic>

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
    for (int b = 0; b < a.blocks; b++) {
      const int32_t* start = a.start + (ptrdiff_t)b * a.rows;
      for (int r = r0; r < r1; r++)
        if (!b || start[r] < start[a.rows + r])
          row(a, start[r], start[a.rows + r], b == 0, r, x, y + r * a.out_plane);
    }
  }

  // The same for row r alone, on so many tiles side by side, in one run of channels.
  static __attribute__((noinline)) void side_by_side(const ForwardArgs& a, const real* x, real* y,
                                                     int r, int tiles) {
    for (ptrdiff_t step = 0; step < (ptrdiff_t)tiles * TW * L; step += TW * L)
      row(a, a.start[r], a.start[a.rows + r], true, r, x + step, y + r * a.out_plane + step);
  }

  // Row r's weights [i, end) on one tile.
  static FE_INLINE void row(const ForwardArgs& a, int i, int end, bool first,
                            int r, const real* x, real* yp) {
    const ptrdiff_t sx = (S ? S : a.stride_w) * L, in_row = a.in_row, out_row = a.out_row;
#define FE_EACH                                    \
  FE_UNROLL for (int h = 0; h < TH; h++)           \
  FE_UNROLL for (int t = 0; t < TW; t++)           \
  FE_UNROLL for (int v = 0; v < NV; v++)
    V acc[U][TH][TW][NV];
    FE_UNROLL for (int u = 1; u < U; u++) FE_EACH acc[u][h][t][v] = V{};
    if (first) {
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

// Whether a row's weights go through whole planes: what by_planes is in the backward pass.
// AVX2, d = .05, 64 -> 64 of 1 x 1 at 31 x 21 pixels: 1.7 times as fast; at d = .2 the same.
bool by_planes(const FeStructure& s, const FeConv& c, const Geometry& g) {
  const int64_t pixels = (int64_t)c.in_h * c.in_w * (g.channels + s.rows);
  return s.taps() == 1 && c.in_h == 1 && !g.pads && c.stride_w == 1 &&
         s.nnz <= (int64_t)s.rows * 8 && pixels * c.lanes * (int64_t)sizeof(real) >= 1 << 20;
}

template <int L>
void forward_planes(const FeStructure& s, const FeConv& c, const Geometry& g, const ForwardArgs& a,
                    const real* x, real* y) {
  constexpr int kWide = forward_pixels<L>();
  const int whole = g.out_w / kWide, rest = g.out_w % kWide;
  parallel_for(c.blocks * s.rows, c.threads, [&](int job) {
    const int block = job / s.rows, r = job % s.rows;
    const real* xp = x + (ptrdiff_t)block * g.channels * g.out_w * L;
    real* yp = y + (ptrdiff_t)block * s.rows * g.out_w * L;
    const ptrdiff_t last = (ptrdiff_t)whole * kWide * L;
    ForwardTile<L, 1, kWide, 1>::side_by_side(a, xp, yp, r, whole);
    if (rest)
      TileTable<ForwardTile, L, kWide>::find(1, rest, 1)(a, xp + last, yp + last, r, r + 1);
  });
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

// Rows of tiles whose input is padded together, into the second-level cache. Padded whole, a
// wide layer's input lies beyond it, and tiles read a few lines at a time, which no processor
// foresees. count is 0 where it is padded whole.
struct Bands {
  int tile_rows, count;  // of one band; bands of a block
  int padded_h;          // rows that one band reads
};
template <int L>
Bands bands(const FeStructure& s, const FeConv& c, const Geometry& g) {
  const Tiling t = tiling(g.out_h, g.out_w, c.stride_w > 2 ? 1 : forward_pixels<L>());
  const int64_t row = (int64_t)g.channels * g.padded_w * L * (int64_t)sizeof(real);
  const int64_t room = (int64_t)l2_bytes() * 3 / 4 / row;  // rows
  const int64_t reach = (s.kernel_h - 1) * c.dilation_h + 1;
  const int64_t fits = room < reach ? 0 : ((room - reach) / c.stride_h + 1) / t.tile_h;
  // A smaller block stays near enough: 256 channels of 8 x 8 pixels took 1.06 times as long.
  if (fits < 1 || fits >= t.rows || row * g.padded_h < 2 * (int64_t)l2_bytes()) return {};
  Bands b;
  b.count = (int)((t.rows + fits - 1) / fits);
  b.tile_rows = (t.rows + b.count - 1) / b.count;
  b.padded_h = (b.tile_rows * t.tile_h - 1) * c.stride_h + (int)reach;
  if (c.threads > 1 && c.blocks * b.count < 2 * c.threads) return {};  // too few shares
  return b;
}

template <int L>
int forward_bands(const FeStructure& s, const FeConv& c, const Geometry& g, const ForwardArgs& a,
                  const Bands& b, const FePrologue* pro, const real* x, real* y) {
  const int64_t in_plane = (int64_t)c.in_h * c.in_w * L;
  const int64_t band_plane = (int64_t)b.padded_h * g.padded_w * L;
  const Border border{c.pad_h, c.pad_w, g.padded_h, g.padded_w};
  const ptrdiff_t out_block = (ptrdiff_t)s.rows * g.out_h * g.out_w * L;
  const Tiling t = tiling(g.out_h, g.out_w, c.stride_w > 2 ? 1 : forward_pixels<L>());
  std::atomic<bool> short_of_memory{false};
  parallel_for(c.blocks * b.count, c.threads, [&](int job) {
    const int block = job / b.count, row0 = job % b.count * b.tile_rows;
    const int row1 = std::min(t.rows, row0 + b.tile_rows), top = row0 * t.tile_h * c.stride_h;
    real* band = scratch<real>(kPadded, (size_t)g.channels * band_plane);  // the thread's
    if (!band) return (void)(short_of_memory = true);
    for (int channel = 0; channel < g.channels; channel++) {
      const int64_t plane = (int64_t)block * g.channels + channel;
      pad_rows<L>(x + plane * in_plane, band + channel * band_plane, c.in_h, c.in_w, border, top,
                  b.padded_h, plane_prologue<L>(pro, plane, in_plane));
    }
    for (int row = row0; row < row1; row++)
      for (int column = 0; column < t.columns; column++)
        for_tile(t, row, column, [&](int th, int tw, int y0, int x0) {
          const real* xp = band + (int64_t)(y0 * c.stride_h - top) * g.padded_w * L +
                           (ptrdiff_t)x0 * c.stride_w * L;
          real* yp = y + block * out_block + y0 * a.out_row + (ptrdiff_t)x0 * L;
          TileTable<ForwardTile, L, forward_pixels<L>()>::find(th, tw, c.stride_w)(
              a, xp, yp, 0, s.rows);
        });
  });
  return short_of_memory ? FE_NO_MEMORY : FE_OK;
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
  const FeConv c = flat(s, *cp);
  Geometry g;
  if (!geometry(s, c, g)) return FE_BAD_ARGUMENT;
  if (!fits(g.channels, g.padded_h, g.padded_w, c.lanes)) return FE_TOO_LARGE;
  const bool planes = by_planes(s, c, g);
  int blocks = 1;
  if (!planes)
    FE_FOR_LANES(c.lanes, blocks = channel_blocks(s.in_per_group, region<L>(s, c, g), L, s.nnz, s.rows))
  const bool copies = g.pads || (pro && (pro->scale || pro->residual || pro->relu));
  Bands band{};
  if (copies) FE_FOR_LANES(c.lanes, band = bands<L>(s, c, g))
  int32_t* offset = scratch<int32_t>(kOffsets, s.nnz + 1);
  int32_t* start = scratch<int32_t>(kPointer, (size_t)(blocks + 1) * s.rows);
  const real* padded = band.count ? nullptr : padded_input(c, g, x, pro);
  Geometry read = g;  // what tiles read
  if (band.count) read.padded_h = band.padded_h;
  if (!offset || !start || !(padded || band.count) ||
      !forward_offsets(s, c, read, blocks, offset, start))
    return FE_NO_MEMORY;
  const ForwardArgs a{start, offset, w, bias, (ptrdiff_t)g.out_h * g.out_w * c.lanes,
                      (ptrdiff_t)g.padded_w * c.lanes * c.stride_h, (ptrdiff_t)g.out_w * c.lanes,
                      s.rows, blocks, c.stride_w};
  if (band.count) FE_FOR_LANES(c.lanes, return forward_bands<L>(s, c, g, a, band, pro, x, y))
  FE_FOR_LANES(c.lanes, planes ? forward_planes<L>(s, c, g, a, padded, y)
                               : forward<L>(s, c, g, a, padded, y))
  return FE_OK;
}
