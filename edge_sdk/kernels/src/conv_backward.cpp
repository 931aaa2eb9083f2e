// Gradients of the sparse conv.
//
// With a gradient to the input, both gradients come from one pass over the transposed
// pattern: a tile of input pixels (A) and of its gradient stay in registers; each kept
// weight loads the output gradient (B) once, for one FMA into the input's gradient and
// one into the dot product that is the weight's own gradient. Strides split the input
// into classes of pixels that meet the same taps, so everything is a gather: no atomics,
// and each sum has one order, whatever the number of threads.
// Without one (first layer) the roles swap: A is the output gradient, B the padded input.
// Wide layers with few weights go through a channel's whole row of tiles at once (by_planes).
#include <cstring>

#include "conv.h"
#include "program.h"
#include "taps.h"
#include "tiling.h"

namespace fe {
namespace {

struct BackwardArgs {
  const int32_t* start;  // [rows + 1]
  const int32_t* offset;
  const real* w;
  real* dw;  // in the order of offset
  const FePrologue* pro;  // how A was transformed in the forward pass
  bool first, last;       // of the runs of rows: dA begins at zero, and is complete
  ptrdiff_t a_plane, a_row, b_row;  // elements
  int a_stride, b_stride;           // pixels from one column to the next
};

template <int L, int TH, int TW, int SA, int SB, bool DX>
struct BackwardTile {
  typedef typename Lanes<L>::V V;
  static constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;

  static FE_INLINE void activate(const BackwardArgs& a, ptrdiff_t channel, ptrdiff_t at,
                                 ptrdiff_t sa, V (&g)[TH][TW][NV]) {
    const FePrologue& p = *a.pro;
#define FE_EACH                                    \
  FE_UNROLL for (int h = 0; h < TH; h++)           \
  FE_UNROLL for (int t = 0; t < TW; t++)           \
  FE_UNROLL for (int v = 0; v < NV; v++)
    if (p.scale) FE_EACH g[h][t][v] = g[h][t][v] * load<V>(p.scale + channel * L + v * VL) +
                                      load<V>(p.shift + channel * L + v * VL);
    if (p.residual)
      FE_EACH g[h][t][v] += load<V>(p.residual + at + h * a.a_row + t * sa + v * VL);
    if (p.relu) FE_EACH g[h][t][v] = relu(g[h][t][v]);
    if (p.relu == FE_FUSED_RELU6) FE_EACH g[h][t][v] = fe::activate<FE_FUSED_RELU6>(g[h][t][v]);
  }

  // A, dA: this tile's corner in the tensor's first channel; at, channel0: the same for
  // the prologue's tensors.
  static __attribute__((noinline)) void run(const BackwardArgs& a, const real* A, real* dA,
                                            const real* B, ptrdiff_t at, ptrdiff_t channel0,
                                            int r0, int r1) {
    for (int r = r0; r < r1; r++) {
      if (!DX && a.start[r] == a.start[r + 1]) continue;
      const ptrdiff_t plane = r * a.a_plane;
      channel(a, r, A + plane, dA + plane, B, at + plane, channel0 + r);
    }
  }

  // The same for channel r alone, on so many tiles side by side.
  static __attribute__((noinline)) void side_by_side(const BackwardArgs& a, const real* A,
                                                     real* dA, const real* B, ptrdiff_t at,
                                                     ptrdiff_t channel0, int r, int tiles) {
    const ptrdiff_t plane = r * a.a_plane;
    for (ptrdiff_t step = 0; step < (ptrdiff_t)tiles * TW * L; step += TW * L)
      channel(a, r, A + plane + step, dA + plane + step, B + step, at + plane + step, channel0 + r);
  }

