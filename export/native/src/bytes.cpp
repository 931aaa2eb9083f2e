// Convolutions whose inputs are rounded to bytes: as bytes_plan.cpp has it on processors with
// kernels on bytes, and on rounded float32 inputs where those would be slower. Both give the
// same bits (check.cpp bounds the sums).
#include <algorithm>
#include <cstring>

#include "layers.h"

namespace flsp {
namespace {

struct Bytes {
  const Op& op;
  const BytePlan& plan;
  const Buffer &in, &out;
  uint8_t* const to;
  const ByteKernels& kernels;
};

int shares_of(int64_t blocks, const Pool& pool) {
  const int wanted = pool.threads() == 1 ? 1 : pool.threads() * 4;
  return static_cast<int>(std::min<int64_t>(blocks, wanted));
}

// Zero points where the window leaves the plane.
void fill_outside(const Bytes& b) {
  const OpRecord& o = b.op.record;
  const BytePlan& p = b.plan;
  const auto fill = [&](int64_t row, int64_t from, int64_t end) {
    if (from < end) 
      std::memset(b.to + row * p.row + from * p.step, o.extra - b.kernels.offset,
                  (end - from) * p.step);
  };
  for (int32_t h = 0; h < p.height; h++) {
    const bool outside = h < o.pad_top || h - o.pad_top >= b.in.height;
    fill(h, 0, outside ? p.width : std::min(o.pad_left, p.width));
    if (!outside) fill(h, std::min(p.width, o.pad_left + b.in.width), p.width);
  }
}

Bytes bytes_of(const Model& model, const Op& op, const Workspace& space) {
  const Buffer& in = model.buffers[op.record.in];
  const BytePlan& p = op.conv.bytes;
  float* const to = p.follows ? space.arena + in.offset : space.source;
  return {op, p, in, model.buffers[op.record.out], reinterpret_cast<uint8_t*>(to),
          *model.byte_kernels};
}

ByteTarget target_of(const Bytes& b) {
  const OpRecord& o = b.op.record;
  return {1.0f / o.input_scale, static_cast<float>(-o.extra), static_cast<float>(255 - o.extra),
          o.extra - b.kernels.offset, {}};
}

// Where 16 input pixels lie, null for those that no output reads; whether one is read.
bool place_pixels(const Bytes& b, int64_t first, uint8_t* (&at)[kBytePixels]) {
  const OpRecord& o = b.op.record;
  const BytePlan& p = b.plan;
  auto h = static_cast<int32_t>(first / b.in.width), w = static_cast<int32_t>(first % b.in.width);
  bool read = false;
  for (uint8_t*& to : at) {
    const int64_t row = int64_t{h} + o.pad_top, column = int64_t{w} + o.pad_left;
    const bool inside = h < b.in.height && row < p.height && column < p.width;
    to = inside ? b.to + row * p.row + column * p.step : nullptr;
    read |= inside;
    if (++w == b.in.width) h++, w = 0;
  }
  return read;
}

// Pixels 16 * begin..16 * end of the input.
void copy_pixels(const Bytes& b, const Planes<const float>& x, int64_t begin, int64_t end) {
  ByteCopy c{};
  c.plane = x.step;
  c.channels = b.in.channels;
  c.target = target_of(b);
  for (int64_t at = begin * kBytePixels; at < end * kBytePixels; at += kBytePixels) {
    c.x = x.at + at;
    if (place_pixels(b, at, c.target.at)) b.kernels.copy(c);
  }
}

}  // namespace

void run_bytes(const Model& model, const Op& op, const Workspace& space) {
  const OpRecord& o = op.record;
  const BytePlan& p = op.conv.bytes;
  const Bytes b = bytes_of(model, op, space);
  const Buffer &in = b.in, &out = b.out;
  Pool& pool = *space.pool;
  fill_outside(b);
  const int64_t blocks = (in.pixels() + kBytePixels - 1) / kBytePixels;
  const int shares = shares_of(blocks, pool);
  if (!p.follows)
    pool.each(shares, [&](int share, int) {
      copy_pixels(b, space.from(o.in), blocks * share / shares,
                  blocks * (share + 1) / shares);
    });
  const ByteSteps steps{p.steps.data(), p.base.data(), p.start.data(), p.output.data(),
                        p.shift.data(), p.scale.data(), p.bias.data()};
  const auto groups = static_cast<int32_t>(p.start.size()) - 1;
  const auto tiles = static_cast<int>((out.pixels() + kBytePixels - 1) / kBytePixels);
  const int parts = pool.threads() == 1 ? 1 : std::min<int>(groups, (8 + tiles - 1) / tiles);
  const Planes<float> y = space.to(o.out);
  const float* residual = o.in2 < 0 ? nullptr : space.arena + model.buffers[o.in2].offset;
  pool.each(tiles * parts, [&](int piece, int) {
    const int64_t first = int64_t{piece / parts} * kBytePixels;
    const int part = piece % parts;
    ByteTile t{};
    const uint8_t* row = b.to + first / out.width * o.stride_h * p.row;
    auto w = static_cast<int32_t>(first % out.width);
    for (int i = 0; i < kBytePixels; i++) {  // a plane has room for 16 pixels at its end
      t.x[i] = row + int64_t{w} * o.stride_w * p.step;
      if (first + i + 1 >= out.pixels()) continue;
      if (++w == out.width) row += int64_t{o.stride_h} * p.row, w = 0;
    }
    t.step = static_cast<ptrdiff_t>(o.stride_w) * p.step;
    t.quads = out.width % 4 == 0 && first + kBytePixels <= out.pixels();
    t.y = y.at + first;
    t.y_plane = y.step;
    t.rounded = p.feeds;
    if (p.feeds) {
      const Bytes next = bytes_of(model, (&op)[1], space);
      t.target = target_of(next);
      place_pixels(next, first, t.target.at);
    }
    t.finish = {residual ? residual + first : nullptr, o.low, o.high};
    model.byte_kernels->tile(t, steps, groups * part / parts, groups * (part + 1) / parts);
  });
}

// The input with every value a whole number, behind the layer's other scratch.
const float* rounded_input(const Model& model, const Op& op, const Workspace& space) {
  const OpRecord& o = op.record;
  const Buffer& in = model.buffers[o.in];
  float* const to = space.source + op.conv.rounded_at;
  const int shares = shares_of(in.channels, *space.pool);
  space.pool->each(shares, [&](int share, int) {
    const int64_t end = int64_t{in.channels} * (share + 1) / shares;
    for (int64_t c = int64_t{in.channels} * share / shares; c < end; c++)
      model.kernels->round(space.near(o.in, c), to + c * in.plane(), in.pixels(),
                           1.0f / o.input_scale, static_cast<float>(-o.extra),
                           static_cast<float>(255 - o.extra));
  });
  return to;
}

}  // namespace flsp
