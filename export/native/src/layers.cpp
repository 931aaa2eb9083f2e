// Every layer but convolutions.
#include "layers.h"

#include "elements.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace flsp {

void run_conv(const Model& model, const Op& op, const Workspace& space);
void run_recurrent(const Model& model, const Op& op, const Workspace& space);

namespace {

template <class T>
struct View {
  const Buffer& buffer;
  T* data;
  int64_t step;
  View(const Buffer& b, Planes<T> p) : buffer(b), data(p.at), step(p.step) {}
  T* channel(int64_t c) const { return data + c * step; }
};

struct Args {
  const Op& op;
  View<const float> in;
  View<float> out;
  const float* second;  // in2 or null
  const Workspace& space;
  const Kernels& kernels;
};

float clip(float v, const OpRecord& o) { return std::min(std::max(v, o.low), o.high); }

void compact(const View<const float>& in, float* out) {
  const int64_t pixels = in.buffer.pixels();
  for (int32_t c = 0; c < in.buffer.channels; c++)
    std::memcpy(out + c * pixels, in.channel(c), pixels * sizeof(float));
}

void run_linear(const Args& a) {
  const Weight& w = a.op.weight;
  const OpRecord& o = a.op.record;
  const float* x = a.in.data;
  if (a.in.buffer.plane() != a.in.buffer.pixels()) {
    compact(a.in, a.space.source);
    x = a.space.source;
  }
  const Rows rows{w.values, w.gaps, w.start.data(), w.columns, w.bias};
  const WindowPlan& p = a.op.windows;
  const WindowRows steps = p.rows();
  const bool windows = !p.start.empty();
  const int32_t units = windows ? static_cast<int32_t>(p.start.size()) - 1 : w.rows;
  // Below some 20 microseconds of work a second thread costs more than it saves.
  const int parts = w.entries < 20000 ? 1 : std::min<int>(units, a.space.pool->threads() * 2);
  const float infinity = std::numeric_limits<float>::infinity();
  const float low = a.second ? -infinity : o.low, high = a.second ? infinity : o.high;
  a.space.pool->each(parts, [&](int part, int) {
    int32_t begin = static_cast<int32_t>(int64_t{units} * part / parts);
    int32_t end = static_cast<int32_t>(int64_t{units} * (part + 1) / parts);
    if (windows) {
      a.kernels.linear_window(x, a.out.data, steps, w.bias, begin, end, w.rows, low, high);
      begin *= kWindowRows;
      end = std::min(w.rows, end * kWindowRows);
    } else {
      a.kernels.linear[w.values.scale ? 1 : 0](x, a.out.data, rows, begin, end, low, high);
    }
    if (a.second)
      for (int32_t r = begin; r < end; r++)
        a.out.data[r] = clip(a.out.data[r] + a.second[r], o);
  });
}

struct Range {
  int32_t begin, end;
};

// Outputs w with 0 <= w * stride + shift < size.
Range valid(int32_t out, int32_t stride, int32_t shift, int32_t size) {
  const int32_t begin = shift < 0 ? (-shift + stride - 1) / stride : 0;
  const int32_t room = size - shift;
  const int32_t end = room <= 0 ? 0 : std::min(out, (room + stride - 1) / stride);
  return {std::min(begin, out), std::max(std::min(begin, out), end)};
}

// Calls use(out row, in row, range, shift) for every kernel position of one output row.
template <class Use>
void each_tap(const Args& a, int32_t h, Use use) {
  const OpRecord& o = a.op.record;
  for (int32_t y = 0; y < o.kernel_h; y++) {
    const int32_t row = h * o.stride_h + y * o.dilation_h - o.pad_top;
    if (row < 0 || row >= a.in.buffer.height) continue;
    for (int32_t x = 0; x < o.kernel_w; x++) {
      const int32_t shift = x * o.dilation_w - o.pad_left;
      use(row, valid(a.out.buffer.width, o.stride_w, shift, a.in.buffer.width), shift);
    }
  }
}

void max_pool(const Args& a, int channel, float* line) {
  const OpRecord& o = a.op.record;
  const Buffer &in = a.in.buffer, &out = a.out.buffer;
  a.kernels.max_pool({a.space.near(o.in, channel), a.out.channel(channel), in.height, in.width,
                      out.height, out.width, o.kernel_h, o.kernel_w, o.stride_h,
                      o.stride_w, o.dilation_h, o.pad_top, o.pad_left, o.low, o.high,
                      line});
}

void average_pool(const Args& a, int channel, float* count) {
  const OpRecord& o = a.op.record;
  const int32_t width = a.out.buffer.width;
  for (int32_t h = 0; h < a.out.buffer.height; h++) {
    float* y = a.out.channel(channel) + static_cast<int64_t>(h) * width;
    std::fill_n(y, width, 0.0f);
    std::fill_n(count, width, 0.0f);
    each_tap(a, h, [&](int32_t row, Range r, int32_t shift) {
      const float* x =
          a.in.channel(channel) + static_cast<int64_t>(row) * a.in.buffer.width + shift;
      for (int32_t w = r.begin; w < r.end; w++) {
        y[w] += x[static_cast<int64_t>(w) * o.stride_w];
        count[w] += 1.0f;
      }
    });
    const float all = static_cast<float>(o.kernel_h * o.kernel_w);
    for (int32_t w = 0; w < width; w++)
      y[w] = clip(y[w] / (o.extra ? all : std::max(count[w], 1.0f)), o);
  }
}

void global_average(const Args& a) {
  const int64_t pixels = a.in.buffer.pixels();
  for (int32_t c = 0; c < a.in.buffer.channels; c++) {
    const double sum = a.kernels.sum(a.space.near(a.op.record.in, c), pixels);
    a.out.data[c] = clip(static_cast<float>(sum / static_cast<double>(pixels)), a.op.record);
  }
}

void add(const Args& a) {
  const OpRecord& o = a.op.record;
  a.kernels.pairs(kPairPlus, a.in.data, a.second, false, a.out.data, a.out.buffer.floats(), o.low,
                  o.high);
}

void affine(const Args& a) {
  const OpRecord& o = a.op.record;
  const int64_t plane = a.in.buffer.plane();
  const float* scale = static_cast<const float*>(a.op.weight.values.at);
  const float* shift = a.op.weight.bias;
  if (plane == 1)  // values behind each other, each with its own scale
    return a.kernels.scale(a.in.data, scale, shift, false, a.out.data, a.in.buffer.channels, o.low,
                           o.high);
  for (int32_t c = 0; c < a.in.buffer.channels; c++)
    a.kernels.scale(a.in.channel(c), scale + c, shift + c, true, a.out.channel(c), plane, o.low,
                    o.high);
}

void place(const Args& a) {
  const int32_t first = a.op.record.extra;
  if (a.in.step == a.out.step) {
    std::memcpy(a.out.channel(first), a.in.data, a.in.buffer.channels * a.in.step * sizeof(float));
    return;
  }
  for (int32_t c = 0; c < a.in.buffer.channels; c++)
    std::memcpy(a.out.channel(first + c), a.in.channel(c), a.in.buffer.pixels() * sizeof(float));
}

void activation(const Args& a) {
  const OpRecord& o = a.op.record;
  if (o.extra == kSoftmax) return a.kernels.softmax(a.in.data, a.out.data, a.in.buffer.channels);
  const Mapped function = o.extra == kSigmoid     ? kMapSigmoid
                          : o.extra == kTanh      ? kMapTanh
                          : o.extra == kHardSwish ? kMapHardSwish
                                                  : kMapSame;
  a.kernels.map(function, a.in.data, a.out.data, a.out.buffer.floats(), o.low, o.high);
}

}  // namespace