  static FE_INLINE void channel(const BackwardArgs& a, int r, const real* ap, real* dp,
                                const real* B, ptrdiff_t at, ptrdiff_t channel) {
    const ptrdiff_t sa = (SA ? SA : a.a_stride) * L, sb = (SB ? SB : a.b_stride) * L;
    const ptrdiff_t a_row = a.a_row, b_row = a.b_row;
    const int32_t* const offset = a.offset;
    const real* const weight = a.w;
    real* const dw = a.dw;
    int i = a.start[r];
    const int end = a.start[r + 1];
    V g[TH][TW][NV], acc[TH][TW][NV];
    FE_EACH g[h][t][v] = load<V>(ap + h * a_row + t * sa + v * VL);
    if (DX && a.pro) activate(a, channel, at, sa, g);
    if (DX) {
      if (a.first) FE_EACH acc[h][t][v] = V{};
      else FE_EACH acc[h][t][v] = load<V>(dp + h * a_row + t * sa + v * VL);
    }
    for (; i + 4 <= end; i += 4) {
      V s[4];
      FE_UNROLL for (int u = 0; u < 4; u++) {
        const real* bp = B + offset[i + u];
        const V w = DX ? splat<V>(weight[i + u]) : V{};
        V q = V{};
        FE_EACH {
          const V b = load<V>(bp + h * b_row + t * sb + v * VL);
          if (DX) acc[h][t][v] += w * b;
          q = h + t + v ? q + g[h][t][v] * b : g[h][t][v] * b;
          if (DX) pin(acc[h][t][v], q);
        }
        s[u] = q;
      }
      add_four(dw + i, SumFour<V>::of(s[0], s[1], s[2], s[3]));
    }
    if (i < end) {  // up to three more, in one reduction
      V s[4] = {};
      const int rest = end - i;
      for (int u = 0; u < rest; u++) {
        const real* bp = B + offset[i + u];
        const V w = DX ? splat<V>(weight[i + u]) : V{};
        V q = V{};
        FE_EACH {
          const V b = load<V>(bp + h * b_row + t * sb + v * VL);
          if (DX) acc[h][t][v] += w * b;
          q += g[h][t][v] * b;
        }
        s[u] = q;
      }
      const auto four = SumFour<V>::of(s[0], s[1], s[2], s[3]);
      for (int u = 0; u < rest; u++) dw[i + u] += four[u];
    }
    if (DX) {
      if (a.last && a.pro && a.pro->relu) {
        FE_EACH acc[h][t][v] = relu_gradient(g[h][t][v], acc[h][t][v]);
        if (a.pro->relu == FE_FUSED_RELU6)
          FE_EACH acc[h][t][v] = activation_gradient<FE_FUSED_RELU6>(g[h][t][v], acc[h][t][v]);
      }
      FE_EACH store(dp + h * a_row + t * sa + v * VL, acc[h][t][v]);
    }
#undef FE_EACH
  }
};

typedef void (*BackwardFn)(const BackwardArgs&, const real*, real*, const real*, ptrdiff_t,
                           ptrdiff_t, int, int);
template <int L, int TH, int TW, int S>
struct InputTile : BackwardTile<L, TH, TW, S, 1, true> {
  typedef BackwardFn Fn;
};
template <int L, int TH, int TW, int S>
struct WeightTile : BackwardTile<L, TH, TW, 1, S, false> {
  typedef BackwardFn Fn;
};

// Pairs (activation, gradient) of vectors, and lone ones where only weights are wanted.
template <int L>
constexpr int input_pixels() {
  constexpr int room = kManyRegisters ? 12 : FE_VECTOR_BYTES == 16 ? 7 : 6;
  return std::max(1, room / Lanes<L>::NV);
}
template <int L>
constexpr int weight_pixels() {
  constexpr int room = kManyRegisters ? (FE_VECTOR_BYTES == 64 ? 16 : 20) : 10;
  return std::max(1, room / Lanes<L>::NV);
}

// Whether a channel's whole row of tiles comes before the next channel. Tile by tile, every
// plane is read a few lines at a time, which no processor foresees; row by row, each plane is
// a stream, but a weight's output gradient is read again from beyond the first-level cache.
// That pays for few weights a channel, in blocks beyond the second-level cache (one of a
// Zen 4 has 1 MiB; AVX2, d = .05): 64 -> 64 of 1 x 1 at 31 x 21 pixels 1.9 times as fast,
// 24 -> 144 at 32 x 32 2.6, 64 -> 64 of 3 x 3 at 32 x 32 1.5; at d = .2 they are .8 to 1.3.
template <int L>
bool by_planes(const FeStructure& s, const FeConv& c, const Geometry& g) {
  const int64_t pixels = (int64_t)c.in_h * c.in_w * (2 * g.channels + s.rows);
  return c.stride_h == 1 && c.stride_w == 1 && c.in_w >= 2 * input_pixels<L>() &&
         s.nnz <= (int64_t)g.channels * (s.taps() == 1 ? 32 : 40) &&
         pixels * L * (int64_t)sizeof(real) >= 1 << 21;
}

// The transposed pattern of one step, sorted by (run of rows, class, input channel), in
// work space. The output gradient of one run that a tile reads stays in the first-level
// cache: on a Zen 4 (32 KiB, AVX2) 128 channels at d = .2 went from 51 to 70 GF/s.
struct Transposed {
  int runs, classes, channels;
  Border border;                 // of the output gradient
  int32_t* bucket_of;            // [groups * cols] (class, channel) of a local column
  int32_t* shift;                // [cols] where its tap reads the output gradient
  int32_t* start;                // [runs * classes * channels + 1]
  int32_t* cursor;               // [runs * classes * channels]
  int32_t* offset;               // [nnz]
  real* w;                       // [nnz]
  real* dw;                      // [nnz]

