// Operations on values and shapes: which kernel runs over which of their values.
#include "elements.h"
#include "layers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace flsp {
namespace {

template <class T>
struct Side {
  const Buffer& buffer;
  T* data;
  T* channel(int64_t c) const { return data + c * buffer.plane(); }
  T* row(int64_t c, int64_t h) const { return channel(c) + h * buffer.width; }
};

struct Call {
  const OpRecord& o;
  const Weight& weight;
  const Kernels& kernels;
  Side<const float> in, second;
  Side<float> out;
};

// y = clip(f(x, second)) of every value; `next` is what the second input moves by.
template <class F>
void each(const Call& a, F function) {
  const int64_t pixels = a.in.buffer.pixels();
  const float low = a.o.low, high = a.o.high;
  for (int32_t c = 0; c < a.in.buffer.channels; c++) {
    const float* x = a.in.channel(c);
    float* y = a.out.channel(c);
    for (int64_t i = 0; i < pixels; i++)
      y[i] = std::min(std::max(function(x[i]), low), high);
  }
}

// What no kernel has, of each value with z[0] or with z[i].
template <class F>
void paired(const Call& a, const float* x, const float* z, bool one, float* y, int64_t n,
            F function) {
  const float low = a.o.low, high = a.o.high;
  for (int64_t i = 0; i < n; i++)
    y[i] = std::min(std::max(function(x[i], z[one ? 0 : i]), low), high);
}

// Of whole numbers that float32 has all of; 0 of what is none.
float bits_of_both(float v, float w) {
  const auto whole = [](float x) { return std::fabs(x) < 0x1p31f ? static_cast<int64_t>(x) : 0; };
  return static_cast<float>(whole(v) & whole(w));
}

void compared(const Call& a, const float* x, const float* z, bool one, float* y, int64_t n) {
  const auto all = [&](auto f) { paired(a, x, z, one, y, n, f); };
  switch (binary_of(a.o)) {
    case kPower: return all([](float v, float w) { return std::pow(v, w); });
    case kAbove: return all([](float v, float w) { return v > w ? 1.0f : 0.0f; });
    case kAtLeast: return all([](float v, float w) { return v >= w ? 1.0f : 0.0f; });
    case kBelow: return all([](float v, float w) { return v < w ? 1.0f : 0.0f; });
    case kAtMost: return all([](float v, float w) { return v <= w ? 1.0f : 0.0f; });
    case kEqual: return all([](float v, float w) { return v == w ? 1.0f : 0.0f; });
    case kKeep: return all([](float v, float w) { return w != 0 ? v : 0.0f; });
    case kBitAnd: return all(bits_of_both);
    default: return all([](float v, float w) { return w == 0 ? v : 0.0f; });
  }
}

void binary(const Call& a) {
  static_assert(kPairPlus == int{kPlus} && kPairUnderSecond == int{kUnderSecond}, "one order");
  const int32_t function = binary_of(a.o), spread = spread_of(a.o);
  const int64_t pixels = a.in.buffer.pixels(), width = a.in.buffer.width;
  const auto run = [&](const float* x, const float* z, bool one, float* y, int64_t n) {
    if (function > kUnderSecond) return compared(a, x, z, one, y, n);
    a.kernels.pairs(function, x, z, one, y, n, a.o.low, a.o.high);
  };
  if (spread == kEach)  // planes lie behind each other
    return run(a.in.data, a.second.data, false, a.out.data, a.in.buffer.floats());
  for (int32_t c = 0; c < a.in.buffer.channels; c++) {
    const float* x = a.in.channel(c);
    float* y = a.out.channel(c);
    if (spread == kPerChannel) {
      run(x, a.second.channel(c), true, y, pixels);
    } else if (spread == kPerPixel) {
      run(x, a.second.channel(0), false, y, pixels);
    } else {
      for (int64_t i = 0; i < pixels; i += width) run(x + i, a.second.data, false, y + i, width);
    }
  }
}

void mapped(const Call& a, Mapped function) {
  a.kernels.map(function, a.in.data, a.out.data, a.in.buffer.floats(), a.o.low, a.o.high);
}

float softplus(float v) { return v > 20 ? v : std::log1p(std::exp(v)); }

void function(const Call& a) {
  switch (a.o.extra) {
    case kSilu: return mapped(a, kMapSilu);
    case kGelu: return mapped(a, kMapGelu);
    case kGeluTanh: return mapped(a, kMapGeluTanh);
    case kElu: return each(a, [](float v) { return v > 0 ? v : std::expm1(v); });
    case kSoftplus: return each(a, softplus);
    case kMish: return each(a, [](float v) { return v * std::tanh(softplus(v)); });
    case kExp: return mapped(a, kMapExp);
    case kLog: return each(a, [](float v) { return std::log(v); });
    case kSqrt: return each(a, [](float v) { return std::sqrt(v); });
    case kAbs: return each(a, [](float v) { return std::fabs(v); });
    case kSquare: return each(a, [](float v) { return v * v; });
    case kReciprocal: return each(a, [](float v) { return 1.0f / v; });
    case kSin: return each(a, [](float v) { return std::sin(v); });
    case kCos: return each(a, [](float v) { return std::cos(v); });
    case kTan: return each(a, [](float v) { return std::tan(v); });
    case kSign: return each(a, [](float v) { return float(v > 0) - float(v < 0); });
    case kFloor: return each(a, [](float v) { return std::floor(v); });
    case kCeil: return each(a, [](float v) { return std::ceil(v); });
    case kRound: return each(a, [](float v) { return std::nearbyint(v); });  // halves to even
    case kWhole: return each(a, [](float v) { return std::trunc(v); });
    case kAsin: return each(a, [](float v) { return std::asin(v); });
    case kAcos: return each(a, [](float v) { return std::acos(v); });
    case kAtan: return each(a, [](float v) { return std::atan(v); });
    case kSinh: return each(a, [](float v) { return std::sinh(v); });
    case kCosh: return each(a, [](float v) { return std::cosh(v); });
    case kAsinh: return each(a, [](float v) { return std::asinh(v); });
    case kAcosh: return each(a, [](float v) { return std::acosh(v); });
    case kAtanh: return each(a, [](float v) { return std::atanh(v); });
    case kNotNumber: return each(a, [](float v) { return std::isnan(v) ? 1.0f : 0.0f; });
    default: return mapped(a, kMapErf);
  }
}

void take(const Call& a) {
  const int32_t per = a.out.buffer.channels / a.o.groups;
  for (int32_t c = 0; c < a.out.buffer.channels; c++)
    std::memcpy(a.out.channel(c), a.in.channel(a.o.extra + c % a.o.groups * per + c / a.o.groups),
                a.out.buffer.pixels() * sizeof(float));
}

void upsample(const Call& a) {
  const Buffer& out = a.out.buffer;
  for (int32_t c = 0; c < out.channels; c++)
    for (int32_t h = 0; h < out.height; h++) {
      float* y = a.out.row(c, h);
      if (h % a.o.stride_h) {
        std::memcpy(y, y - out.width, out.width * sizeof(float));
        continue;
      }
      const float* x = a.in.row(c, h / a.o.stride_h);
      for (int32_t w = 0; w < a.in.buffer.width; w++)
        for (int32_t k = 0; k < a.o.stride_w; k++) *y++ = x[w];
    }
}

// Copies pixels between a small image and their places in a large one.
void grid(const Call& a) {
  const bool spread = a.o.kind == kSpread;
  const Buffer& small = spread ? a.in.buffer : a.out.buffer;
  for (int32_t c = 0; c < small.channels; c++) {
    if (spread) std::fill_n(a.out.channel(c), a.out.buffer.pixels(), 0.0f);
    for (int32_t h = 0; h < small.height; h++) {
      const int64_t row = int64_t{h} * a.o.stride_h + a.o.pad_top;
      const float* from = spread ? a.in.row(c, h) : a.in.row(c, row) + a.o.pad_left;
      float* to = spread ? a.out.row(c, row) + a.o.pad_left : a.out.row(c, h);
      const int64_t step = spread ? 1 : a.o.stride_w, to_step = spread ? a.o.stride_w : 1;
      for (int64_t w = 0; w < small.width; w++) to[w * to_step] = from[w * step];
    }
  }
}

void transpose(const Call& a) {
  const Buffer &in = a.in.buffer, &out = a.out.buffer;
  const int64_t step[] = {in.plane(), in.width, 1}, to[] = {out.plane(), out.width, 1};
  const int32_t size[] = {in.channels, in.height, in.width};
  const int* axes = kAxes[a.o.extra];
  if (axes[0] == 1 && in.width == 1)  // rows of one value: channels become rows, and rows channels
    return a.kernels.transpose(a.in.data, in.plane(), a.out.data, out.plane(), in.channels, in.height);
  if (axes[2] == 2) {  // rows stay rows
    for (int32_t c = 0; c < out.channels; c++)
      for (int32_t h = 0; h < out.height; h++)
        std::memcpy(a.out.row(c, h), a.in.data + c * step[axes[0]] + h * step[axes[1]],
                    out.width * sizeof(float));
    return;
  }
  // The input's columns become axis `turned` of the output, its columns axis[2] of the input.
  const int turned = axes[0] == 2 ? 0 : 1, other = 1 - turned;
  for (int32_t k = 0; k < size[axes[other]]; k++)
    a.kernels.transpose(a.in.data + k * step[axes[other]], step[axes[2]],
                        a.out.data + k * to[other], to[turned], size[axes[2]], in.width);
}

// Rows that lie behind each other on both sides, or a block that is turned, for each place of the
// two axes that are left.
void view(const Call& a) {
  ViewAxes axes(a.o, a.out.buffer);
  Axis(&d)[4] = axes.axis;
  // Axes of one value go first, as those that lie behind each other are one; the last one that
  // is left lies densely in the output.
  for (int i = 3; i > 0; i--)
    if (d[i - 1].from == d[i].size * d[i].from && d[i - 1].to == d[i].size * d[i].to) {
      d[i - 1] = {d[i - 1].size * d[i].size, d[i].from, d[i].to};
      d[i] = {1, 0, 0};
    }
  for (int i = 0; i < 4; i++)
    if (d[i].size == 1) std::rotate(d, d + i, d + i + 1);
  int turned = 2;  // the axis that lies densely in the input, if it is not the last
  for (int i = 0; i < 3; i++)
    if (d[i].size > 1 && d[i].from == 1) turned = i;
  const bool rows = d[3].from == 1 || d[3].size == 1;
  if (!rows) std::swap(d[2], d[turned]);
  const bool turns = !rows && d[2].from == 1 && d[3].to == 1;
  const float* from = a.in.data + a.o.extra;
  const float factor = a.o.input_scale, none = 0.0f;
  const auto scaled = [&](float* y, int64_t n) {
    if (factor != 0) a.kernels.scale(y, &factor, &none, true, y, n, a.o.low, a.o.high);
  };
  for (int32_t i = 0; i < d[0].size; i++)
    for (int32_t j = 0; j < d[1].size; j++) {
      const float* x = from + i * d[0].from + j * d[1].from;
      float* y = a.out.data + i * d[0].to + j * d[1].to;
      if (turns) {
        a.kernels.transpose(x, d[3].from, y, d[2].to, d[3].size, d[2].size);
        for (int32_t k = 0; k < d[2].size; k++) scaled(y + k * d[2].to, d[3].size);
        continue;
      }
      for (int32_t k = 0; k < d[2].size; k++) {
        const float* row = x + k * d[2].from;
        float* to = y + k * d[2].to;
        if (rows && d[3].to == 1) {
          std::memcpy(to, row, d[3].size * sizeof(float));
          scaled(to, d[3].size);
          continue;
        }
        for (int32_t l = 0; l < d[3].size; l++)
          to[l * d[3].to] = row[l * d[3].from] * (factor != 0 ? factor : 1.0f);
      }
    }
}

void reshape(const Call& a) {
  const auto run = [](const Buffer& b) {  // values that lie without a gap
    return b.plane() == b.pixels() ? b.channels * b.pixels() : b.pixels();
  };
  const int64_t from = run(a.in.buffer), to = run(a.out.buffer);
  const int64_t all = a.in.buffer.channels * a.in.buffer.pixels();
  for (int64_t at = 0; at < all;) {
    const int64_t count = std::min(to - at % to, from - at % from);
    std::memcpy(a.out.channel(at / to) + at % to, a.in.channel(at / from) + at % from,
                count * sizeof(float));
    at += count;
  }
}

void matmul(const Call& a) {
  for (int32_t c = 0; c < a.out.buffer.channels; c++)
    a.kernels.product({a.in.channel(c), a.second.channel(c), a.out.channel(c), a.in.buffer.height,
                       a.in.buffer.width, a.out.buffer.width, a.in.buffer.width,
                       a.second.buffer.width, a.out.buffer.width, a.o.low, a.o.high});
}

// Calls use(row of in, row of out) for every row.
template <class Use>
void rows(const Call& a, Use use) {
  for (int32_t c = 0; c < a.in.buffer.channels; c++)
    for (int32_t h = 0; h < a.in.buffer.height; h++) use(a.in.row(c, h), a.out.row(c, h));
}

void softmax_row(const Call& a) {
  rows(a, [&](const float* x, float* y) { a.kernels.softmax(x, y, a.in.buffer.width); });
}

void normalize(const Call& a) {
  rows(a, [&](const float* x, float* y) {
    a.kernels.normal(x, y, a.in.buffer.width, a.o.low);
  });
}

void column_affine(const Call& a) {
  const auto* scale = static_cast<const float*>(a.weight.values.at);
  rows(a, [&](const float* x, float* y) {
    a.kernels.scale(x, scale, a.weight.bias, false, y, a.in.buffer.width, a.o.low, a.o.high);
  });
}

void slope(const Call& a) {
  const auto* factors = static_cast<const float*>(a.weight.values.at);
  for (int32_t c = 0; c < a.in.buffer.channels; c++) {
    const float* x = a.in.channel(c);
    float* y = a.out.channel(c);
    const float factor = factors[c];
    for (int64_t i = 0; i < a.in.buffer.pixels(); i++) {
      const float v = x[i] < 0 ? x[i] * factor : x[i];
      y[i] = std::min(std::max(v, a.o.low), a.o.high);
    }
  }
}

void reduce_row(const Call& a) {
  const int32_t n = a.in.buffer.width, kind = a.o.extra;
  rows(a, [&](const float* x, float* y) {
    const double found = kind == kSum       ? a.kernels.sum(x, n)
                         : kind == kMean    ? a.kernels.sum(x, n) / n
                         : kind == kLargest ? *std::max_element(x, x + n)
                         : kind == kSmallest ? *std::min_element(x, x + n)
                         : kind == kWhereMost ? std::max_element(x, x + n) - x
                                              : std::min_element(x, x + n) - x;
    y[0] = std::min(std::max(static_cast<float>(found), a.o.low), a.o.high);
  });
}

// Whether v comes before w; what is not a number is larger than all numbers, as in torch.
bool before(float v, float w, bool largest) {
  if (std::isnan(v) || std::isnan(w)) return largest ? std::isnan(v) && !std::isnan(w)
                                                     : std::isnan(w) && !std::isnan(v);
  return largest ? v > w : v < w;
}

// The first k of a row's n values, or places of values. The heap of those found so far, the last
// of them on top, is the output itself: nothing is allocated.
template <class Value, class Before>
void sort_row(float* y, int32_t k, int32_t n, Value value, Before comes_before) {
  for (int32_t i = 0; i < n; i++) {
    const float v = value(i);
    if (i < k) {
      y[i] = v;
      std::push_heap(y, y + i + 1, comes_before);
    } else if (comes_before(v, y[0])) {
      std::pop_heap(y, y + k, comes_before);
      y[k - 1] = v;
      std::push_heap(y, y + k, comes_before);
    }
  }
  std::sort_heap(y, y + k, comes_before);
}

void sort_rows(const Call& a) {
  const int32_t k = a.out.buffer.width, n = a.in.buffer.width;
  const bool largest = a.o.extra == kLargestFirst || a.o.extra == kWhereLargest;
  const bool places = a.o.extra == kWhereLargest || a.o.extra == kWhereSmallest;
  rows(a, [&](const float* x, float* y) {
    if (!places)
      return sort_row(y, k, n, [&](int32_t i) { return x[i]; },
                      [&](float v, float w) { return before(v, w, largest); });
    sort_row(y, k, n, [](int32_t i) { return static_cast<float>(i); }, [&](float i, float j) {
      const float v = x[static_cast<int32_t>(i)], w = x[static_cast<int32_t>(j)];
      return before(v, w, largest) || (!before(w, v, largest) && i < j);
    });
  });
}

// Rows of a table by their numbers. A number that it has no row for is not a mistake of the
// file but of the inputs: what it gives is not a number, so nobody takes it for an answer.
void look_up(const Call& a) {
  const Weight& w = a.weight;
  for (int32_t c = 0; c < a.out.buffer.channels; c++) {
    const float given = *a.in.channel(c);
    float* y = a.out.channel(c);
    if (!(given >= 0 && given < static_cast<float>(w.rows))) {
      std::fill_n(y, w.columns, std::numeric_limits<float>::quiet_NaN());
      continue;
    }
    const auto row = static_cast<int64_t>(given);
    if (w.encoding == kRows) {
      for (int32_t i = 0; i < w.columns; i++) y[i] = value_of(w, row * w.columns + i, row);
      continue;
    }
    std::fill_n(y, w.columns, 0.0f);
    int64_t column = 0;
    for (int32_t i = w.start[row]; i < w.start[row + 1]; i++) {
      column += w.gaps[i];
      y[column] = value_of(w, i, row);
    }
  }
}

}  // namespace

