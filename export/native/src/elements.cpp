// Operations on values and shapes: loops over channels, which a compiler vectorises.
#include "elements.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fast_exp.h"

namespace flsp {
namespace {

struct Side {
  const Buffer& buffer;
  float* data;
  float* channel(int64_t c) const { return data + c * buffer.plane(); }
  float* row(int64_t c, int64_t h) const { return channel(c) + h * buffer.width; }
};

struct Call {
  const OpRecord& o;
  const Weight& weight;
  Side in, second, out;
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

template <class F>
void pairs(const Call& a, F function) {
  const int64_t pixels = a.in.buffer.pixels();
  const int32_t width = a.in.buffer.width;
  const float low = a.o.low, high = a.o.high;
  const auto kept = [low, high](float v) { return std::min(std::max(v, low), high); };
  for (int32_t c = 0; c < a.in.buffer.channels; c++) {
    const float* x = a.in.channel(c);
    float* y = a.out.channel(c);
    switch (a.o.extra / 16) {
      case kEach:
      case kPerPixel: {
        const float* z = a.second.channel(a.o.extra / 16 == kEach ? c : 0);
        for (int64_t i = 0; i < pixels; i++) y[i] = kept(function(x[i], z[i]));
        break;
      }
      case kPerChannel: {
        const float z = a.second.channel(c)[0];
        for (int64_t i = 0; i < pixels; i++) y[i] = kept(function(x[i], z));
        break;
      }
      default: {
        const float* z = a.second.channel(0);
        for (int64_t i = 0; i < pixels; i += width)
          for (int32_t w = 0; w < width; w++) y[i + w] = kept(function(x[i + w], z[w]));
      }
    }
  }
}

void binary(const Call& a) {
  switch (a.o.extra % 16) {
    case kPlus: return pairs(a, [](float x, float z) { return x + z; });
    case kMinus: return pairs(a, [](float x, float z) { return x - z; });
    case kTimes: return pairs(a, [](float x, float z) { return x * z; });
    case kOver: return pairs(a, [](float x, float z) { return x / z; });
    case kLeast: return pairs(a, [](float x, float z) { return std::min(x, z); });
    case kMost: return pairs(a, [](float x, float z) { return std::max(x, z); });
    case kFromSecond: return pairs(a, [](float x, float z) { return z - x; });
    default: return pairs(a, [](float x, float z) { return z / x; });
  }
}

float gelu_tanh(float v) {
  return v * sigmoid(1.5957691216f * (v + 0.044715f * v * v * v));
}

float softplus(float v) { return v > 20 ? v : std::log1p(std::exp(v)); }

void function(const Call& a) {
  switch (a.o.extra) {
    case kSilu: return each(a, [](float v) { return v * sigmoid(v); });
    case kGelu:
      return each(a, [](float v) { return 0.5f * v * (1.0f + erf_of(v * 0.70710678f)); });
    case kGeluTanh: return each(a, gelu_tanh);
    case kElu: return each(a, [](float v) { return v > 0 ? v : std::expm1(v); });
    case kSoftplus: return each(a, softplus);
    case kMish: return each(a, [](float v) { return v * std::tanh(softplus(v)); });
    case kExp: return each(a, exp_of);
    case kLog: return each(a, [](float v) { return std::log(v); });
    case kSqrt: return each(a, [](float v) { return std::sqrt(v); });
    case kAbs: return each(a, [](float v) { return std::fabs(v); });
    case kSquare: return each(a, [](float v) { return v * v; });
    case kReciprocal: return each(a, [](float v) { return 1.0f / v; });
    default: return each(a, erf_of);
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
  const Side &small = spread ? a.in : a.out, &large = spread ? a.out : a.in;
  for (int32_t c = 0; c < small.buffer.channels; c++) {
    if (spread) std::fill_n(large.channel(c), large.buffer.pixels(), 0.0f);
    for (int32_t h = 0; h < small.buffer.height; h++) {
      float* one = small.row(c, h);
      float* many = large.row(c, int64_t{h} * a.o.stride_h + a.o.pad_top) + a.o.pad_left;
      for (int32_t w = 0; w < small.buffer.width; w++)
        (spread ? many[int64_t{w} * a.o.stride_w] : one[w]) =
            spread ? one[w] : many[int64_t{w} * a.o.stride_w];
    }
  }
}

void transpose(const Call& a) {
  const Buffer& in = a.in.buffer;
  const int64_t step[] = {in.plane(), in.width, 1};
  const int* axes = kAxes[a.o.extra];
  const int64_t along = step[axes[2]];
  for (int32_t c = 0; c < a.out.buffer.channels; c++)
    for (int32_t h = 0; h < a.out.buffer.height; h++) {
      const float* x = a.in.data + c * step[axes[0]] + h * step[axes[1]];
      float* y = a.out.row(c, h);
      for (int32_t w = 0; w < a.out.buffer.width; w++) y[w] = x[w * along];
    }
}

void reshape(const Call& a) {
  const int64_t from = a.in.buffer.pixels(), to = a.out.buffer.pixels();
  int64_t at = 0;
  for (int32_t c = 0; c < a.out.buffer.channels; c++)
    for (int64_t i = 0; i < to;) {
      const int64_t count = std::min(to - i, from - at % from);
      std::memcpy(a.out.channel(c) + i, a.in.channel(at / from) + at % from,
                  count * sizeof(float));
      i += count;
      at += count;
    }
}

void matmul(const Call& a) {
  const int32_t width = a.out.buffer.width;
  for (int32_t c = 0; c < a.out.buffer.channels; c++)
    for (int32_t h = 0; h < a.out.buffer.height; h++) {
      const float* x = a.in.row(c, h);
      float* y = a.out.row(c, h);
      std::fill_n(y, width, 0.0f);
      for (int32_t k = 0; k < a.in.buffer.width; k++) {
        const float factor = x[k];
        const float* z = a.second.row(c, k);
        for (int32_t w = 0; w < width; w++) y[w] += factor * z[w];
      }
      for (int32_t w = 0; w < width; w++) y[w] = std::min(std::max(y[w], a.o.low), a.o.high);
    }
}

// Calls use(row of in, row of out) for every row.
template <class Use>
void rows(const Call& a, Use use) {
  for (int32_t c = 0; c < a.in.buffer.channels; c++)
    for (int32_t h = 0; h < a.in.buffer.height; h++) use(a.in.row(c, h), a.out.row(c, h));
}

void softmax_row(const Call& a) {
  const int32_t n = a.in.buffer.width;
  rows(a, [n](const float* x, float* y) {
    const float top = *std::max_element(x, x + n);
    for (int32_t i = 0; i < n; i++) y[i] = exp_of(x[i] - top);
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += y[i];
    const auto over = static_cast<float>(1.0 / sum);
    for (int32_t i = 0; i < n; i++) y[i] *= over;
  });
}

void normalize(const Call& a) {
  const int32_t n = a.in.buffer.width;
  const double epsilon = a.o.low;
  rows(a, [n, epsilon](const float* x, float* y) {
    double sum = 0, squares = 0;
    for (int32_t i = 0; i < n; i++) sum += x[i];
    const double mean = sum / n;
    for (int32_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    const double over = 1.0 / std::sqrt(squares / n + epsilon);
    for (int32_t i = 0; i < n; i++) y[i] = static_cast<float>((x[i] - mean) * over);
  });
}

void column_affine(const Call& a) {
  const int32_t n = a.in.buffer.width;
  const auto* scale = static_cast<const float*>(a.weight.values.at);
  rows(a, [&](const float* x, float* y) {
    for (int32_t i = 0; i < n; i++)
      y[i] = std::min(std::max(x[i] * scale[i] + a.weight.bias[i], a.o.low), a.o.high);
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
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += x[i];
    const double found = kind == kSum    ? sum
                         : kind == kMean ? sum / n
                         : kind == kLargest
                             ? *std::max_element(x, x + n)
                             : *std::min_element(x, x + n);
    y[0] = std::min(std::max(static_cast<float>(found), a.o.low), a.o.high);
  });
}

}  // namespace

void run_element(const Model& model, const Op& op, float* arena) {
  const OpRecord& o = op.record;
  const auto side = [&](int32_t index) {
    const Buffer& buffer = model.buffers[index];
    return Side{buffer, arena + buffer.offset};
  };
  const Call a{o, op.weight, side(o.in), side(o.in2 < 0 ? o.in : o.in2), side(o.out)};
  switch (o.kind) {
    case kBinary: return binary(a);
    case kFunction: return function(a);
    case kSlope: return slope(a);
    case kTake: return take(a);
    case kUpsample: return upsample(a);
    case kSpread:
    case kCrop: return grid(a);
    case kTranspose: return transpose(a);
    case kReshape: return reshape(a);
    case kMatMul: return matmul(a);
    case kSoftmaxRow: return softmax_row(a);
    case kNormalize: return normalize(a);
    case kColumnAffine: return column_affine(a);
    default: return reduce_row(a);
  }
}

}  // namespace flsp