  int buckets() const { return runs * classes * channels; }
  // That of a row's run and of its group's first channel, to which bucket_of is added. A
  // group's rows are cut into runs of their own: its channels meet no other rows.
  int first_bucket(const FeStructure& s, int row) const {
    const int in_group = row % s.rows_per_group(), group = row / s.rows_per_group();
    return part_of(s.rows_per_group(), in_group, runs) * classes * channels +
           group * s.in_per_group;
  }
};

// Runs of rows for tiles of input_pixels(): what one reads of the output gradient fits.
template <int L>
int row_runs(const FeStructure& s, const FeConv& c, const Geometry& g) {
  if (by_planes<L>(s, c, g)) return 1;
  const int w = (c.in_w + c.stride_w - 1) / c.stride_w;
  const int h = (c.in_h + c.stride_h - 1) / c.stride_h;
  const Tiling tile = tiling(h, w, c.stride_w > 2 ? 1 : input_pixels<L>());
  const int wide = (w + tile.columns - 1) / tile.columns;
  const int64_t pixels = (int64_t)(tile.tile_h - 1 + (s.kernel_h + c.stride_h - 1) / c.stride_h) *
                         (wide - 1 + (s.kernel_w + c.stride_w - 1) / c.stride_w);
  const int64_t kept = s.nnz / (c.stride_h * c.stride_w);  // of one class
  return channel_blocks(s.rows_per_group(), pixels, L, kept, g.channels);
}

// plane_h: rows of each of the padded planes that tiles read.
bool transpose(const FeStructure& s, const FeConv& c, const Geometry& g, const real* w,
               Transposed& t, int plane_h, const real* before) {
  const int buckets = t.buckets();
  t.bucket_of = scratch<int32_t>(kTable, (size_t)2 * s.cols);
  t.start = scratch<int32_t>(kPointer, buckets + 1);
  t.cursor = scratch<int32_t>(kCursor, buckets);
  t.offset = scratch<int32_t>(kOffsets, s.nnz + 1);
  t.w = scratch<real>(kWeights, s.nnz + 1);
  t.dw = scratch<real>(kGradients, s.nnz + 4);
  if (!t.bucket_of || !t.start || !t.cursor || !t.offset || !t.w || !t.dw) return false;
  t.shift = t.bucket_of + s.cols;
  const Border& b = t.border;
  for (int ic = 0, at = 0; ic < s.in_per_group; ic++)
    for (int ky = 0; ky < s.kernel_h; ky++)
      for (int kx = 0; kx < s.kernel_w; kx++, at++) {
        const Tap y = tap(ky, c.dilation_h, c.pad_h, c.stride_h);
        const Tap x = tap(kx, c.dilation_w, c.pad_w, c.stride_w);
        t.bucket_of[at] = (y.phase * c.stride_w + x.phase) * g.channels + ic;
        t.shift[at] = ((y.distance + b.top) * b.padded_w + x.distance + b.left) * c.lanes;
      }
  std::memset(t.start, 0, sizeof(int32_t) * (buckets + 1));
  const int32_t plane = plane_h * b.padded_w * c.lanes;
  with_columns(s, [&](auto column) {
    for (int r = 0; r < s.rows; r++) {
      int32_t* count = t.start + 1 + t.first_bucket(s, r);
      for (int32_t i = s.row_start[r]; i < s.row_start[r + 1]; i++) count[t.bucket_of[column[i]]]++;
    }
    for (int k = 0; k < buckets; k++) t.start[k + 1] += t.start[k];
    std::memcpy(t.cursor, t.start, sizeof(int32_t) * buckets);
    for (int r = 0; r < s.rows; r++) {
      int32_t* cursor = t.cursor + t.first_bucket(s, r);
      const int32_t base = r * plane;
      for (int32_t i = s.row_start[r]; i < s.row_start[r + 1]; i++) {
        const int32_t at = cursor[t.bucket_of[column[i]]]++;
        t.offset[at] = base + t.shift[column[i]];
        t.w[at] = w[i];
        t.dw[at] = before ? before[i] : 0;
      }
    }
  });
  return true;
}

// The weight gradients back in canonical order, by the same walk that sorted them.
void restore(const FeStructure& s, Transposed& t, real* dw) {
  std::memcpy(t.cursor, t.start, sizeof(int32_t) * t.buckets());
  with_columns(s, [&](auto column) {
    for (int r = 0; r < s.rows; r++) {
      int32_t* cursor = t.cursor + t.first_bucket(s, r);
      for (int32_t i = s.row_start[r]; i < s.row_start[r + 1]; i++)
        dw[i] = t.dw[cursor[t.bucket_of[column[i]]]++];
    }
  });
}

// Rows of a class whose output gradient is padded together, as in the forward pass: one
// thread's, because each has all channels of it to read. count is 0 where it is padded whole.
struct Bands {
  int rows, count, padded_h;
};
template <int L>
Bands bands(const FeStructure& s, const FeConv& c, const Border& b) {
  const int h = (c.in_h + c.stride_h - 1) / c.stride_h;
  // From a row of the class with the fewest rows to the last one that it may read.
  const int reach = b.padded_h - std::max(1, c.in_h / c.stride_h) + 1;
  const int64_t row = (int64_t)s.rows * b.padded_w * L * (int64_t)sizeof(real);
  const int64_t fits = (int64_t)l2_bytes() * 3 / 4 / row - reach + 1;
  // Every class has tiles of one row.
  const bool wide = c.stride_w <= 2 && 2 * (c.in_w / c.stride_w) > input_pixels<L>();
  if (c.threads > 1 || !wide || fits < 1 || fits >= h ||
      row * b.padded_h < 2 * (int64_t)l2_bytes())
    return {};
  const int count = (int)((h + fits - 1) / fits), rows = (h + count - 1) / count;
  return {rows, (h + rows - 1) / rows, rows + reach - 1};
}

// dyp: the padded output gradient; null where it is padded in bands.
template <int L>
void backward_both(const FeStructure& s, const FeConv& c, const Geometry& g, Transposed& t,
                   bool planes, const Bands& band, const FePrologue* pro, const real* x,
                   const real* dy, const real* dyp, real* own, real* dx) {
  constexpr int kWide = input_pixels<L>();
  typedef TileTable<InputTile, L, kWide> Table;
  const ptrdiff_t block = (ptrdiff_t)g.channels * c.in_h * c.in_w * L;
  const ptrdiff_t plane = (ptrdiff_t)g.out_h * g.out_w * L, b_row = (ptrdiff_t)t.border.padded_w * L;
  const ptrdiff_t dy_block = s.rows * t.border.padded_h * b_row;
  const int parts = std::min(c.threads, g.channels), most = (c.in_h + c.stride_h - 1) / c.stride_h;
  // Pixels of one class in rows [u0, u1) of it, channels [r0, r1); bp: where row u0 reads.
  const auto one_class = [&](int nb, int cls, int u0, int u1, const real* bp, int r0, int r1) {
    const int top = cls / c.stride_w, left = cls % c.stride_w;
    const int h = (c.in_h - top + c.stride_h - 1) / c.stride_h;
    const int w = (c.in_w - left + c.stride_w - 1) / c.stride_w;
    if (h <= 0 || w <= 0) return;
    const BackwardArgs all{t.start + cls * g.channels, t.offset, t.w, t.dw, pro, true, true,
                           (ptrdiff_t)c.in_h * c.in_w * L, (ptrdiff_t)c.in_w * c.stride_h * L,
                           b_row, c.stride_w, 1};
    const auto run = [&](BackwardFn tile_of, const BackwardArgs& a, int y0, int x0, int ra, int rb) {
      const ptrdiff_t at = nb * block + ((ptrdiff_t)top * c.in_w + left) * L + y0 * all.a_row +
                           (ptrdiff_t)x0 * c.stride_w * L;
      tile_of(a, x + at, dx + at, bp + (y0 - u0) * b_row + (ptrdiff_t)x0 * L, at,
              (ptrdiff_t)nb * g.channels, ra, rb);
    };
    if (planes) {
      const int rest = w % kWide;
      for (int y = u0; y < std::min(u1, h); y++)
        for (int r = r0; r < r1; r++) {
          run(&InputTile<L, 1, kWide, 1>::side_by_side, all, y, 0, r, w / kWide);
          if (rest) run(Table::find(1, rest, 1), all, y, w - rest, r, r + 1);
        }
      return;
    }
    const Tiling tile = tiling(h, w, c.stride_w > 2 ? 1 : kWide);
    const int last = std::min(tile.rows, (u1 + tile.tile_h - 1) / tile.tile_h);
    for (int row = u0 / tile.tile_h; row < last; row++)
      for (int column = 0; column < tile.columns; column++)
        for_tile(tile, row, column, [&](int th, int tw, int y0, int x0) {
          const BackwardFn tile_of = Table::find(th, tw, c.stride_w);
          BackwardArgs a = all;
          for (int k = 0; k < t.runs; k++, a.start += t.classes * t.channels) {
            a.first = k == 0;
            a.last = k == t.runs - 1;
            run(tile_of, a, y0, x0, r0, r1);
          }
        });
  };
  parallel_for(parts, c.threads, [&](int part) {
    const int r0 = split(g.channels, part, parts), r1 = split(g.channels, part + 1, parts);
    for (int nb = 0; nb < c.blocks; nb++)
      for (int k = 0; k < std::max(1, band.count); k++) {
        const int u0 = k * band.rows, u1 = band.count ? std::min(most, u0 + band.rows) : most;
        for (int r = 0; band.count && r < s.rows; r++)
          pad_rows<L>(dy + ((ptrdiff_t)nb * s.rows + r) * plane, own + r * band.padded_h * b_row,
                      g.out_h, g.out_w, t.border, u0, band.padded_h, {});
        for (int cls = 0; cls < t.classes; cls++)
          one_class(nb, cls, u0, u1, band.count ? own : dyp + nb * dy_block, r0, r1);
      }
  });
}

template <int L>
void backward_weights(const FeStructure& s, const FeConv& c, const Geometry& g,
                      const BackwardArgs& a, const real* padded, const real* dy) {
  const ptrdiff_t in_block = (ptrdiff_t)g.channels * g.padded_h * g.padded_w * L;
  const ptrdiff_t out_block = (ptrdiff_t)s.rows * g.out_h * g.out_w * L;
  const Tiling tile = tiling(g.out_h, g.out_w, c.stride_w > 2 ? 1 : weight_pixels<L>());
  const int parts = std::min(c.threads, s.rows);
  parallel_for(parts, c.threads, [&](int part) {
    const int r0 = split(s.rows, part, parts), r1 = split(s.rows, part + 1, parts);
    for (int nb = 0; nb < c.blocks; nb++)
      for (int row = 0; row < tile.rows; row++)
        for (int column = 0; column < tile.columns; column++)
          for_tile(tile, row, column, [&](int th, int tw, int y0, int x0) {
            const real* ap = dy + nb * out_block + y0 * a.a_row + (ptrdiff_t)x0 * L;
            const real* bp = padded + nb * in_block + y0 * a.b_row + (ptrdiff_t)x0 * c.stride_w * L;
            TileTable<WeightTile, L, weight_pixels<L>()>::find(th, tw, c.stride_w)(
                a, ap, nullptr, bp, 0, 0, r0, r1);
          });
  });
}

// db[r] = sum of dy over samples and pixels, in double: one order, one rounding.
template <int L>
void row_sums(const real* dy, real* db, int blocks, int rows, int64_t pixels, int threads,
              bool accumulate) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  parallel_for(rows, threads, [&](int r) {
    double total = 0;
    for (int nb = 0; nb < blocks; nb++) {
      const real* p = dy + ((int64_t)nb * rows + r) * pixels * L;
      for (int64_t i = 0; i < pixels * L;) {
        const int64_t end = std::min(pixels * L, i + 4096);
        V s = V{};
        for (; i < end; i += VL) s += load<V>(p + i);
        total += sum(s);
      }
    }
    db[r] = accumulate ? db[r] + (real)total : (real)total;
  });
}

int weights_only(const FeStructure& s, const FeConv& c, const Geometry& g, const real* x,
                 const FePrologue* pro, const real* dy, real* dw, bool accumulate) {
  int32_t* offset = scratch<int32_t>(kOffsets, s.nnz + 1);
  int32_t* start = scratch<int32_t>(kPointer, (size_t)2 * s.rows);
  const real* padded = padded_input(c, g, x, pro);
  if (!offset || !start || !padded || !forward_offsets(s, c, g, 1, offset, start))
    return FE_NO_MEMORY;
  if (!accumulate) std::memset(dw, 0, sizeof(real) * s.nnz);
  const BackwardArgs a{s.row_start.data(), offset, nullptr, dw, nullptr, true, true,
                       (ptrdiff_t)g.out_h * g.out_w * c.lanes, (ptrdiff_t)g.out_w * c.lanes,
                       (ptrdiff_t)g.padded_w * c.stride_h * c.lanes, 1, c.stride_w};
  FE_FOR_LANES(c.lanes, backward_weights<L>(s, c, g, a, padded, dy))
  return FE_OK;
}

int both(const FeStructure& s, const FeConv& c, const Geometry& g, const real* x,
         const FePrologue* pro, const real* w, const real* dy, real* dx, real* dw, bool accumulate) {
  Transposed t;
  t.classes = c.stride_h * c.stride_w;
  t.channels = g.channels;
  FE_FOR_LANES(c.lanes, t.runs = row_runs<L>(s, c, g))
  Border& b = t.border;
  axis_border(s.kernel_h, c.dilation_h, c.pad_h, c.stride_h, c.in_h, g.out_h, b.top, b.padded_h);
  axis_border(s.kernel_w, c.dilation_w, c.pad_w, c.stride_w, c.in_w, g.out_w, b.left, b.padded_w);
  if (!fits(s.rows, b.padded_h, b.padded_w, c.lanes)) return FE_TOO_LARGE;
  Bands band{};
  bool planes = false;
  FE_FOR_LANES(c.lanes, {
    band = bands<L>(s, c, b);
    planes = by_planes<L>(s, c, g);
  })
  const bool whole = b.padded_h == g.out_h && b.padded_w == g.out_w;
  if (whole) band = {};
  const int plane_h = band.count ? band.padded_h : b.padded_h;
  if (!transpose(s, c, g, w, t, plane_h, accumulate ? dw : nullptr)) return FE_NO_MEMORY;
  real* into = nullptr;
  if (!whole) {
    const int blocks = band.count ? 1 : c.blocks;
    into = scratch<real>(kPadded, (size_t)blocks * s.rows * plane_h * b.padded_w * c.lanes);
    if (!into) return FE_NO_MEMORY;
  }
  if (!whole && !band.count)
    FE_FOR_LANES(c.lanes, pad_planes<L>(dy, into, c.blocks, s.rows, g.out_h, g.out_w, b, nullptr, c.threads))
  FE_FOR_LANES(c.lanes, backward_both<L>(s, c, g, t, planes, band, pro, x, dy, whole ? dy : into, into, dx))
  restore(s, t, dw);
  return FE_OK;
}

}  // namespace

int conv_backward(const FeStructure& s, const FeConv& given, const real* x, const FePrologue* pro,
                  const real* w, const real* dy, real* dx, real* dw, real* db, bool accumulate) {
  Geometry g;
  const FeConv c = flat(s, given);
  if (!geometry(s, c, g)) return FE_BAD_ARGUMENT;
  if (!fits(g.channels, g.padded_h, g.padded_w, c.lanes)) return FE_TOO_LARGE;
  if (db) {
    const int64_t pixels = (int64_t)g.out_h * g.out_w;
    FE_FOR_LANES(c.lanes, row_sums<L>(dy, db, c.blocks, s.rows, pixels, c.threads, accumulate))
  }
  return dx ? both(s, c, g, x, pro, w, dy, dx, dw, accumulate)
            : weights_only(s, c, g, x, pro, dy, dw, accumulate);
}

}  // namespace fe

extern "C" int fe_conv_backward(const FeStructure* s, const FeConv* c, const fe::real* x,
                                const FePrologue* pro, const fe::real* w, const fe::real* dy,
                                fe::real* dx, fe::real* dw, fe::real* db) {
  return fe::conv_backward(*s, *c, x, pro, w, dy, dx, dw, db, false);
}
