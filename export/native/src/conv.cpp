// Convolutions: pads or packs the input as planned, then runs register tiles over it.
#include <algorithm>
#include <cstring>

#include "check.h"
#include "layers.h"

namespace flsp {
namespace {

struct Job {
  const Model& model;
  const Op& op;
  const Workspace& space;
  Buffer out;
  const float* source;
  float* y;
  int64_t y_plane;
  const float* residual;
};

Tile make_tile(const Job& j, int64_t pixel, int thread) {
  const OpRecord& o = j.op.record;
  const ConvPlan& p = j.op.conv;
  Tile t{};
  t.y = j.y + pixel;
  t.y_plane = j.y_plane;
  t.y_last = j.model.kernels->lanes;
  t.sums = p.sums_row ? j.space.pack + thread * j.space.pack_step + p.sums_at : t.y;
  t.sums_row = p.sums_row ? p.sums_row : t.y_plane;
  t.finish = {j.residual ? j.residual + pixel : nullptr, o.low, o.high};
  t.bias = j.op.weight.bias;
  t.rounded = !p.scales.empty();
  t.scale = t.rounded ? p.scales.data() : j.op.weight.values.scale;
  return t;
}

// Shards begin..end of one block's output channels.
void run_block(const Job& j, const ConvBlock& b, Tile t, int th, int tw, int begin,
               int end) {
  const ConvPlan& p = j.op.conv;
  const Weight& w = j.op.weight;
  const int type = w.values.scale ? 1 : 0;
  t.first = &b == &p.blocks.front();
  t.last = &b == &p.blocks.back();
  t.x += b.base;
  if (!p.dense) {
    for (int s = begin; s < end; s++) {
      const SparseBlock part{b.segments.data() + b.shard[s], b.shard[s + 1] - b.shard[s],
                             w.values.at, w.gaps, p.offset.data()};
      j.model.kernels->sparse[type](t, part, th, tw);
    }
    return;
  }
  const OpRecord& o = j.op.record;
  const int32_t rows = j.out.channels, taps = o.kernel_h * o.kernel_w;
  const int32_t first = b.channel * taps, columns = b.channels * taps;
  const int32_t groups = (rows + kGroupRows - 1) / kGroupRows;
  const int32_t from = static_cast<int32_t>(int64_t{groups} * begin / p.shards) * kGroupRows;
  const int32_t to = std::min<int32_t>(
      rows, static_cast<int32_t>(int64_t{groups} * end / p.shards) * kGroupRows);
  if (from >= to) return;
  t.y += from * t.y_plane;
  t.sums += from * t.sums_row;
  t.bias += from;
  if (t.scale) t.scale += from;
  if (t.finish.residual) t.finish.residual += from * t.y_plane;
  const int64_t at = int64_t{from} * w.columns + int64_t{first} * kGroupRows;
  const auto* values = static_cast<const uint8_t*>(w.values.at);
  const DenseBlock part{values + at * static_cast<int64_t>(type ? 1 : sizeof(float)),
                        int64_t{w.columns} * kGroupRows, p.offset.data() + first, columns,
                        to - from};
  const int most = j.model.kernels->max_dense, lanes = j.model.kernels->lanes;
  if (th > 1 || tw <= most) return j.model.kernels->dense[type](t, part, th, tw);
  // Only packed and flat tiles are wider: their vectors lie behind each other.
  for (int at = 0; at < tw; at += most) {
    Tile piece = t;
    const int wide = std::min(most, tw - at);
    piece.x += static_cast<ptrdiff_t>(at) * lanes;
    piece.sums += static_cast<ptrdiff_t>(at) * lanes;
    std::copy_n(t.y_at + at, wide, piece.y_at);
    if (at + wide < tw) piece.y_last = lanes;
    piece.x_tail = static_cast<ptrdiff_t>(wide - 1) * lanes;
    j.model.kernels->dense[type](piece, part, 1, wide);
  }
}

void packed_tile(const Job& j, int tile, int begin, int end, int thread) {
  const ConvPlan& p = j.op.conv;
  const int lanes = j.model.kernels->lanes;
  const int32_t width = j.out.width;
  const int64_t size = p.tile_rows ? static_cast<int64_t>(p.tile_rows) * width
                                   : static_cast<int64_t>(p.vectors) * lanes;
  const int64_t first = tile * size, stop = std::min(j.out.pixels(), first + size);
  const int32_t top = static_cast<int32_t>(first / width);
  const int32_t bottom = static_cast<int32_t>((stop - 1) / width) + 1;
  float* target = j.space.pack + thread * j.space.pack_step;
  Tile t = make_tile(j, first, thread);
  const int per_row = p.tile_rows ? p.pack_row / lanes : 0;  // 0: a vector has several rows
  const int64_t floats = p.tile_rows ? int64_t{bottom - top} * p.pack_row : stop - first;
  const int tw = static_cast<int>((floats + lanes - 1) / lanes);
  const int apart = p.order.empty() ? lanes : 2 * width;
  for (int v = 0; v < tw; v++)
    t.y_at[v] = per_row ? v / per_row * width + v % per_row * lanes
                        : static_cast<ptrdiff_t>(v) * apart;
  // Behind the last pixel of a tile lie those of another one, perhaps another thread's, or planes
  // of the caller's array.
  t.y_last = static_cast<int>(stop - first - t.y_at[tw - 1]);
  if (!p.order.empty()) t.order = p.order.data();
  t.x = target + (first - static_cast<int64_t>(top) * width);
  t.x_tail = static_cast<ptrdiff_t>(tw - 1) * lanes;
  for (const auto& b : p.blocks) {
    Pack pack{};
    pack.x = j.source + b.channel * p.source_plane;
    pack.plane = p.source_plane;
    pack.row = p.source_row;
    pack.channels = b.channels;
    pack.origin = p.origin.data();
    pack.shift = p.shift.data();
    pack.copies = static_cast<int32_t>(p.origin.size());
    pack.from = top + p.row_from;
    pack.to = bottom + p.row_from + p.row_span - 1;
    pack.height = p.source_height;
    pack.width = p.source_width;
    pack.out_width = width;
    pack.out_row = p.pack_row;
    pack.step = p.step;
    pack.near = p.near;
    j.model.kernels->pack(pack, target);
    run_block(j, b, t, 1, tw, begin, end);
  }
}

// All tiles of the output rows top..top + th: their last vectors overlap, so they belong
// to one thread.
void direct_rows(const Job& j, int32_t top, int th, int begin, int end, int thread) {
  const ConvPlan& p = j.op.conv;
  const int lanes = j.model.kernels->lanes;
  const int32_t width = j.out.width, step = p.tile_w * lanes;
  for (int32_t column = 0; column < width; column += step) {
    const int32_t left = std::min(step, width - column);
    const int tw = (left + lanes - 1) / lanes;
    Tile t = make_tile(j, static_cast<int64_t>(top) * width + column, thread);
    t.x = j.source + static_cast<int64_t>(top) * p.source_row + column;
    t.x_row = p.source_row;
    t.x_tail = std::min<int32_t>((tw - 1) * lanes, width - lanes - column);
    for (int v = 0; v < th * tw; v++)
      t.y_at[v] = static_cast<ptrdiff_t>(v / tw) * width +
                  (v % tw == tw - 1 ? t.x_tail : v % tw * lanes);
    for (const auto& b : p.blocks) run_block(j, b, t, th, tw, begin, end);
  }
}

// Pixels of a flat plane behind each other. What the last vector reads and sums behind them is
// the plane's own room.
void flat_tile(const Job& j, int tile, int begin, int end, int thread) {
  const ConvPlan& p = j.op.conv;
  const int lanes = j.model.kernels->lanes;
  const int64_t size = static_cast<int64_t>(p.vectors) * lanes, first = tile * size;
  const int64_t left = std::min(size, j.out.pixels() - first);
  const int tw = static_cast<int>((left + lanes - 1) / lanes);
  Tile t = make_tile(j, first, thread);
  t.x = j.source + first;
  t.x_tail = static_cast<ptrdiff_t>(tw - 1) * lanes;
  for (int v = 0; v < tw; v++) t.y_at[v] = static_cast<ptrdiff_t>(v) * lanes;
  t.y_last = static_cast<int>(left - t.x_tail);
  for (const auto& b : p.blocks) run_block(j, b, t, 1, tw, begin, end);
}

// Output rows from..to.
void some_rows(const Job& j, int32_t from, int32_t to, int begin, int end, int thread) {
  const int32_t together = j.op.conv.tile_h;
  for (; from + together <= to; from += together) direct_rows(j, from, together, begin, end, thread);
  for (; from < to; from++) direct_rows(j, from, 1, begin, end, thread);
}

// What a convolution reads and writes; its phases are copied.
Job prepared(const Model& model, const Op& op, const Workspace& space) {
  const OpRecord& o = op.record;
  const ConvPlan& p = op.conv;
  const Buffer &in = model.buffers[o.in], &out = model.buffers[o.out];
  const float* const rounded = p.scales.empty() ? nullptr : rounded_input(model, op, space);
  if (p.phases)
    space.pool->each(in.channels, [&](int channel, int) {
      copy_phases(model, op,
                  rounded ? ChannelRows{nullptr, rounded + channel * in.plane(), 0, 0}
                          : space.rows(o.in, channel),
                  space.source, channel);
    });
  const float* const source = p.phases ? space.source : rounded ? rounded : space.from(o.in).at;
  const Planes<float> y = space.to(o.out);
  return {model, op, space, out, source, y.at, y.step,
          o.in2 < 0 ? nullptr : space.arena + model.buffers[o.in2].offset};
}

}  // namespace

void run_conv(const Model& model, const Op& op, const Workspace& space) {
  const ConvPlan& p = op.conv;
  if (p.bytes.floats) return run_bytes(model, op, space);
  if (p.depthwise.strip) return run_depthwise(model, op, space);
  const Job j = prepared(model, op, space);
  const Buffer& out = j.out;
  Pool& pool = *space.pool;
  const int64_t size = p.tile_rows ? static_cast<int64_t>(p.tile_rows) * out.width
                                   : static_cast<int64_t>(p.vectors) * model.kernels->lanes;
  const int tiles = p.packed || p.flat ? static_cast<int>((out.pixels() + size - 1) / size)
                             : (out.height + p.tile_h - 1) / p.tile_h;
  // One thread takes all shards of a tile at once: the rows are packed only once.
  const int parts = pool.threads() == 1 ? 1 : p.shards;
  pool.each(tiles * parts, [&](int piece, int thread) {
    const int tile = piece / parts, part = piece % parts;
    const int begin = p.shards * part / parts, end = p.shards * (part + 1) / parts;
    if (p.flat) return flat_tile(j, tile, begin, end, thread);
    if (p.packed) return packed_tile(j, tile, begin, end, thread);
    const int32_t top = tile * p.tile_h;
    some_rows(j, top, std::min(top + p.tile_h, out.height), begin, end, thread);
  });
}

namespace {

// Rows of a pool's output that go together, and the rows of its input that they read.
struct Band {
  int32_t rows, source;
  int64_t plane;     // of the source's channels
  int64_t line, at;  // where a thread's scratch has the pool's line and the source
};

constexpr int64_t kBandFloats = 1 << 16;  // 256 KB: of a second-level cache

Band band_of(const ConvPlan& conv, const Buffer& between, const OpRecord& pool, const Buffer& out) {
  const int32_t window = (pool.kernel_h - 1) * pool.dilation_h + 1;
  const int64_t most = kBandFloats / (int64_t{between.channels} * between.width);
  const auto rows = static_cast<int32_t>(std::max<int64_t>(1, (most - window) / pool.stride_h + 1));
  const int64_t source = std::min<int64_t>(between.height, int64_t{rows - 1} * pool.stride_h + window);
  const int64_t line = (conv.pack_floats + 15) / 16 * 16;
  const auto height = static_cast<int32_t>(source);
  return {rows, height, Buffer{1, height, between.width, 0}.plane(), line,
          (line + pool_line(pool, out) + kSlack + 15) / 16 * 16};
}

}  // namespace

int64_t pooled_floats(const Model& model, size_t first) {
  if (first + 1 >= model.ops.size()) return 0;
  const Op &op = model.ops[first], &pool = model.ops[first + 1];
  const OpRecord &o = op.record, &q = pool.record;
  const ConvPlan& p = op.conv;
  if (o.kind != kConv || q.kind != kMaxPool || q.in != o.out || o.in2 >= 0) return 0;
  if (p.packed || p.flat || p.bytes.floats || p.depthwise.strip || !p.scales.empty()) return 0;
  const Buffer &in = model.buffers[o.in], &between = model.buffers[o.out],
               &out = model.buffers[q.out];
  if (between.floats() < 4 * kBandFloats || !(p.phases || apart(in, out))) return 0;
  const Band band = band_of(p, between, q, out);
  return band.at + band.plane * between.channels + kSlack;
}

void run_pooled(const Model& model, size_t first, const Workspace& space) {
  const Op& op = model.ops[first];
  const OpRecord& q = model.ops[first + 1].record;
  const Buffer& out = model.buffers[q.out];
  const Planes<float> y = space.to(q.out);
  const Job whole = prepared(model, op, space);
  const Band band = band_of(op.conv, whole.out, q, out);
  const int32_t window = (q.kernel_h - 1) * q.dilation_h + 1, width = whole.out.width;
  const int parts = std::min(space.pool->threads(), (out.height + band.rows - 1) / band.rows);
  space.pool->each(parts, [&](int part, int thread) {
    Job j = whole;
    j.out.height = band.source;
    j.y_plane = band.plane;
    float* const scratch = space.pack + thread * space.pack_step;
    float* const line = scratch + band.line;
    float* const rows = scratch + band.at;
    const auto end = static_cast<int32_t>(int64_t{out.height} * (part + 1) / parts);
    int32_t from = 0, to = 0;  // rows of the convolution that are there
    for (auto h = static_cast<int32_t>(int64_t{out.height} * part / parts); h < end; h += band.rows) {
      const int32_t count = std::min(band.rows, end - h), first_row = h * q.stride_h - q.pad_top;
      const int32_t height = whole.out.height, last = first_row + (count - 1) * q.stride_h + window;
      const int32_t top = std::clamp(first_row, 0, height);  // a window may lie outside
      const int32_t bottom = std::clamp(last, top, height);
      const int32_t kept = std::max(0, to - top);  // the next windows read them, too
      for (int32_t c = 0; kept && c < whole.out.channels; c++)
        std::memmove(rows + c * band.plane, rows + c * band.plane + int64_t{top - from} * width,
                     static_cast<size_t>(kept) * width * sizeof(float));
      j.y = rows - int64_t{top} * width;
      some_rows(j, top + kept, bottom, 0, op.conv.shards, thread);
      from = top, to = bottom;
      for (int32_t c = 0; c < out.channels; c++)
        model.kernels->max_pool(
            {rows + c * band.plane,
             y.channel(c) + int64_t{h} * out.width, bottom - top,
             width, count, out.width, q.kernel_h, q.kernel_w, q.stride_h, q.stride_w,
             q.dilation_h, top - first_row, q.pad_left, q.low, q.high, line});
    }
  });
}

}  // namespace flsp
