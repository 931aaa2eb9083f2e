// Depth-wise convolutions: a channel's rows are copied once, padded and split by the stride,
// and register tiles of several output rows use each copied vector for all of their rows.
//
// Measured on Zen 5, AVX-512, one thread: MobileNetV2's depth-wise layers take 0.35 of the time
// that sparse tiles took, which loaded an input for each weight. Wide planes of stride 1, and those
// of stride 2, are read where they lie, with masks at their sides; narrow ones are faster copied. Planes
// narrower than half a vector are computed across their rows.
#ifndef FLSP_SIMD_DEPTHWISE_H
#define FLSP_SIMD_DEPTHWISE_H

#include "simd.h"

namespace flsp {
namespace {

constexpr int kRows = 4;  // of a tile

template <int N>
struct Count {
  static constexpr int value = N;
};

FLSP_INLINE Index first_lanes(int32_t count) {
  Index lane;
  FLSP_UNROLL for (int i = 0; i < kLanes; i++) lane[i] = i;
  return lane < count;
}

// Elements FIRST, FIRST + 2, FIRST + 4 ... of two vectors.
template <int FIRST>
FLSP_INLINE Vec every_other(Vec a, Vec b) {
#if FLSP_BYTES == 64
  return __builtin_shufflevector(a, b, FIRST, FIRST + 2, FIRST + 4, FIRST + 6, FIRST + 8,
                                 FIRST + 10, FIRST + 12, FIRST + 14, FIRST + 16, FIRST + 18,
                                 FIRST + 20, FIRST + 22, FIRST + 24, FIRST + 26, FIRST + 28,
                                 FIRST + 30);
#elif FLSP_BYTES == 32
  return __builtin_shufflevector(a, b, FIRST, FIRST + 2, FIRST + 4, FIRST + 6, FIRST + 8,
                                 FIRST + 10, FIRST + 12, FIRST + 14);
#else
  return __builtin_shufflevector(a, b, FIRST, FIRST + 2, FIRST + 4, FIRST + 6);
#endif
}
FLSP_INLINE Vec even(Vec a, Vec b) { return every_other<0>(a, b); }
FLSP_INLINE Vec odd(Vec a, Vec b) { return every_other<1>(a, b); }

// Lanes whose column, moved by `shift`, lies inside a row.
FLSP_INLINE Index inside(int32_t first, int32_t shift, int32_t width) {
  Index column;
  FLSP_UNROLL for (int i = 0; i < kLanes; i++) column[i] = first + shift + i;
  return (column >= 0) & (column < width);
}

FLSP_INLINE Vec masked(Vec v, Index mask) {
  return reinterpret_cast<Vec>(reinterpret_cast<Index>(v) & mask);
}

// Where a tile's input rows and output pixels lie, in registers: `y` may alias everything.
struct Place {
  ptrdiff_t width, out_width, row, plane;
  Vec low, high, bias;
  const float* residual;
  float* y;
  ptrdiff_t room;  // floats behind y
  FLSP_INLINE_MEMBER Place(const Depthwise& d, int32_t output)
      : width(d.width), out_width(d.out_width), row(d.row), plane(d.plane), low(splat(d.low)),
        high(splat(d.high)), bias(splat(d.bias[output])),
        residual(d.residual ? d.residual + output * d.y_plane : nullptr),
        y(d.y + output * d.y_plane), room(d.y_plane) {}
  FLSP_INLINE_MEMBER void put(ptrdiff_t at, Vec v) const {
    if (residual) v += load(residual + at);
    v = clip(v, low, high);
    if (room - at >= kLanes) return store(y + at, v);
    store_some(y + at, v, static_cast<int>(room - at));
  }
  // The last lanes of a row, `count` of them, of tiles whose rows are written together: pixels of
  // the next row are there already, if rows are longer than a vector. What is read in order to keep
  // them was stored a moment before, which costs more than to store less.
  FLSP_INLINE_MEMBER void put_last(ptrdiff_t at, Vec v, int32_t count) const {
    if (count >= kLanes || out_width <= kLanes) return put(at, v);
    if (residual) v += load(residual + at);
    store_some(y + at, clip(v, low, high), count);
  }
};

// `rows` input rows from `first` on, STRIDE apart, into the copy. Even and odd columns go to
// planes of their own where STRIDE is 2. What a copied row's spare lanes hide is written later:
// rows ascend, and planes have room behind them.
template <int STRIDE>
FLSP_INLINE void copy_rows(const Depthwise& d, int32_t first, int32_t rows, float* to) {
  const ptrdiff_t row = d.row, step = static_cast<ptrdiff_t>(d.width) * STRIDE;
  const int32_t height = d.height, columns = (d.width + STRIDE - 1) / STRIDE;
  const int32_t last = (columns - 1) / kLanes * kLanes, turned = d.pad_left & (STRIDE - 1);
  const Index keep = first_lanes(columns - last);
  const Index keep_odd = first_lanes(d.width / 2 - last);
  float* even_to = to + turned * d.plane + d.pad_left / STRIDE;
  float* odd_to = to + (1 - turned) * d.plane + (d.pad_left + 1) / 2;
  const float* from = d.x + static_cast<ptrdiff_t>(first) * d.width;
  for (int32_t i = 0, h = first; i < rows; i++, h += STRIDE, from += step) {
    float *one = even_to + i * row, *two = odd_to + i * row;
    if (h < 0 || h >= height) {
      for (int32_t c = 0; c <= last; c += kLanes) {
        store(one + c, Vec{});
        if (STRIDE == 2) store(two + c, Vec{});
      }
    } else if (STRIDE == 1) {
      for (int32_t c = 0; c < last; c += kLanes) store(one + c, load(from + c));
      store(one + last, masked(load(from + last), keep));
    } else {
      int32_t c = 0;
      for (; c < last; c += kLanes) {
        const Vec a = load(from + 2 * c), b = load(from + 2 * c + kLanes);
        store(one + c, even(a, b));
        store(two + c, odd(a, b));
      }
      const Vec a = load(from + 2 * c), b = load(from + 2 * c + kLanes);
      store(one + c, masked(even(a, b), keep));
      store(two + c, masked(odd(a, b), keep_odd));
    }
  }
}

template <int STRIDE>
void copy_strip(const Depthwise& d, int32_t top, int32_t rows) {
  const int32_t all = (rows - 1) * STRIDE + d.kernel_h;
  for (int32_t phase = 0; phase < STRIDE; phase++)
    copy_rows<STRIDE>(d, top * STRIDE - d.pad_top + phase, (all - phase + STRIDE - 1) / STRIDE,
                      d.copy + phase * STRIDE * d.plane);
}

// Sums of R output rows that lie `step` floats apart in the copy; TAPS 0: any number.
template <int R, int TAPS>
FLSP_INLINE void any_taps(const Depthwise& d, const float* from, ptrdiff_t step,
                          const float* filter, Vec (&sum)[R]) {
  const int32_t* offset = d.offset;
  const auto add = [&](int32_t t) FLSP_INLINE_LAMBDA {
    const Vec w = splat(filter[t]);
    FLSP_UNROLL for (int r = 0; r < R; r++) sum[r] += w * load(from + offset[t] + r * step);
  };
  if constexpr (TAPS > 0) {
    FLSP_UNROLL for (int32_t t = 0; t < TAPS; t++) add(t);
  } else {
    const int32_t taps = d.kernel_h * d.kernel_w;
    for (int32_t t = 0; t < taps; t++) add(t);
  }
}

// R output rows x one vector of a K x K filter: each input row serves every output row that it
// belongs to. read(j, x) is the input of tap x in row j. One column of the filter is in
// registers at a time.
template <int K, int R, class Weight, class Read>
FLSP_INLINE void square_taps(Weight weight, Read read, Vec (&sum)[R]) {
  FLSP_UNROLL for (int x = 0; x < K; x++) {
    Vec column[K];
    FLSP_UNROLL for (int y = 0; y < K; y++) column[y] = weight(y * K + x);
    FLSP_UNROLL for (int j = 0; j < R + K - 1; j++) {
      const Vec v = read(j, x);
      FLSP_UNROLL for (int r = 0; r < R; r++)
        if (r <= j && j - r < K) sum[r] += column[j - r] * v;
    }
  }
}

// The same for two vectors, which keep both multipliers busy: 192 channels of 28 x 28 pixels take
// 0.75 of the time on AVX2. Sums of 5 x 5 filters do not fit the registers twice.
template <int K, int R, class Weight, class Read>
FLSP_INLINE void square_taps_twice(Weight weight, Read read, Vec (&sum)[2][R]) {
  FLSP_UNROLL for (int x = 0; x < K; x++) {
    Vec column[K];
    FLSP_UNROLL for (int y = 0; y < K; y++) column[y] = weight(y * K + x);
    FLSP_UNROLL for (int j = 0; j < R + K - 1; j++)
      FLSP_UNROLL for (int i = 0; i < 2; i++) {
        const Vec v = read(j, x, i);
        FLSP_UNROLL for (int r = 0; r < R; r++)
          if (r <= j && j - r < K) sum[i][r] += column[j - r] * v;
      }
  }
}

// A filter's taps: in registers where they fit.
template <int K>
struct Taps {
  static constexpr bool kept = K == 3 && kMaxDense >= 4;
  const float* at;
  Vec value[kept ? K * K : 1];
  FLSP_INLINE_MEMBER explicit Taps(const float* filter) : at(filter) {
    if (kept) FLSP_UNROLL for (int i = 0; i < K * K; i++) value[kept ? i : 0] = splat(filter[i]);
  }
  FLSP_INLINE_MEMBER Vec operator()(int i) const { return kept ? value[kept ? i : 0] : splat(at[i]); }
};

// Calls tile(rows, first row) for `rows` rows from `top` on, the most rows of a tile at a time.
template <class Tile>
FLSP_INLINE void each_tile(int32_t top, int32_t rows, Tile tile) {
  int32_t r = top;
  for (; r + kRows <= top + rows; r += kRows) tile(Count<kRows>{}, r);
  for (; r + 2 <= top + rows; r += 2) tile(Count<2>{}, r);
  for (; r < top + rows; r++) tile(Count<1>{}, r);
}

// Rows of the copy. Vectors of an output row end with it, or spill into the next one.
template <int K>
void strip_rows(const Depthwise& d, int32_t output, int32_t top, int32_t rows) {
  const Place p(d, output);
  const float* filter = d.filters + output * d.kernel_h * d.kernel_w;
  const Taps<K == 0 ? 1 : K> taps(filter);
  const float* copy = d.copy;
  each_tile(top, rows, [&](auto count, int32_t row) FLSP_INLINE_LAMBDA {
    constexpr int R = decltype(count)::value;
    const float* first = copy + (row - top) * p.row;
    ptrdiff_t w = 0;
    if constexpr (K == 3 && kLanes < 16)  // rows here are hardly as long as two vectors of 16
      for (; w + 2 * kLanes <= p.out_width; w += 2 * kLanes) {
        const float* from = first + w;
        Vec sum[2][R];
        FLSP_UNROLL for (int r = 0; r < R; r++) sum[0][r] = sum[1][r] = p.bias;
        square_taps_twice<K, R>(taps, [&](int j, int x, int i) FLSP_INLINE_LAMBDA {
          return load(from + j * p.row + x + i * kLanes);
        }, sum);
        FLSP_UNROLL for (int i = 0; i < 2; i++)
          FLSP_UNROLL for (int r = 0; r < R; r++)
            p.put((row + r) * p.out_width + w + i * kLanes, sum[i][r]);
      }
    for (; w < p.out_width; w += kLanes) {
      const ptrdiff_t column = w + kLanes <= p.out_width || p.out_width < kLanes ? w : p.out_width - kLanes;
      const float* from = first + column;
      Vec sum[R];
      FLSP_UNROLL for (int r = 0; r < R; r++) sum[r] = p.bias;
      if constexpr (K == 0) {
        any_taps<R, 0>(d, from, p.row, filter, sum);
      } else {
        square_taps<K, R>(taps, [&](int j, int x) FLSP_INLINE_LAMBDA {
          return load(from + j * p.row + x);
        }, sum);
      }
      FLSP_UNROLL for (int r = 0; r < R; r++) p.put((row + r) * p.out_width + column, sum[r]);
    }
  });
}

// A K x K filter of stride 1 on the plane itself: columns outside it are masked, rows outside
// it are read from zeros.
template <int K>
void plane_rows(const Depthwise& d, int32_t output) {
  const Place p(d, output);
  const Taps<K> taps(d.filters + output * d.kernel_h * d.kernel_w);
  const int32_t height = d.height, pad_top = d.pad_top, pad_left = d.pad_left, width = d.width;
  const float *plane = d.x, *zeros = d.copy + kLanes;
  each_tile(0, d.out_height, [&](auto count, int32_t row) FLSP_INLINE_LAMBDA {
    constexpr int R = decltype(count)::value;
    const float* from[R + K - 1];
    FLSP_UNROLL for (int j = 0; j < R + K - 1; j++) {
      const int32_t h = row - pad_top + j;
      from[j] = h >= 0 && h < height ? plane + h * p.width : zeros;
    }
    for (int32_t w = 0; w < p.out_width; w += kLanes) {
      if constexpr (K == 3) {
        const int32_t first = w - pad_left;
        if (first >= 0 && first + K - 1 + 2 * kLanes <= width && w + 2 * kLanes <= p.out_width) {
          Vec sum[2][R];
          FLSP_UNROLL for (int r = 0; r < R; r++) sum[0][r] = sum[1][r] = p.bias;
          square_taps_twice<K, R>(taps, [&](int j, int x, int i) FLSP_INLINE_LAMBDA {
            return load(from[j] + first + x + i * kLanes);
          }, sum);
          FLSP_UNROLL for (int i = 0; i < 2; i++)
            FLSP_UNROLL for (int r = 0; r < R; r++)
              p.put((row + r) * p.out_width + w + i * kLanes, sum[i][r]);
          w += kLanes;
          continue;
        }
      }
      const int32_t column = w + kLanes <= p.out_width || p.out_width < kLanes
                                 ? w : static_cast<int32_t>(p.out_width) - kLanes;
      const int32_t first = column - pad_left;
      Vec sum[R];
      FLSP_UNROLL for (int r = 0; r < R; r++) sum[r] = p.bias;
      if (first >= 0 && first + K - 1 + kLanes <= width) {
        square_taps<K, R>(taps, [&](int j, int x) FLSP_INLINE_LAMBDA {
          return load(from[j] + first + x);
        }, sum);
      } else {
        Index mask[K];
        FLSP_UNROLL for (int x = 0; x < K; x++) mask[x] = inside(first, x, width);
        square_taps<K, R>(taps, [&](int j, int x) FLSP_INLINE_LAMBDA {
          return masked(load(from[j] + first + x), mask[x]);
        }, sum);
      }
      FLSP_UNROLL for (int r = 0; r < R; r++) p.put((row + r) * p.out_width + column, sum[r]);
    }
  });
}

// A plane whose rows are shorter than half a vector: one vector holds pixels of several.
template <int TAPS>
void flat_plane(const Depthwise& d, int32_t output) {
  const float* filter = d.filters + output * d.kernel_h * d.kernel_w;
  const int32_t all = (d.out_height - 1) * d.row + d.out_width;
  const Place p(d, output);
  float* line = d.line;
  for (int32_t i = 0; i < all; i += kRows * kLanes) {
    Vec sum[kRows];
    FLSP_UNROLL for (int r = 0; r < kRows; r++) sum[r] = p.bias;
    any_taps<kRows, TAPS>(d, d.copy + i, kLanes, filter, sum);
    FLSP_UNROLL for (int r = 0; r < kRows; r++) store(line + i + r * kLanes, sum[r]);
  }
  const int32_t height = d.out_height;
  for (int32_t r = 0; r < height; r++) p.put(r * p.out_width, load(line + r * p.row));
}

template <int STRIDE>
void depthwise_copied(const Depthwise& d) {
  for (int32_t top = 0; top < d.out_height; top += d.strip) {
    const int32_t rows = top + d.strip < d.out_height ? d.strip : d.out_height - top;
    copy_strip<STRIDE>(d, top, rows);
    for (int32_t o = 0; o < d.outputs; o++) {
      if (d.flat) {
        if (d.kernel_h * d.kernel_w == 9) flat_plane<9>(d, o);
        else if (d.kernel_h * d.kernel_w == 25) flat_plane<25>(d, o);
        else flat_plane<0>(d, o);
      } else if (STRIDE == 1 && d.kernel_h == 3 && d.kernel_w == 3) {
        strip_rows<3>(d, o, top, rows);
      } else if (STRIDE == 1 && d.kernel_h == 5 && d.kernel_w == 5) {
        strip_rows<5>(d, o, top, rows);
      } else {
        strip_rows<0>(d, o, top, rows);
      }
    }
  }
}

}  // namespace
}  // namespace flsp

#endif
