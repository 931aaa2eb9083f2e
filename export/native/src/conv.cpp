// Convolutions: pads or packs the input as planned, then runs register tiles over it.
#include <algorithm>
#include <cstring>

#include "layers.h"

namespace flsp {
namespace {

struct Job {
  const Model& model;
  const Op& op;
  const Workspace& space;
  const Buffer in, out;  // as planned
  const float* input;
  const float* source;
  float* y;
  const float* residual;
};

// The phase of the same rows that has the other columns of every two; -1: no tap reads it.
int other_phase(const ConvPlan& p, size_t phase) {
  for (size_t i = 0; i < p.phase_h.size(); i++)
    if (i != phase && p.phase_h[i] == p.phase_h[phase]) return static_cast<int>(i);
  return -1;
}

// A row of one phase, of any stride.
void copy_phase_row(const Job& j, const float* from, int32_t shift, float* to) {
  const ConvPlan& p = j.op.conv;
  const int32_t step = j.op.record.stride_w;
  // Columns w with 0 <= w * step + shift < width.
  const int32_t first = shift < 0 ? (-shift + step - 1) / step : 0;
  const int32_t room = j.in.width - shift;
  const int32_t last = room <= 0 ? 0 : std::min(p.source_width, (room + step - 1) / step);
  const int32_t begin = std::min(first, p.source_width), end = std::max(begin, last);
  std::fill_n(to, begin, 0.0f);
  if (step == 1) {
    std::memcpy(to + begin, from + begin + shift, (end - begin) * sizeof(float));
  } else {
    for (int32_t w = begin; w < end; w++) to[w] = from[w * step + shift];
  }
  std::fill(to + end, to + p.source_width, 0.0f);
}

// One channel of the input into its padded phase planes.
void copy_phases(const Job& j, int channel) {
  const ConvPlan& p = j.op.conv;
  const OpRecord& o = j.op.record;
  const float* x = j.input + channel * j.in.plane();
  float* const planes = j.space.source + channel * p.source_plane;
  const int64_t plane = static_cast<int64_t>(p.source_height) * p.source_row;
  for (size_t phase = 0; phase < p.phase_h.size(); phase++) {
    const int other = o.stride_w == 2 ? other_phase(p, phase) : -1;
    if (other >= 0 && p.phase_w[phase] == 1) continue;  // the even columns' turn copies both
    float* to = planes + static_cast<int64_t>(phase) * plane;
    float* beside = other < 0 ? nullptr : planes + other * plane;
    for (int32_t h = 0; h < p.source_height; h++, to += p.source_row) {
      const int32_t row = h * o.stride_h + p.phase_h[phase] - o.pad_top;
      const bool there = row >= 0 && row < j.in.height;
      const float* from = x + (there ? static_cast<int64_t>(row) * j.in.width : 0);
      if (o.stride_w == 2) {
        const bool odd = p.phase_w[phase] == 1;
        j.model.kernels->split(from, -o.pad_left, there ? j.in.width : 0, odd ? nullptr : to,
                               odd ? to : beside, p.source_width);
        if (beside) beside += p.source_row;
      } else if (there) {
        copy_phase_row(j, from, p.phase_w[phase] - o.pad_left, to);
      } else {
        std::fill_n(to, p.source_width, 0.0f);
      }
    }
  }
}

Tile make_tile(const Job& j, int64_t pixel, int thread) {
  const OpRecord& o = j.op.record;
  const ConvPlan& p = j.op.conv;
  Tile t{};
  t.y = j.y + pixel;
  t.y_plane = j.out.plane();
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
  const int per_row = p.tile_rows ? p.pack_row / lanes : 0;
  const int tw = p.tile_rows ? (bottom - top) * per_row
                             : static_cast<int>((stop - first + lanes - 1) / lanes);
  for (int v = 0; v < tw; v++)
    t.y_at[v] = per_row ? v / per_row * width + v % per_row * lanes
                        : static_cast<ptrdiff_t>(v) * lanes;
  // Behind the last row of a tile lie pixels of another one, perhaps another thread's.
  if (per_row) t.y_last = width - (per_row - 1) * lanes;
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

}  // namespace

void run_conv(const Model& model, const Op& op, const Workspace& space) {
  const OpRecord& o = op.record;
  const ConvPlan& p = op.conv;
  if (p.bytes.floats) return run_bytes(model, op, space);
  if (p.depthwise.strip) return run_depthwise(model, op, space);
  const Buffer& in = model.buffers[o.in];
  const Buffer& out = model.buffers[o.out];
  Pool& pool = *space.pool;
  const float* input =
      p.scales.empty() ? space.arena + in.offset : rounded_input(model, op, space);
  const Job j{model, op, space, in, out, input, p.phases ? space.source : input,
              space.arena + out.offset,
              o.in2 < 0 ? nullptr : space.arena + model.buffers[o.in2].offset};
  if (p.phases)
    pool.each(in.channels, [&](int channel, int) { copy_phases(j, channel); });
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
    const int32_t top = tile * p.tile_h, rows = std::min(p.tile_h, out.height - top);
    if (rows == p.tile_h) return direct_rows(j, top, rows, begin, end, thread);
    for (int32_t h = 0; h < rows; h++) direct_rows(j, top + h, 1, begin, end, thread);
  });
}

}  // namespace flsp
