// How each layer runs on this processor. A convolution is a sum of shifted planes: for
// each kept weight, a register tile of output pixels adds value * shifted input.
//
// Two ways to read the input, by estimated cycles per output vector:
// * packed: the tile's input rows are copied once per horizontal shift, so that all
//   loads are aligned and stay in the first-level cache. Measured on Zen 5, one thread,
//   64 x 64 channels, 32 x 32 pixels, density 0.23: 77 GMAC/s against 57 direct.
// * direct: tiles read the input (padded into a scratch copy if need be). Better where
//   few output channels use each input: depthwise layers, thin first layers. A 1 x 1
//   convolution reads planes where they lie, as one row of pixels.
//
// Whatever a file says, planning is linear in its entries, rows, columns and taps, which
// check.h bounds.
#include <algorithm>
#include <map>
#include <utility>

#include "model.h"

namespace flsp {
namespace {

constexpr int64_t kCacheFloats = 8192;   // 32 KB: first-level caches have 32 to 64 KB
constexpr double kPackCycles = 1.5;      // per copied vector
constexpr int32_t kEntryVectors = 64;    // per row and block: sums are reloaded between
constexpr int64_t kThreads = 8;          // as many parts of a layer as can be had
constexpr int64_t kMostScratch = int64_t{1} << 28;

struct Tap {  // one kernel position
  int32_t phase_h, phase_w, row, column;  // which phase, and where in it
};

Tap tap_of(const OpRecord& op, int32_t k, bool phases) {
  const int32_t y = k / op.kernel_w * op.dilation_h, x = k % op.kernel_w * op.dilation_w;
  if (!phases) return {0, 0, y - op.pad_top, x - op.pad_left};
  // The copy is padded, so positions in it are never negative.
  return {y % op.stride_h, x % op.stride_w, y / op.stride_h, x / op.stride_w};
}

struct Shape {
  const Kernels& kernels;
  const OpRecord& op;
  const Buffer in, out;
  const Weight& weight;
  int32_t taps() const { return op.kernel_h * op.kernel_w; }
  bool strided() const { return op.stride_h > 1 || op.stride_w > 1; }
  bool padded() const {
    const int32_t bottom = (out.height - 1) * op.stride_h - op.pad_top +
                           (op.kernel_h - 1) * op.dilation_h;
    const int32_t right = (out.width - 1) * op.stride_w - op.pad_left +
                          (op.kernel_w - 1) * op.dilation_w;
    return op.pad_top || op.pad_left || bottom >= in.height || right >= in.width;
  }
};

Buffer flattened(Buffer b) {
  b.width *= b.height;
  b.height = 1;
  return b;
}

// A 1 x 1 convolution knows no rows: its tiles are any pixels, read where they lie. Planes a
// multiple of 2 KB apart would share a part of a cache.
bool may_be_flat(const Kernels& kernels, const OpRecord& op, const Buffer& in, const Buffer& out) {
  return op.kernel_h == 1 && op.kernel_w == 1 && op.stride_h == 1 && op.stride_w == 1 &&
         !op.pad_top && !op.pad_left && in.height == out.height && in.width == out.width &&
         in.pixels() >= kernels.lanes && in.plane() % 512 != 0;
}

bool cheaper_packed(const Shape& s, int32_t copies, bool dense) {
  const double lanes = s.kernels.lanes;
  // Cycles of an unaligned load; a dense tile uses each four times, and does not wait.
  const double crossing = dense ? 0.5 : 0.5 * (1 + (lanes - 1) / 16);
  const double width = s.out.width;
  const double used = static_cast<double>(s.weight.entries) * (dense ? 0.4 : 1.0);
  if (width < lanes) return true;  // a direct tile would be wider than a row
  const double vectors = static_cast<int>((width + lanes - 1) / lanes);
  const double rounded = vectors * lanes / width;  // rows of whole vectors
  const double copy = static_cast<double>(s.in.channels) * kPackCycles;
  const double packed_load = std::min(crossing, 0.5 * rounded);
  const double halo = 1.0 + (s.op.kernel_h - 1) / std::max(1.0, 8.0 * lanes / width);
  const double packed = used * packed_load + copy * copies * halo * rounded +
                        (s.strided() ? copy : 0);
  const double direct =
      used * crossing * rounded + (s.padded() || s.strided() ? copy : 0);
  return packed < direct;
}

void check_scratch(int64_t floats) {
  if (floats > kMostScratch) throw Error("a convolution needs too much scratch memory");
}

// The source: the input itself, or its padded copy split into phases by the stride.
void plan_source(const Shape& s, const std::vector<Tap>& taps, ConvPlan& p) {
  if (!p.phases) {
    p.source_plane = s.in.plane();
    p.source_row = p.source_width = s.in.width;
    p.source_height = s.in.height;
    return;
  }
  std::map<std::pair<int32_t, int32_t>, int32_t> known;
  for (const Tap& t : taps) {
    const auto count = static_cast<int32_t>(p.phase_h.size());
    if (!known.try_emplace({t.phase_h, t.phase_w}, count).second) continue;
    p.phase_h.push_back(t.phase_h);
    p.phase_w.push_back(t.phase_w);
  }
  p.source_height = s.out.height + (s.op.kernel_h - 1) * s.op.dilation_h / s.op.stride_h;
  p.source_width = s.out.width + (s.op.kernel_w - 1) * s.op.dilation_w / s.op.stride_w;
  p.source_row = (p.source_width + 15) / 16 * 16;
  const int64_t plane = static_cast<int64_t>(p.source_height) * p.source_row;
  p.source_plane = (plane * static_cast<int64_t>(p.phase_h.size()) + 15) / 16 * 16;
  check_scratch(p.source_plane);
  p.source_floats = p.source_plane * s.in.channels;
  check_scratch(p.source_floats);
}

// Where each tap's phase starts within a channel of the source.
std::vector<int32_t> phase_origins(const std::vector<Tap>& taps, const ConvPlan& p) {
  std::map<std::pair<int32_t, int32_t>, int32_t> known;
  for (size_t i = 0; i < p.phase_h.size(); i++)
    known[{p.phase_h[i], p.phase_w[i]}] =
        static_cast<int32_t>(i) * p.source_height * p.source_row;
  std::vector<int32_t> origins;
  for (const Tap& t : taps)
    origins.push_back(p.phases ? known.at({t.phase_h, t.phase_w}) : 0);
  return origins;
}

// Copies of one channel: one per phase row and horizontal position that a tap reads.
std::vector<int32_t> plan_copies(const Shape& s, const std::vector<Tap>& taps,
                                 const std::vector<int32_t>& origins, ConvPlan& p) {
  std::map<std::pair<int32_t, int32_t>, int32_t> known;
  std::vector<int32_t> copy_of_tap;
  const int32_t lanes = s.kernels.lanes;
  const int32_t width = (s.out.width + lanes - 1) / lanes * lanes;
  p.near = true;
  for (size_t k = 0; k < taps.size(); k++) {
    const int32_t column = taps[k].column, count = static_cast<int32_t>(p.origin.size());
    const auto [found, added] = known.try_emplace({origins[k], column}, count);
    copy_of_tap.push_back(found->second);
    if (!added) continue;
    p.origin.push_back(origins[k]);
    p.shift.push_back(column);
    p.near &= column >= -kNear && column + width - p.source_width <= kNear;
  }
  return copy_of_tap;
}

// Two rows of up to 7 pixels share a vector of 16, each from a multiple of 8 floats on, where
// that takes no more vectors than pixels without gaps: of those nearly every load crosses two
// cache lines, of these every second row's. Their sums are put together when they are stored.
bool plan_half_rows(const Shape& s, int32_t most, ConvPlan& p) {
  const int32_t lanes = s.kernels.lanes, half = lanes / 2;
  if (p.dense || lanes < 16 || s.out.width >= half || s.out.width <= half / 2) return false;
  const int32_t tiles = (s.out.height + 2 * most - 1) / (2 * most);
  const int32_t rows = (s.out.height + tiles - 1) / tiles;
  const int32_t vectors = (rows * half + lanes - 1) / lanes;
  if (vectors > (rows * s.out.width + lanes - 1) / lanes) return false;
  p.pack_row = half;
  p.tile_rows = rows;
  p.vectors = vectors;
  for (int32_t i = 0; i < lanes; i++) {
    const int32_t row = i / s.out.width;
    p.order.push_back(row < 2 ? row * half + i % s.out.width : lanes - 1);
  }
  return true;
}

void plan_tiles(const Shape& s, ConvPlan& p) {
  const int32_t lanes = s.kernels.lanes;
  if (p.flat) {
    const int64_t most = p.dense ? s.kernels.max_dense : s.kernels.max_sparse;
    const int64_t vectors = (s.out.pixels() + lanes - 1) / lanes;
    const int64_t tiles = (vectors + most - 1) / most;
    p.vectors = static_cast<int32_t>((vectors + tiles - 1) / tiles);
    p.tile_h = 1;
    p.tile_w = p.vectors;
    return;
  }
  const int32_t most = !p.packed && p.dense ? s.kernels.max_dense : s.kernels.max_sparse;
  if (p.packed) {  // a dense layer's tile is packed whole and computed in parts
    const int32_t per_row = (s.out.width + lanes - 1) / lanes;
    const double crossing = 0.5 * (1 + (lanes - 1) / 16.0);
    const double rounded = static_cast<double>(per_row) * lanes / s.out.width;
    p.pack_row = s.out.width;
    if (!p.dense && s.out.width % lanes && per_row <= most && 0.5 * rounded < 0.9 * crossing) {
      // Rows of whole vectors: aligned loads are worth the spare lanes.
      p.pack_row = per_row * lanes;
      const int32_t rows = most / per_row;
      const int32_t tiles = (s.out.height + rows - 1) / rows;
      p.tile_rows = (s.out.height + tiles - 1) / tiles;
      p.vectors = p.tile_rows * per_row;
      return;
    }
    if (plan_half_rows(s, most, p)) return;
    const int64_t vectors = (s.out.pixels() + lanes - 1) / lanes;
    const int64_t tiles = (vectors + most - 1) / most;
    p.vectors = static_cast<int32_t>((vectors + tiles - 1) / tiles);
    return;
  }
  const int32_t vectors = (s.out.width + lanes - 1) / lanes;
  const int32_t wide = (vectors + most - 1) / most;
  p.tile_w = (vectors + wide - 1) / wide;
  p.tile_h = 1;
  for (int32_t h : {2, 4})  // a last odd row of tiles is taken one by one
    if (wide == 1 && p.tile_w <= 4 && h * p.tile_w <= most && h <= s.out.height)
      p.tile_h = h;
}

// Parts of the output channels that threads can take where there are few tiles.
int32_t plan_shards(const Shape& s, const ConvPlan& p) {
  const int64_t tiles =
      p.tile_rows ? (s.out.height + p.tile_rows - 1) / p.tile_rows
      : p.packed || p.flat
          ? (s.out.pixels() + p.vectors * s.kernels.lanes - 1) / (p.vectors * s.kernels.lanes)
          : (s.out.height + p.tile_h - 1) / p.tile_h;
  const int64_t wanted = (kThreads + tiles - 1) / tiles;
  return static_cast<int32_t>(std::clamp<int64_t>(wanted, 1, s.weight.rows / 16 + 1));
}

// Output rows that a packed tile can touch.
int32_t tile_rows(const Shape& s, const ConvPlan& p) {
  if (p.tile_rows) return p.tile_rows;
  const int32_t pixels = p.vectors * s.kernels.lanes;
  if (pixels % s.out.width == 0) return std::min(s.out.height, pixels / s.out.width);
  return std::min<int32_t>(s.out.height, (pixels + s.out.width - 2) / s.out.width + 1);
}

int32_t block_channels(const Shape& s, const ConvPlan& p) {
  // One pass over all inputs, from the second-level cache, costs less than sums between blocks.
  if (p.flat && !p.dense) return s.in.channels;
  if (!p.packed) {  // the tile's own rows of all channels of a block
    const int64_t row = p.flat ? p.tile_w * s.kernels.lanes : p.source_row;
    const int64_t per = row * (p.tile_h + (s.op.kernel_h - 1) * s.op.dilation_h);
    const int64_t fit = kCacheFloats / std::max<int64_t>(1, per);
    return static_cast<int32_t>(std::clamp<int64_t>(fit, 1, s.in.channels));
  }
  const int64_t per = p.step * static_cast<int64_t>(p.origin.size());
  const int64_t fit = kCacheFloats / std::max<int64_t>(1, per);
  const double per_channel = static_cast<double>(s.weight.entries) / s.weight.rows *
                             s.op.groups / s.in.channels;
  const double entries = std::clamp(kEntryVectors / p.vectors, 12, 64);
  const int64_t enough = static_cast<int64_t>(entries / std::max(per_channel, 1e-3));
  const int64_t most = std::clamp<int64_t>(std::max(fit, enough), 1, s.in.channels);
  const int64_t blocks = (s.in.channels + most - 1) / most;
  return static_cast<int32_t>((s.in.channels + blocks - 1) / blocks);
}

int32_t checked(int64_t offset) {
  if (offset < INT32_MIN || offset > INT32_MAX)
    throw Error("a convolution is too large for 32-bit offsets");
  return static_cast<int32_t>(offset);
}

// Floats between the inputs of two channels, as tiles see them.
int64_t channel_step(const ConvPlan& p) {
  return p.packed ? p.step * static_cast<int64_t>(p.origin.size()) : p.source_plane;
}

// Where the input of every column lies, of the first channel of its group on.
void fill_offsets(const Shape& s, const std::vector<Tap>& taps,
                  const std::vector<int32_t>& origins,
                  const std::vector<int32_t>& copy_of_tap, ConvPlan& p) {
  p.offset.reserve(static_cast<size_t>(s.weight.columns));
  for (int32_t channel = 0; channel < s.weight.columns / s.taps(); channel++)
    for (size_t k = 0; k < taps.size(); k++) {
      const Tap& t = taps[k];
      const int64_t tap =
          p.packed ? copy_of_tap[k] * p.step + int64_t{t.row - p.row_from} * p.pack_row
                   : origins[k] + int64_t{t.row} * p.source_row + t.column;
      p.offset.push_back(checked(channel * channel_step(p) + tap));
    }
}

ConvBlock block_at(const Shape& s, const ConvPlan& p, int32_t index, int32_t channels) {
  ConvBlock block;
  block.channel = index * channels;
  block.channels = std::min(channels, s.in.channels - block.channel);
  block.base = p.packed ? -block.channel * channel_step(p) : 0;
  return block;
}

struct Cut {
  int32_t block;
  Segment segment;
};

// Each row's entries, cut where the blocks of input channels end. The first block sets the
// bias, the last one finishes: they hold every row; others only rows that read them.
std::vector<Cut> cut_rows(const Shape& s, const ConvPlan& p, int32_t channels) {
  const int32_t own = s.in.channels / s.op.groups, rows = s.weight.rows;
  const int32_t per_group = rows / s.op.groups, last = (s.in.channels - 1) / channels;
  std::vector<Cut> cuts;
  for (int32_t r = 0; r < rows; r++) {
    const int32_t group = r / per_group * own;  // its first channel
    const int32_t base = checked(group * channel_step(p));
    const int32_t end = s.weight.start[r + 1];
    int32_t at = s.weight.start[r], column = 0, block = 0;
    const auto next = [&] {  // the block that entry `at` reads
      return (group + (column + s.weight.gaps[at]) / s.taps()) / channels;
    };
    for (;;) {
      Segment segment{r, at, 0, column, base};
      for (; at < end && next() == block; at++, segment.count++)
        column += s.weight.gaps[at];
      if (segment.count || block == 0 || block == last) cuts.push_back({block, segment});
      if (block == last) break;
      block = at < end ? next() : last;
    }
  }
  std::stable_sort(cuts.begin(), cuts.end(),
                   [](const Cut& a, const Cut& b) { return a.block < b.block; });
  return cuts;
}

void fill_segments(const Shape& s, int32_t channels, ConvPlan& p) {
  const std::vector<Cut> cuts = cut_rows(s, p, channels);
  for (size_t from = 0, to = 0; from < cuts.size(); from = to) {
    while (to < cuts.size() && cuts[to].block == cuts[from].block) to++;
    ConvBlock block = block_at(s, p, cuts[from].block, channels);
    block.segments.reserve(to - from);
    block.shard.push_back(0);
    for (int32_t shard = 0; shard < p.shards; shard++) {
      const auto first = static_cast<ptrdiff_t>(block.segments.size());
      for (size_t i = from; i < to; i++)
        if (cuts[i].segment.row % p.shards == shard)
          block.segments.push_back(cuts[i].segment);
      std::stable_sort(
          block.segments.begin() + first, block.segments.end(),
          [](const Segment& a, const Segment& c) { return a.count > c.count; });
      block.shard.push_back(static_cast<int32_t>(block.segments.size()));
    }
    p.blocks.push_back(std::move(block));
  }
}

}  // namespace

ConvPlan plan_conv(const Kernels& kernels, const ByteKernels* bytes, const OpRecord& op,
                   const Buffer& in, const Buffer& out, const Weight& weight,
                   const BytePlan* before) {
  ConvPlan p;
  const bool rounded = op.input_scale != 0;
  if (rounded && bytes) p.bytes = plan_bytes(*bytes, op, in, out, weight, before);
  if (p.bytes.floats) {
    if (!p.bytes.follows) p.source_floats = p.bytes.floats;
    check_scratch(p.source_floats);
    return p;
  }
  p.dense = weight.encoding == kGroups;
  p.flat = may_be_flat(kernels, op, in, out);
  const Shape s{kernels, op, p.flat ? flattened(in) : in, p.flat ? flattened(out) : out, weight};
  if (!p.dense && !rounded) p.depthwise = plan_depthwise(kernels, op, in, out);
  if (p.depthwise.strip) {
    p.pack_floats = p.depthwise.floats;
    check_scratch(p.pack_floats);
    return p;
  }
  std::vector<Tap> taps;
  std::map<std::pair<int32_t, int32_t>, int32_t> columns;
  for (int32_t k = 0; k < s.taps(); k++) {
    const Tap t = tap_of(op, k, s.strided());
    columns[{t.phase_h * op.stride_w + t.phase_w, t.column}]++;
  }
  p.packed = !p.flat && cheaper_packed(s, static_cast<int32_t>(columns.size()), p.dense);
  p.phases = s.strided() || (!p.packed && s.padded());
  for (int32_t k = 0; k < s.taps(); k++) taps.push_back(tap_of(op, k, p.phases));
  plan_source(s, taps, p);
  plan_tiles(s, p);
  p.shards = plan_shards(s, p);
  const std::vector<int32_t> origins = phase_origins(taps, p);
  std::vector<int32_t> copy_of_tap;
  if (p.packed) {
    copy_of_tap = plan_copies(s, taps, origins, p);
    int32_t last = INT32_MIN;
    p.row_from = INT32_MAX;
    for (const Tap& t : taps) {
      p.row_from = std::min(p.row_from, t.row);
      last = std::max(last, t.row);
    }
    p.row_span = last - p.row_from + 1;
    const int64_t rows = tile_rows(s, p) + p.row_span - 1;
    p.step = (rows * p.pack_row + 15) / 16 * 16;
    check_scratch(channel_step(p));
  }
  const int32_t channels = block_channels(s, p);
  if (p.packed) {  // a tile's last vectors may read past its last row
    p.pack_floats = channel_step(p) * channels + p.pack_row + p.vectors * kernels.lanes + 64;
    check_scratch(p.pack_floats);
  }
  fill_offsets(s, taps, origins, copy_of_tap, p);
  if (!p.dense) fill_segments(s, channels, p);
  for (int32_t c = 0; p.dense && c < in.channels; c += channels)
    p.blocks.push_back(block_at(s, p, c / channels, channels));
  // Vectors of sums lie behind each other, whatever the rows' width: where the output's own
  // pixels do as well, they are kept there.
  if (p.blocks.size() > 1 && !p.flat && (p.tile_rows || !p.packed || out.plane() == 1)) {
    p.sums_at = (p.pack_floats + 15) / 16 * 16;
    p.sums_row = (p.packed ? p.vectors : p.tile_h * p.tile_w) * kernels.lanes;
    p.pack_floats = p.sums_at + p.sums_row * weight.rows;
    check_scratch(p.pack_floats);
  }
  if (!rounded) return p;
  for (int32_t r = 0; r < weight.rows; r++)
    p.scales.push_back(weight.values.scale[r] * op.input_scale);
  p.rounded_at = (p.source_floats + kSlack + 15) / 16 * 16;
  p.source_floats = p.rounded_at + in.floats();
  check_scratch(p.source_floats);
  return p;
}

}  // namespace flsp
