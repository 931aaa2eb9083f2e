// Depth-wise convolutions: how a channel's rows are copied, and the channels' filters.
#include <algorithm>
#include <array>

#include "layers.h"

namespace flsp {
namespace {

constexpr int32_t kMostTaps = 49, kMostSide = 7;
constexpr int64_t kMostTurned = 64, kMostStrided = 256;  // pixels of a plane
constexpr int64_t kMostPadded = 1024;  // with their padding
constexpr int32_t kCopyFloats = 5000;  // 20 KB: the copy stays in a first-level cache

int32_t rounded(int32_t count, int32_t lanes) { return (count + lanes - 1) / lanes * lanes; }

// The last window ends at most a window behind the input.
bool near(int32_t in, int32_t out, int32_t kernel, int32_t stride, int32_t pad) {
  return pad < kernel && (out - 1) * stride - pad + kernel - in < kernel;
}

// Where the rows and columns of each parity lie.
void plan_copy(const OpRecord& o, int32_t lanes, DepthwisePlan& p) {
  const int32_t s = o.stride_h, more = (o.kernel_h - 1) / s;
  // Behind a plane lie the spare lanes of its last row, and of a flat plane's last vectors.
  p.plane = rounded((p.strip + more) * p.row, lanes) + 5 * lanes;
  for (int32_t y = 0; y < o.kernel_h; y++)
    for (int32_t x = 0; x < o.kernel_w; x++)
      p.offset.push_back((y % s * s + x % s) * p.plane + y / s * p.row + x / s);
  p.copy_floats = p.plane * s * s;
}

// Rows first..first + outputs of a matrix with every column in its place.
void spread_filters(const Weight& w, int64_t first, int32_t outputs, float* filters) {
  std::fill_n(filters, int64_t{outputs} * w.columns, 0.0f);
  for (int32_t r = 0; r < outputs; r++, filters += w.columns) {
    int32_t column = 0;
    for (int32_t i = w.start[first + r]; i < w.start[first + r + 1]; i++)
      filters[column += w.gaps[i]] = value_of(w, i, first + r);
  }
}

// Rows or columns of a plane with its padding, as far as windows read.
int64_t padded(int64_t pad, int64_t in, int64_t out, int64_t stride, int64_t kernel,
               int64_t dilation) {
  return std::max(pad + in, (out - 1) * stride + (kernel - 1) * dilation + 1);
}

// Small planes, whose short rows cost more to copy than to add up. Measured on Zen 5: 7 x 7
// pixels take 0.7 times as long, 14 x 14 with a stride of 2 the same, 28 x 28 no less.
bool turns(const OpRecord& o, const Buffer& in, const Buffer& out) {
  const int64_t most = o.stride_h > 1 || o.stride_w > 1 ? kMostStrided : kMostTurned;
  return o.groups == in.channels && out.channels == in.channels && in.pixels() > 1 &&
         in.pixels() <= most && out.pixels() <= most &&
         o.kernel_h * o.kernel_w <= kMostTaps &&
         padded(o.pad_top, in.height, out.height, o.stride_h, o.kernel_h, o.dilation_h) *
                 padded(o.pad_left, in.width, out.width, o.stride_w, o.kernel_w, o.dilation_w) <=
             kMostPadded;
}

// Groups begin..end of channels.
void run_turned(const Model& model, const Op& op, const Workspace& space, int thread,
                int64_t begin, int64_t end) {
  const OpRecord& o = op.record;
  const Weight& w = op.weight;
  const Buffer &in = model.buffers[o.in], &out = model.buffers[o.out];
  const int32_t lanes = model.kernels->lanes, taps = o.kernel_h * o.kernel_w;
  const bool whole = !w.values.scale && w.entries == int64_t{w.rows} * taps;
  DepthwiseGroup d{};
  d.scratch = space.pack + thread * space.pack_step;
  float* const filters = d.scratch + op.conv.depthwise.copy_floats;
  d.height = in.height, d.width = in.width;
  d.out_height = out.height, d.out_width = out.width;
  d.kernel_h = o.kernel_h, d.kernel_w = o.kernel_w;
  d.stride_h = o.stride_h, d.stride_w = o.stride_w;
  d.dilation_h = o.dilation_h, d.dilation_w = o.dilation_w;
  d.pad_top = o.pad_top, d.pad_left = o.pad_left;
  d.low = o.low, d.high = o.high;
  d.padded_height = static_cast<int32_t>(
      padded(o.pad_top, in.height, out.height, o.stride_h, o.kernel_h, o.dilation_h));
  d.padded_width = static_cast<int32_t>(
      padded(o.pad_left, in.width, out.width, o.stride_w, o.kernel_w, o.dilation_w));
  const int32_t around = d.padded_height * d.padded_width * lanes;
  std::fill_n(d.scratch, around, 0.0f);
  std::array<int32_t, kMostStrided + 3> places;
  places.fill(around);  // behind the plane, for pixels behind the last
  for (int32_t i = 0; i < in.pixels(); i++)
    places[i] = ((o.pad_top + i / in.width) * d.padded_width + o.pad_left + i % in.width) * lanes;
  d.places = places.data();
  for (int64_t c = begin * lanes; c < end * lanes && c < in.channels; c += lanes) {
    d.channels = static_cast<int32_t>(std::min<int64_t>(lanes, in.channels - c));
    d.filters = whole ? static_cast<const float*>(w.values.at) + c * taps : filters;
    if (!whole) spread_filters(w, c, d.channels, filters);
    const Planes<const float> x = space.near(o.in, c, c + d.channels);
    const Planes<float> y = space.to(o.out);
    d.x = x.at, d.plane = x.step;
    d.y = y.channel(c), d.y_plane = y.step;
    d.residual =
        o.in2 < 0 ? nullptr : space.arena + model.buffers[o.in2].offset + c * out.plane();
    d.bias = w.bias + c;
    model.kernels->depthwise_group(d);
  }
}

}  // namespace

DepthwisePlan plan_depthwise(const Kernels& kernels, const OpRecord& o, const Buffer& in,
                             const Buffer& out) {
  const int32_t s = o.stride_h, lanes = kernels.lanes;
  if (turns(o, in, out)) {
    DepthwisePlan p;
    p.strip = out.height;
    p.turned = true;
    const int32_t taps = o.kernel_h * o.kernel_w;
    const int64_t around =
        padded(o.pad_top, in.height, out.height, o.stride_h, o.kernel_h, o.dilation_h) *
        padded(o.pad_left, in.width, out.width, o.stride_w, o.kernel_w, o.dilation_w);
    p.copy_floats = lanes * static_cast<int32_t>(around + out.plane() + taps + 2);
    p.floats = int64_t{p.copy_floats} + int64_t{lanes} * taps + 16;
    return p;
  }
  const bool fits = o.groups == in.channels && s == o.stride_w && s <= 2 && o.dilation_h == 1 &&
                    o.dilation_w == 1 && o.kernel_h <= kMostSide && o.kernel_w <= kMostSide &&
                    o.kernel_h * o.kernel_w <= kMostTaps &&
                    near(in.height, out.height, o.kernel_h, s, o.pad_top) &&
                    near(in.width, out.width, o.kernel_w, s, o.pad_left);
  if (!fits) return {};
  DepthwisePlan p;
  const int32_t copied = (o.pad_left + in.width + s - 1) / s;
  const int32_t reach = (o.kernel_w - 1) / s, more = (o.kernel_h - 1) / s;
  p.flat = out.width * 2 <= lanes && out.height <= 32;
  const bool square = o.kernel_h == o.kernel_w && (o.kernel_h == 3 || o.kernel_h == 5);
  // Stride 2 reads whole vectors, with 5 x 5 filters of an output more than there are.
  const int32_t moved = o.kernel_w / 2 - o.pad_left;
  const int32_t pairs = 2 * rounded(out.width + (o.kernel_w == 5), lanes) + moved;
  const bool strided = s == 2 && pairs - in.width <= kNear && (moved == 0 || moved == 1);
  // Of 5 x 5 filters two vectors of a short row are masked in five ways each: on AVX2 240 channels
  // of 28 x 28 pixels take less time copied.
  const int32_t least = o.kernel_w == 5 && lanes < 16 ? 6 : 3;
  p.direct = !p.flat && square && (strided || (s == 1 && out.width >= least * lanes));
  if (p.direct) {
    p.strip = out.height;
    p.copy_floats = std::max(pairs, rounded(in.width + o.kernel_w, lanes)) + 5 * lanes;
  } else if (p.flat) {
    // With stride 1 a row's padding on the right is the next row's on the left.
    p.row = std::max(copied, out.width + reach - (s == 1 ? o.pad_left : 0));
    p.strip = out.height;
    p.line_floats = rounded(out.height * p.row, 4 * lanes) + lanes;
  } else {
    p.row = rounded(std::max(copied, rounded(out.width, lanes) + reach), lanes);
    const int32_t rows = kCopyFloats / (p.row * s * s) - more;
    p.strip = std::clamp(rows / 4 * 4, 4, rounded(out.height, 4));
  }
  if (!p.direct) plan_copy(o, lanes, p);
  p.floats = int64_t{p.copy_floats} + p.line_floats +
             int64_t{out.channels / in.channels} * o.kernel_h * o.kernel_w + 16;
  return p;
}

DepthwiseRun::DepthwiseRun(const Workspace& space, const Op& op, float* scratch)
    : op_(op), kernels_(*space.model.kernels), filters_(scratch + op.conv.depthwise.copy_floats +
                                                  op.conv.depthwise.line_floats) {
  const OpRecord& o = op.record;
  const DepthwisePlan& p = op.conv.depthwise;
  const Buffer &in = space.model.buffers[o.in], &out = space.model.buffers[o.out];
  std::fill_n(scratch, p.copy_floats, 0.0f);  // the padding stays zero
  d_.copy = scratch, d_.line = scratch + p.copy_floats, d_.outputs = out.channels / in.channels;
  d_.y_plane = space.to(o.out).step;
  d_.height = in.height, d_.width = in.width;
  d_.out_height = out.height, d_.out_width = out.width;
  d_.kernel_h = o.kernel_h, d_.kernel_w = o.kernel_w, d_.stride = o.stride_h;
  d_.pad_top = o.pad_top, d_.pad_left = o.pad_left;
  d_.low = o.low, d_.high = o.high;
  d_.strip = p.strip, d_.row = p.row, d_.plane = p.plane, d_.flat = p.flat, d_.direct = p.direct;
  d_.offset = p.offset.data();
}

void DepthwiseRun::channel(int64_t c, const float* x, const float* residual, float* y) {
  const Weight& w = op_.weight;
  const int64_t first = c * d_.outputs;
  if (!w.values.scale && w.entries == int64_t{w.rows} * w.columns) {  // used as they lie
    d_.filters = static_cast<const float*>(w.values.at) + first * w.columns;
  } else {
    spread_filters(w, first, d_.outputs, filters_);
    d_.filters = filters_;
  }
  d_.x = x, d_.residual = residual, d_.y = y, d_.bias = w.bias + first;
  kernels_.depthwise(d_);
}

void run_depthwise(const Model& model, const Op& op, const Workspace& space) {
  const OpRecord& o = op.record;
  const Buffer &in = model.buffers[o.in], &out = model.buffers[o.out];
  Pool& pool = *space.pool;
  if (op.conv.depthwise.turned) {
    const int64_t groups = (in.channels + model.kernels->lanes - 1) / model.kernels->lanes;
    const int shares =
        static_cast<int>(std::min<int64_t>(groups, pool.threads() == 1 ? 1 : pool.threads() * 4));
    return pool.each(shares, [&](int share, int thread) {
      run_turned(model, op, space, thread, groups * share / shares,
                 groups * (share + 1) / shares);
    });
  }
  const float* residual = o.in2 < 0 ? nullptr : space.arena + model.buffers[o.in2].offset;
  const Planes<float> y = space.to(o.out);
  const int64_t outputs = out.channels / in.channels;  // of a channel
  const int parts = pool.threads() == 1 ? 1 : std::min<int>(in.channels, pool.threads() * 4);
  pool.each(parts, [&](int part, int thread) {
    DepthwiseRun run(space, op, space.pack + thread * space.pack_step);
    const int64_t end = int64_t{in.channels} * (part + 1) / parts;
    for (int64_t c = int64_t{in.channels} * part / parts; c < end; c++)
      run.channel(c, space.near(o.in, c), residual ? residual + c * outputs * y.step : nullptr,
                  y.channel(c * outputs));
  });
}

}  // namespace flsp
