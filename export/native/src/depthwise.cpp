// Depth-wise convolutions: how a channel's rows are copied, and the channels' filters.
#include <algorithm>

#include "layers.h"

namespace flsp {
namespace {

constexpr int32_t kMostTaps = 49, kMostSide = 7;
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

}  // namespace

DepthwisePlan plan_depthwise(const Kernels& kernels, const OpRecord& o, const Buffer& in,
                             const Buffer& out) {
  const int32_t s = o.stride_h, lanes = kernels.lanes;
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
  p.direct = !p.flat && s == 1 && out.width >= 3 * lanes && o.kernel_h == o.kernel_w && (o.kernel_h == 3 || o.kernel_h == 5);
  if (p.direct) {
    p.strip = out.height;
    p.copy_floats = rounded(in.width + o.kernel_w, lanes) + 3 * lanes;
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

void run_depthwise(const Model& model, const Op& op, const Workspace& space) {
  const OpRecord& o = op.record;
  const DepthwisePlan& p = op.conv.depthwise;
  const Weight& w = op.weight;
  const Buffer &in = model.buffers[o.in], &out = model.buffers[o.out];
  const int32_t outputs = out.channels / in.channels, taps = o.kernel_h * o.kernel_w;
  Pool& pool = *space.pool;
  const bool whole = !w.values.scale && w.entries == int64_t{w.rows} * taps;  // used as they lie
  const int parts = pool.threads() == 1 ? 1 : std::min<int>(in.channels, pool.threads() * 4);
  pool.each(parts, [&](int part, int thread) {
    float* const copy = space.pack + thread * space.pack_step;
    float* const filters = copy + p.copy_floats + p.line_floats;
    std::fill_n(copy, p.copy_floats, 0.0f);  // the padding stays zero
    Depthwise d{};
    d.copy = copy, d.line = copy + p.copy_floats, d.filters = filters, d.outputs = outputs;
    d.y_plane = out.plane();
    d.height = in.height, d.width = in.width;
    d.out_height = out.height, d.out_width = out.width;
    d.kernel_h = o.kernel_h, d.kernel_w = o.kernel_w, d.stride = o.stride_h;
    d.pad_top = o.pad_top, d.pad_left = o.pad_left;
    d.low = o.low, d.high = o.high;
    d.strip = p.strip, d.row = p.row, d.plane = p.plane, d.flat = p.flat, d.direct = p.direct;
    d.offset = p.offset.data();
    const int64_t end = int64_t{in.channels} * (part + 1) / parts;
    for (int64_t c = int64_t{in.channels} * part / parts; c < end; c++) {
      const int64_t first = c * outputs;
      if (whole) {
        d.filters = static_cast<const float*>(w.values.at) + first * taps;
      } else {
        spread_filters(w, first, outputs, filters);
      }
      d.x = space.arena + in.offset + c * in.plane();
      d.y = space.arena + out.offset + first * out.plane();
      d.residual = o.in2 < 0 ? nullptr
                             : space.arena + model.buffers[o.in2].offset + first * out.plane();
      d.bias = w.bias + first;
      model.kernels->depthwise(d);
    }
  });
}

}  // namespace flsp
