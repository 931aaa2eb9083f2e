// Vector kernels with GCC vector extensions: the register blocking is explicit, and one
// source serves AVX-512, AVX2, SSE and NEON. Compiled with FLSP_ISA = v4, v3 or base and
// FLSP_BYTES = vector bytes. No standard library here: an inline function compiled for
// AVX-512 could be the one that the linker keeps for every processor.
#include "simd.h"
#include "simd_channels.h"
#include "simd_depthwise.h"
#include "simd_matrix.h"
#include "simd_strided.h"
#include "simd_values.h"

namespace flsp {
namespace {

template <int TH, int TW>
FLSP_INLINE ptrdiff_t spot(ptrdiff_t row, ptrdiff_t tail, int h, int t) {
  return h * row + (t == TW - 1 ? tail : t * kLanes);
}

// Sums of int8 values are scaled, and get their bias, when they are whole.
template <class V>
constexpr bool kScaled = sizeof(V) == 1;

template <int TH, int TW, class V>
FLSP_INLINE void finish_row(const Tile& a, int32_t row, Vec (&sum)[TH][TW]) {
  constexpr int T = TH * TW;
  if (!a.last) {
    float* to = a.sums + row * a.sums_row;
    FLSP_UNROLL for (int t = 0; t < T; t++) store(to + t * kLanes, sum[t / TW][t % TW]);
    return;
  }
  const ptrdiff_t out = row * a.y_plane;
  float* y = a.y + out;
  const Vec low = splat(a.finish.low), high = splat(a.finish.high);
  const float* residual = a.finish.residual;
  FLSP_UNROLL for (int t = 0; t < T; t++) {
    Vec& v = sum[t / TW][t % TW];
    if (a.order) v = ordered(v, a.order);
    if (kScaled<V> && a.rounded) {
      v = v * splat(a.scale[row]);
      FLSP_KEEP_VEC(v);
      v += splat(a.bias[row]);
    } else if (kScaled<V>) {
      v = v * splat(a.scale[row]) + splat(a.bias[row]);
    }
    if (residual) v += load(residual + out + a.y_at[t]);
    v = clip(v, low, high);
  }
  // A row's spare lanes fall on the next row's first pixels, which are stored later.
  FLSP_UNROLL for (int t = 0; t < T - 1; t++) store(y + a.y_at[t], sum[t / TW][t % TW]);
  store_some(y + a.y_at[T - 1], sum[TH - 1][TW - 1], a.y_last);
}

template <int TH, int TW, class V>
FLSP_INLINE void start_row(const Tile& a, int32_t row, Vec (&sum)[TH][TW]) {
  constexpr int T = TH * TW;
  if (a.first) {
    const Vec bias = kScaled<V> ? Vec{} : splat(a.bias[row]);
    FLSP_UNROLL for (int t = 0; t < T; t++) sum[t / TW][t % TW] = bias;
  } else {
    const float* from = a.sums + row * a.sums_row;
    FLSP_UNROLL for (int t = 0; t < T; t++) sum[t / TW][t % TW] = load(from + t * kLanes);
  }
}

// Columns from one kept weight to each of the next four. One load, and those behind wait
// for one addition: loads are what a processor runs short of.
struct Steps {
  ptrdiff_t to[4];
  FLSP_INLINE_MEMBER explicit Steps(const uint8_t* gap) {
    uint32_t four;
    __builtin_memcpy(&four, gap, sizeof four);
    const uint32_t a = four & 255, b = four >> 8 & 255, c = four >> 16 & 255, d = four >> 24;
    to[0] = a;
    to[1] = a + b;
    to[2] = a + b + c;
    to[3] = (a + b) + (c + d);
  }
};

// N values as floats.
template <int N, class V>
struct Pieces {
  typedef float Floats __attribute__((vector_size(4 * N)));
  typedef V Stored __attribute__((vector_size(N * sizeof(V))));
  FLSP_INLINE Floats load(const V* from) {
    Stored values;
    __builtin_memcpy(&values, from, sizeof values);
    return __builtin_convertvector(values, Floats);
  }
};

template <int TH, int TW>
FLSP_INLINE void add_product(const float* x, ptrdiff_t x_row, ptrdiff_t tail, float value,
                             Vec (&sum)[TH][TW]) {
  const Vec w = splat(value);
  FLSP_UNROLL for (int h = 0; h < TH; h++) FLSP_UNROLL for (int t = 0; t < TW; t++)
    sum[h][t] += w * load(x + spot<TH, TW>(x_row, tail, h, t));
}

// A row's entries lie together, so one block's lie all over the file: a processor does
// not guess where the next segment's are.
template <class V>
FLSP_INLINE void fetch(const SparseBlock& b, const Segment& s) {
  const char* value = reinterpret_cast<const char*>(static_cast<const V*>(b.values) + s.begin);
  const int32_t bytes = s.count * static_cast<int32_t>(sizeof(V));
  for (int32_t i = 0; i < bytes + 60; i += 64) __builtin_prefetch(value + i);
  for (int32_t i = 0; i < s.count + 60; i += 64) __builtin_prefetch(b.gaps + s.begin + i);
}
constexpr int kAhead = 5;  // segments

// One load and one multiply-add per kept weight and vector; nothing is stored inside.
template <int TH, int TW, class V>
void sparse_tile(const Tile& a, const SparseBlock& b) {
  constexpr int T = TH * TW;
  constexpr int U = T >= 6 ? 1 : T >= 3 ? 2 : 4;  // independent sums hide the latency
  const ptrdiff_t x_row = a.x_row, tail = a.x_tail;
  for (int32_t s = 0; s < kAhead && s < b.count; s++) fetch<V>(b, b.segments[s]);
  for (const Segment* s = b.segments; s < b.segments + b.count; s++) {
    if (s + kAhead < b.segments + b.count) fetch<V>(b, s[kAhead]);
    Vec sum[U][TH][TW];
    start_row<TH, TW, V>(a, s->row, sum[0]);
    FLSP_UNROLL for (int u = 1; u < U; u++) FLSP_UNROLL for (int h = 0; h < TH; h++)
      FLSP_UNROLL for (int t = 0; t < TW; t++) sum[u][h][t] = Vec{};
    const float* x = a.x + s->base;
    FLSP_KEEP(x);  // GCC would add the base once per weight
    const V* value = static_cast<const V*>(b.values) + s->begin;
    const uint8_t* gap = b.gaps + s->begin;
    const uint8_t* const end = gap + s->count;
    ptrdiff_t column = s->column;
    for (; gap + 4 <= end; gap += 4, value += 4) {
      const Steps step(gap);
      const auto values = Pieces<4, V>::load(value);
      FLSP_UNROLL for (int i = 0; i < 4; i++)
        add_product<TH, TW>(x + b.offset[column + step.to[i]], x_row, tail, values[i],
                            sum[i % U]);
      column += step.to[3];
    }
    for (; gap < end; gap++, value++)
      add_product<TH, TW>(x + b.offset[column += *gap], x_row, tail, real(*value), sum[0]);
    FLSP_UNROLL for (int u = 1; u < U; u++) FLSP_UNROLL for (int h = 0; h < TH; h++)
      FLSP_UNROLL for (int t = 0; t < TW; t++) sum[0][h][t] += sum[u][h][t];
    finish_row<TH, TW, V>(a, s->row, sum[0]);
  }
}

// Each input vector is used by kGroupRows output channels.
template <int TH, int TW, class V>
void dense_tile(const Tile& a, const DenseBlock& b) {
  constexpr int R = kGroupRows;
  const V* group = static_cast<const V*>(b.values);
  for (int32_t r0 = 0; r0 < b.rows; r0 += R, group += b.group) {
    const V* w = group;
    const int valid = b.rows - r0 < R ? b.rows - r0 : R;
    Vec sum[R][TH][TW];
    FLSP_UNROLL for (int r = 0; r < R; r++)
      start_row<TH, TW, V>(a, r0 + (r < valid ? r : 0), sum[r]);
    for (int32_t c = 0; c < b.columns; c++, w += R) {
      const float* x = a.x + b.offset[c];
      FLSP_UNROLL for (int h = 0; h < TH; h++) FLSP_UNROLL for (int t = 0; t < TW; t++) {
        const Vec v = load(x + spot<TH, TW>(a.x_row, a.x_tail, h, t));
        FLSP_UNROLL for (int r = 0; r < R; r++) sum[r][h][t] += splat(real(w[r])) * v;
      }
    }
    FLSP_UNROLL for (int r = 0; r < R; r++)
      if (r < valid) finish_row<TH, TW, V>(a, r0 + r, sum[r]);
  }
}

// The shapes that exist: every tw for one row, a few for 2 and 4 rows.
template <int TH, int TW, int MAX>
constexpr bool exists() {
  return TH * TW <= MAX && (TH == 1 || TW <= 4);
}

template <template <int, int, class> class Run, class V, int MAX, int TH, int TW,
          class... Args>
FLSP_INLINE bool dispatch_width(int tw, Args&&... args) {
  if constexpr (TW == 0) {
    return false;
  } else {
    if (tw == TW) {
      if constexpr (exists<TH, TW, MAX>()) {
        Run<TH, TW, V>::run(args...);
        return true;
      }
      return false;
    }
    return dispatch_width<Run, V, MAX, TH, TW - 1>(tw, args...);
  }
}

template <template <int, int, class> class Run, class V, int MAX, class... Args>
FLSP_INLINE bool dispatch(int th, int tw, Args&&... args) {
  switch (th) {
    case 1: return dispatch_width<Run, V, MAX, 1, kMaxSparse>(tw, args...);
    case 2: return dispatch_width<Run, V, MAX, 2, kMaxSparse>(tw, args...);
    case 4: return dispatch_width<Run, V, MAX, 4, kMaxSparse>(tw, args...);
    default: return false;
  }
}

template <int TH, int TW, class V>
struct RunSparse {
  static void run(const Tile& a, const SparseBlock& b) { sparse_tile<TH, TW, V>(a, b); }
};
template <int TH, int TW, class V>
struct RunDense {
  static void run(const Tile& a, const DenseBlock& b) { dense_tile<TH, TW, V>(a, b); }
};

template <class V>
void sparse(const Tile& a, const SparseBlock& b, int th, int tw) {
  dispatch<RunSparse, V, kMaxSparse>(th, tw, a, b);
}
template <class V>
void dense(const Tile& a, const DenseBlock& b, int th, int tw) {
  dispatch<RunDense, V, kMaxDense>(th, tw, a, b);
}

// ------------------------------------------------------------------ packing of tiles

FLSP_INLINE void copy_quad(float* to, const float* from) {
  *reinterpret_cast<Quad*>(to) = *reinterpret_cast<const Quad*>(from);
}

FLSP_INLINE void copy_any(float* to, const float* from, int32_t count) {
  int32_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  for (; i + 4 <= count; i += 4) copy_quad(to + i, from + i);
  for (; i < count; i++) to[i] = from[i];
}

// Counts are small: GCC would call memset, which costs more than the stores.
FLSP_INLINE void zero(float* to, int32_t count) {
  int32_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, Vec{});
  for (; i < count; i++) {
    to[i] = 0.0f;
    FLSP_KEEP_LOOP;
  }
}

FLSP_INLINE void copy_masked(float* to, const float* from, Index mask) {
  store(to, masked(load(from), mask));
}

// A row's columns from `column` on, zeros where there are none. Reads less than a vector beside
// the row, for which allocations have room.
FLSP_INLINE Vec part_of_row(const float* row, int32_t column, int32_t width) {
  if (column >= 0 && column + kLanes <= width) return load(row + column);
  if (column <= -kLanes || column >= width) return Vec{};
  return masked(load(row + column), inside(column, 0, width));
}

// VECTORS per packed row. Whole vectors may read a few floats beside the row; they become
// zeros or spare lanes, and the arena has room. A channel's copies come after each other: its
// rows are in the cache then.
constexpr int kMaskedCopies = 16;
template <int VECTORS>
void pack_vectors(const Pack& p, float* target) {
  const int32_t top = p.from < 0 ? -p.from : 0;
  const int32_t stop = p.to < p.height ? p.to : p.height;
  Index mask[kMaskedCopies][VECTORS];
  for (int32_t k = 0; k < p.copies; k++)
    for (int v = 0; v < VECTORS; v++) mask[k][v] = inside(v * kLanes, p.shift[k], p.width);
  for (int32_t c = 0; c < p.channels; c++)
    for (int32_t k = 0; k < p.copies; k++) {
      float* to = target + (static_cast<ptrdiff_t>(c) * p.copies + k) * p.step;
      const float* from = p.x + c * p.plane + p.origin[k] + (p.from + top) * p.row +
                          p.shift[k];
      int32_t h = p.from;
      for (; h < p.from + top && h < p.to; h++, to += p.out_row)
        FLSP_UNROLL for (int v = 0; v < VECTORS; v++) store(to + v * kLanes, Vec{});
      for (; h < stop; h++, to += p.out_row, from += p.row)
        FLSP_UNROLL for (int v = 0; v < VECTORS; v++)
          copy_masked(to + v * kLanes, from + v * kLanes, mask[k][v]);
      for (; h < p.to; h++, to += p.out_row)
        FLSP_UNROLL for (int v = 0; v < VECTORS; v++) store(to + v * kLanes, Vec{});
    }
}

// Rows of any width, copied exactly.
void pack_rows(const Pack& p, float* target) {
  const int32_t width = p.out_width;
  for (int32_t c = 0; c < p.channels; c++)
    for (int32_t k = 0; k < p.copies; k++, target += p.step) {
      const int32_t shift = p.shift[k];
      const int32_t left = shift < 0 ? -shift : 0;
      const int32_t over = shift + width - p.width;
      const int32_t right = over > 0 ? over : 0;
      const float* from = p.x + c * p.plane + p.origin[k] + p.from * p.row + shift;
      float* to = target;
      for (int32_t h = p.from; h < p.to; h++, to += p.out_row, from += p.row) {
        if (h < 0 || h >= p.height || left + right >= width) {
          zero(to, width);
          continue;
        }
        zero(to, left);
        copy_any(to + left, from + left, width - left - right);
        zero(to + width - right, right);
      }
    }
}

// Narrow rows that lie without gaps: a shifted copy of many rows at once, in which the
// columns that came from a neighbouring row are masked. Eight times fewer stores at
// width 4, where packing was a quarter of a layer's time.
constexpr int kNarrowCopies = 16;
void pack_narrow(const Pack& p, float* target) {
  const int32_t width = p.width, rows = p.to - p.from;
  const int32_t above = p.from < 0 ? -p.from : 0;
  const int32_t top = above < rows ? above : rows;  // a tile may lie in padding alone
  const int32_t first = p.from + top, last = p.to < p.height ? p.to : p.height;
  const int32_t body = last > first ? (last - first) * width : 0;
  Index masks[kNarrowCopies];
  for (int32_t k = 0; k < p.copies; k++)
    for (int i = 0; i < kLanes; i++) {
      const int32_t column = i % width + p.shift[k];
      masks[k][i] = column >= 0 && column < width ? -1 : 0;
    }
  for (int32_t c = 0; c < p.channels; c++)
    for (int32_t k = 0; k < p.copies; k++, target += p.step) {
      const Index mask = masks[k];
      zero(target, top * width);
      const float* from = p.x + c * p.plane + p.origin[k] + first * p.row + p.shift[k];
      float* to = target + top * width;
      for (int32_t i = 0; i < body; i += kLanes) copy_masked(to + i, from + i, mask);
      zero(to + body, (rows - top) * width - body);
    }
}

void pack(const Pack& p, float* target) {
  if (!p.near || p.copies > kMaskedCopies) return pack_rows(p, target);
  const bool gapless =
      p.row == p.width && p.out_width == p.width && p.out_row == p.width;
  if (gapless && p.width <= kLanes && kLanes % p.width == 0 && p.copies <= kNarrowCopies)
    return pack_narrow(p, target);
  switch (p.out_row % kLanes == 0 ? p.out_row / kLanes : 0) {
    case 1: return pack_vectors<1>(p, target);
    case 2: return pack_vectors<2>(p, target);
    case 4: return pack_vectors<4>(p, target);
    case 8: return pack_vectors<8>(p, target);
    default: break;
  }
  // Two rows share a vector: what one writes behind itself the next one replaces.
  return p.out_row * 2 == kLanes ? pack_vectors<1>(p, target) : pack_rows(p, target);
}

// --------------------------------------------------------------- strides and pooling

void split_rows(const Split& s) {
  for (int32_t i = 0; i < s.count; i += kLanes) {
    const int32_t first = s.first + 2 * i;
    const bool whole = first >= 0 && first + 2 * kLanes <= s.width;
    const float* x = s.x;
    for (int32_t h = 0; h < s.rows; h++, x += s.x_row) {
      const Vec a = whole ? load(x + first) : part_of_row(x, first, s.width);
      const Vec b = whole ? load(x + first + kLanes) : part_of_row(x, first + kLanes, s.width);
      const ptrdiff_t at = h * s.to_row + i;
      if (s.even) store(s.even + at, even(a, b));
      if (s.odd) store(s.odd + at, odd(a, b));
    }
  }
}

// The largest of the window's rows, with -inf where the window leaves the plane.
FLSP_INLINE void largest_rows(const MaxPool& p, int32_t h, int32_t length, float* line) {
  const float lowest = -__builtin_inff();
  int32_t first = p.kernel_h, last = -1;
  for (int32_t k = 0; k < p.kernel_h; k++) {
    const int32_t row = h * p.stride_h + k * p.dilation_h - p.pad_top;
    if (row < 0 || row >= p.height) continue;
    if (k < first) first = k;
    last = k;
  }
  int32_t stop = p.pad_left + p.width;  // of the columns that exist
  if (stop > length) stop = length;
  for (int32_t i = 0; i < p.pad_left && i < length; i++) line[i] = lowest;
  if (last < 0) stop = p.pad_left < length ? p.pad_left : length;
  const float* x = p.x + static_cast<ptrdiff_t>(h * p.stride_h - p.pad_top) * p.width -
                   p.pad_left;
  for (int32_t i = p.pad_left; i < stop; i += kLanes) {
    Vec v = load(x + static_cast<ptrdiff_t>(first) * p.dilation_h * p.width + i);
    for (int32_t k = first + 1; k <= last; k++)
      v = larger(v, load(x + static_cast<ptrdiff_t>(k) * p.dilation_h * p.width + i));
    store(line + i, v);
  }
  for (int32_t i = stop; i < length + kLanes; i++) line[i] = lowest;
}

// Columns from `column` on of the largest of rows first..last of a window.
FLSP_INLINE Vec largest_of_rows(const MaxPool& p, const float* x, ptrdiff_t step, int32_t count,
                                int32_t column) {
  const Vec lowest = splat(-__builtin_inff());
  if (column <= -kLanes || column >= p.width) return lowest;
  Vec v = load(x + column);
  for (int32_t k = 1; k < count; k++) v = larger(v, load(x + k * step + column));
  if (column >= 0 && column + kLanes <= p.width) return v;
  return inside(column, 0, p.width) ? v : lowest;
}

// Windows of 2 or 3 columns, two apart: the largest of the rows once per input, then even and
// odd columns. A third of the time of nine vectors of every second input.
template <int COLUMNS>
void max_pool_halved(const MaxPool& p) {
  const Vec low = splat(p.low), high = splat(p.high);
  const ptrdiff_t step = static_cast<ptrdiff_t>(p.dilation_h) * p.width;
  for (int32_t h = 0; h < p.out_height; h++) {
    const int32_t top = h * p.stride_h - p.pad_top;
    const WindowPart rows(top, p.kernel_h, p.dilation_h, p.height);
    const int32_t count = rows.end - rows.begin;
    const float* x = p.x + static_cast<ptrdiff_t>(top + rows.begin * p.dilation_h) * p.width;
    const auto pair = [&](int32_t column, Vec& first, Vec& second) {
      const Vec a = count < 1 ? splat(-__builtin_inff())
                              : largest_of_rows(p, x, step, count, column);
      const Vec b = count < 1 ? a : largest_of_rows(p, x, step, count, column + kLanes);
      first = even(a, b);
      second = odd(a, b);
    };
    float* y = p.y + static_cast<ptrdiff_t>(h) * p.out_width;
    const ptrdiff_t rest = static_cast<ptrdiff_t>(p.out_height - h) * p.out_width;
    Vec first, second;
    pair(-p.pad_left, first, second);
    for (int32_t w = 0; w < p.out_width; w += kLanes) {
      Vec next_first, next_second;
      pair(2 * (w + kLanes) - p.pad_left, next_first, next_second);
      Vec most = larger(first, second);
      if (COLUMNS == 3) most = larger(most, moved_left(first, next_first));
      // A row's spare lanes fall on the next rows, which are stored later.
      const ptrdiff_t left = rest - w;
      store_some(y + w, clip(most, low, high), left < kLanes ? static_cast<int>(left) : kLanes);
      first = next_first;
      second = next_second;
    }
  }
}

// Windows that never leave the plane, read where they lie: a line written and read again
// one float further on waits for its own stores. Twice to six times as fast.
template <int STRIDE>
void max_pool_inside(const MaxPool& p) {
  const Vec low = splat(p.low), high = splat(p.high);
  const ptrdiff_t step = static_cast<ptrdiff_t>(p.dilation_h) * p.width;
  const ptrdiff_t rest = static_cast<ptrdiff_t>(p.out_height) * p.out_width;
  for (int32_t h = 0; h < p.out_height; h++) {
    const float* row = p.x + static_cast<ptrdiff_t>(h) * p.stride_h * p.width;
    float* y = p.y + static_cast<ptrdiff_t>(h) * p.out_width;
    for (int32_t w = 0; w < p.out_width; w += kLanes) {
      Vec most = splat(-__builtin_inff());
      for (int32_t a = 0; a < p.kernel_h; a++)
        for (int32_t b = 0; b < p.kernel_w; b++) {
          const float* from = row + a * step + w * STRIDE + b;
          most = larger(most, STRIDE == 1 ? load(from)
                                          : even(load(from), load(from + kLanes)));
        }
      // A row's spare lanes fall on the next rows, which are stored later.
      const ptrdiff_t left = p.out_width - w, after = rest - h * p.out_width - w;
      const bool whole = left >= kLanes || after >= kLanes;
      store_some(y + w, clip(most, low, high), whole ? kLanes : static_cast<int>(left));
    }
  }
}

void max_pool(const MaxPool& p) {
  if (p.stride_w == 2 && p.kernel_w == 2) return max_pool_halved<2>(p);
  if (p.stride_w == 2 && p.kernel_w == 3) return max_pool_halved<3>(p);
  const bool inside =
      p.pad_top == 0 && p.pad_left == 0 &&
      (p.out_height - 1) * p.stride_h + (p.kernel_h - 1) * p.dilation_h < p.height &&
      (p.out_width - 1) * p.stride_w + p.kernel_w <= p.width;
  if (inside && p.stride_w == 1) return max_pool_inside<1>(p);
  if (inside && p.stride_w == 2) return max_pool_inside<2>(p);
  const int32_t length = (p.out_width - 1) * p.stride_w + p.kernel_w;
  const Vec low = splat(p.low), high = splat(p.high);
  const int32_t step = length + 2 * kLanes;
  for (int32_t h = 0; h < p.out_height; h++) {
    // Lines are read some rows after they are written: sooner, loads wait for the stores.
    if (h % kPoolLines == 0)
      for (int32_t i = 0; i < kPoolLines && h + i < p.out_height; i++)
        largest_rows(p, h + i, length, p.line + i * step);
    const float* line = p.line + h % kPoolLines * step;
    float* y = p.y + static_cast<ptrdiff_t>(h) * p.out_width;
    int32_t w = 0;
    if (p.stride_w == 1) {
      for (; w + kLanes <= p.out_width; w += kLanes) {
        Vec v = load(line + w);
        for (int32_t k = 1; k < p.kernel_w; k++) v = larger(v, load(line + w + k));
        store(y + w, clip(v, low, high));
      }
    } else if (p.stride_w == 2) {
      for (; w + kLanes <= p.out_width; w += kLanes) {
        const float* from = line + 2 * w;
        Vec v = even(load(from), load(from + kLanes));
        for (int32_t k = 1; k < p.kernel_w; k++)
          v = larger(v, even(load(from + k), load(from + k + kLanes)));
        store(y + w, clip(v, low, high));
      }
    }
    for (; w < p.out_width; w++) {
      const float* from = line + w * p.stride_w;
      float v = from[0];
      for (int32_t k = 1; k < p.kernel_w; k++) v = v > from[k] ? v : from[k];
      y[w] = clip_one(v, p.low, p.high);
    }
  }
}

// -------------------------------------------------------------------- linear layers

// Four inputs are collected into a vector, so that the values load four at a time: a
// processor has two loads per cycle. Measured on Zen 5: 1.37 times the scalar loop.
template <class V>
FLSP_INLINE float sparse_row(const float* x, const V* value, const uint8_t* gap,
                             int32_t count) {
  Quad sum[4] = {};
  ptrdiff_t at = 0;
  int32_t i = 0;
  const auto product = [&](int32_t from) {
    const Steps step(gap + from);
    const float* here = x + at;
    at += step.to[3];
    return Quad{here[step.to[0]], here[step.to[1]], here[step.to[2]], here[step.to[3]]} *
           Pieces<4, V>::load(value + from);
  };
  for (; i + 16 <= count; i += 16)
    FLSP_UNROLL for (int u = 0; u < 4; u++) sum[u] += product(i + 4 * u);
  for (; i + 4 <= count; i += 4) sum[0] += product(i);
  const Quad all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  float total = (all[0] + all[1]) + (all[2] + all[3]);
  for (; i < count; i++) total += real(value[i]) * x[at += gap[i]];
  return total;
}

template <class V>
FLSP_INLINE float dense_row(const float* x, const V* w, int32_t columns) {
  Vec sum[4] = {};
  int32_t c = 0;
  const auto product = [&](int32_t at) {
    return static_cast<Vec>(Pieces<kLanes, V>::load(w + at)) * load(x + at);
  };
  for (; c + 4 * kLanes <= columns; c += 4 * kLanes)
    FLSP_UNROLL for (int u = 0; u < 4; u++) sum[u] += product(c + u * kLanes);
  for (; c + kLanes <= columns; c += kLanes) sum[0] += product(c);
  const Vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  float total = 0.0f;
  FLSP_UNROLL for (int i = 0; i < kLanes; i++) total += all[i];
  for (; c < columns; c++) total += real(w[c]) * x[c];
  return total;
}

template <class V>
void linear(const float* x, float* y, const Rows& m, int32_t begin, int32_t end, float low,
            float high) {
  const V* values = static_cast<const V*>(m.values.at);
  for (int32_t r = begin; r < end; r++) {
    float sum;
    if (m.gaps) {
      const int32_t from = m.start[r];
      sum = sparse_row(x, values + from, m.gaps + from, m.start[r + 1] - from);
    } else {
      sum = dense_row(x, values + static_cast<ptrdiff_t>(r) * m.columns, m.columns);
    }
    if (kScaled<V>) sum *= m.values.scale[r];
    y[r] = clip_one(m.bias[r] + sum, low, high);
  }
}

#if FLSP_BYTES == 64
typedef uint32_t Places __attribute__((vector_size(FLSP_BYTES), aligned(4), may_alias));

// Only the lowest 5 bits of a place choose.
FLSP_INLINE Vec window_step(const float* x, const float* value, Places places) {
  return load(value) * reinterpret_cast<Vec>(_mm512_permutex2var_ps(
                           reinterpret_cast<__m512>(load(x)), reinterpret_cast<__m512i>(places),
                           reinterpret_cast<__m512>(load(x + kLanes))));
}

// One kept weight costs a processor with two loads per cycle a cycle in `sparse_row`.
// Here a step of three loads has 9 of 16 lanes in use at density 0.05 and 13 at 0.2.
void linear_window(const float* x, float* y, const WindowRows& w, const float* bias,
                   int32_t begin, int32_t end, int32_t rows, float low, float high) {
  const Vec least = splat(low), most = splat(high);
  for (int32_t g = begin; g < end; g++) {
    Vec sum[kPlaces] = {};
    const uint16_t* base = w.base + w.start[g];
    const uint16_t* const last = w.base + w.start[g + 1];
    const float* value = w.value + static_cast<ptrdiff_t>(w.start[g]) * kWindowRows;
    const uint32_t* from = w.places + static_cast<ptrdiff_t>(w.six[g]) * kWindowRows;
    for (; base + kPlaces <= last; base += kPlaces, from += kWindowRows) {
      const Places places = *reinterpret_cast<const Places*>(from);
      FLSP_UNROLL for (int u = 0; u < kPlaces; u++, value += kWindowRows)
        sum[u] += window_step(x + base[u], value, places >> (kPlaceBits * u));
    }
    if (base < last) {
      Places places = *reinterpret_cast<const Places*>(from);
      for (; base < last; base++, value += kWindowRows, places >>= kPlaceBits)
        sum[0] += window_step(x + *base, value, places);
    }
    const Vec all = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + (sum[4] + sum[5]);
    const int32_t row = g * kWindowRows;
    const int32_t count = rows - row < kWindowRows ? rows - row : kWindowRows;
    const auto lanes = static_cast<__mmask16>((1u << count) - 1);  // biases lie in the file
    const Vec start = reinterpret_cast<Vec>(_mm512_maskz_loadu_ps(lanes, bias + row));
    store_some(y + row, clip(start + all, least, most), count);
  }
}
constexpr auto kLinearWindow = linear_window;
#else
constexpr decltype(Kernels::linear_window) kLinearWindow = nullptr;
#endif

// Reads and writes up to a vector more.
void round_values(const float* x, float* y, int64_t n, float inverse, float low, float high) {
  for (int64_t i = 0; i < n; i += kLanes)
    store(y + i, whole(clip(load(x + i) * splat(inverse), splat(low), splat(high))));
}

const Kernels kTable = {
    FLSP_TEXT(FLSP_ISA), kLanes, kMaxSparse, kMaxDense,
    {sparse<float>, sparse<int8_t>}, {dense<float>, dense<int8_t>},
    pack, split_rows, max_pool, {linear<float>, linear<int8_t>},
    kLinearWindow, mix_planes, depthwise, depthwise_group, map_values, pair_values, scale_values, gru_gates,
    lstm_gates, sum_values, normal_row,    softmax_values, matrix_product, transpose_block, round_values};

}  // namespace

const Kernels* FLSP_JOIN(kernels_, FLSP_ISA)() { return &kTable; }

}  // namespace flsp