void run_op(const Model& model, const Op& op, const Workspace& space) {
  const OpRecord& o = op.record;
  if (o.kind == kConv) return run_conv(model, op, space);
  if (o.kind == kRecurrent) return run_recurrent(model, op, space);
  if (element_kind(o.kind)) return run_element(op, space);
  const Buffer& in = model.buffers[o.in];
  const Buffer& out = model.buffers[o.out];
  const Args a{op,
               {in, space.from(o.in)},
               {out, space.to(o.out)},
               o.in2 < 0 ? nullptr : space.from(o.in2).at,
               space,
               *model.kernels};
  switch (o.kind) {
    case kLinear: return run_linear(a);
    case kMaxPool:
      return space.pool->each(out.channels, [&](int c, int thread) {
        max_pool(a, c, space.pack + thread * space.pack_step);
      });
    case kAveragePool:
      return space.pool->each(out.channels, [&](int c, int thread) {
        average_pool(a, c, space.pack + thread * space.pack_step);
      });
    case kGlobalAverage: return global_average(a);
    case kAdd: return add(a);
    case kPlace:
      return place(a);
    case kActivation: return activation(a);
    case kAffine: return affine(a);
    case kFlatten: return compact(a.in, a.out.data);
    default: return;  // check.cpp lets no other kind through
  }
}

}  // namespace flsp