void run_element(const Op& op, const Workspace& space) {
  const OpRecord& o = op.record;
  const std::vector<Buffer>& buffers = space.model.buffers;
  const int32_t second = o.in2 < 0 ? o.in : o.in2;
  const Call a{o, op.weight, *space.model.kernels, {buffers[o.in], space.from(o.in).at},
               {buffers[second], space.from(second).at}, {buffers[o.out], space.to(o.out).at}};
  switch (o.kind) {
    case kBinary: return binary(a);
    case kFunction: return function(a);
    case kSlope: return slope(a);
    case kTake: return take(a);
    case kUpsample: return upsample(a);
    case kSpread:
    case kCrop: return grid(a);
    case kTranspose: return transpose(a);
    case kView: return view(a);
    case kReshape: return reshape(a);
    case kMatMul: return matmul(a);
    case kSoftmaxRow: return softmax_row(a);
    case kNormalize: return normalize(a);
    case kColumnAffine: return column_affine(a);
    case kLookUp: return look_up(a);
    case kSortRow: return sort_rows(a);
    case kPick: return run_pick(a.in.buffer, a.second.buffer, a.out.buffer, space.arena);
    case kPut: return run_put(a.in.buffer, a.second.buffer, a.out.buffer, o.extra == 1, space.arena);
    default: return reduce_row(a);
  }
}

}  // namespace flsp
