// How each layer runs on this processor. A convolution is a sum of shifted planes: for
// each kept weight, a register tile of output pixels adds value * shifted input.
//
// Two ways to read the input, by estimated cycles per output vector:
// * packed: the tile's input rows are copied once per horizontal shift, so that all
//   loads are aligned and stay in the first-level cache. Measured on Zen 5, one thread,
//   64 x 64 channels, 32 x 32 pixels, density 0.23: 77 GMAC/s against 57 direct.
// * direct: tiles read the input (padded into a scratch copy if need be). Better where
//   few output channels use each input: depthwise layers, thin first layers.
#include <algorithm>

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

// Index of `value` in `list`, added if new.
int32_t index_of(std::vector<int32_t>& list, int32_t value) {
  const auto found = std::find(list.begin(), list.end(), value);
  if (found != list.end()) return static_cast<int32_t>(found - list.begin());
  list.push_back(value);
  return static_cast<int32_t>(list.size()) - 1;
}

struct Shape {
  const Kernels& kernels;
  const OpRecord& op;
  const Buffer& in;
  const Buffer& out;
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

bool cheaper_packed(const Shape& s, int32_t copies, bool dense) {
  const double lanes = s.kernels.lanes;
  const double crossing = 0.5 * (1 + (lanes - 1) / 16);  // cycles of an unaligned load
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

// The source: the input itself, or its padded copy split into phases by the stride.
void plan_source(const Shape& s, ConvPlan& p) {
  if (!p.phases) {
    p.source_plane = s.in.plane();
    p.source_row = p.source_width = s.in.width;
    p.source_height = s.in.height;
    return;
  }
  for (int32_t k = 0; k < s.taps(); k++) {
    const Tap t = tap_of(s.op, k, true);
    const int32_t key = t.phase_h * s.op.stride_w + t.phase_w;
    bool known = false;
    for (size_t i = 0; i < p.phase_h.size(); i++)
      known |= p.phase_h[i] * s.op.stride_w + p.phase_w[i] == key;
    if (known) continue;
    p.phase_h.push_back(t.phase_h);
    p.phase_w.push_back(t.phase_w);
  }
  p.source_height = s.out.height + (s.op.kernel_h - 1) * s.op.dilation_h / s.op.stride_h;
  p.source_width = s.out.width + (s.op.kernel_w - 1) * s.op.dilation_w / s.op.stride_w;
  p.source_row = (p.source_width + 15) / 16 * 16;
  const int64_t plane = static_cast<int64_t>(p.source_height) * p.source_row;
  p.source_plane = (plane * static_cast<int64_t>(p.phase_h.size()) + 15) / 16 * 16;
  p.source_floats = p.source_plane * s.in.channels;
}

// Where a tap's phase starts within a channel of the source.
int32_t phase_origin(const Shape& s, const ConvPlan& p, const Tap& t) {
  for (size_t i = 0; i < p.phase_h.size(); i++)
    if (p.phase_h[i] == t.phase_h && p.phase_w[i] == t.phase_w)
      return static_cast<int32_t>(i) * p.source_height * p.source_row;
  (void)s;
  return 0;
}

// Copies of one channel: one per phase row and horizontal position that a tap reads.
std::vector<int32_t> plan_copies(const Shape& s, ConvPlan& p) {
  std::vector<int32_t> keys, copy_of_tap;
  for (int32_t k = 0; k < s.taps(); k++) {
    const Tap t = tap_of(s.op, k, p.phases);
    const int32_t origin = phase_origin(s, p, t);
    int32_t found = -1;
    for (size_t i = 0; i < p.origin.size(); i++)
      if (p.origin[i] == origin && p.shift[i] == t.column) found = static_cast<int32_t>(i);
    if (found < 0) {
      found = static_cast<int32_t>(p.origin.size());
      p.origin.push_back(origin);
      p.shift.push_back(t.column);
    }
    copy_of_tap.push_back(found);
  }
  return copy_of_tap;
}

void plan_tiles(const Shape& s, ConvPlan& p) {
  const int32_t lanes = s.kernels.lanes;
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
      : p.packed ? (s.out.pixels() + p.vectors * s.kernels.lanes - 1) /
                     (p.vectors * s.kernels.lanes)
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
  if (!p.packed) {  // the tile's own rows of all channels of a block
    const int64_t per = static_cast<int64_t>(p.source_row) *
                        (p.tile_h + (s.op.kernel_h - 1) * s.op.dilation_h);
    const int64_t fit = kCacheFloats / std::max<int64_t>(1, per);
    return static_cast<int32_t>(std::clamp<int64_t>(fit, 1, s.in.channels));
  }
  const int64_t per = p.step * static_cast<int64_t>(p.origin.size());
  const int64_t fit = kCacheFloats / std::max<int64_t>(1, per);
  const double per_channel = static_cast<double>(s.weight.entries) / s.weight.rows *
                             s.op.groups / s.in.channels;
  const double entries = std::clamp(kEntryVectors / p.vectors, 12, 64);
  const int64_t enough = static_cast<int64_t>(entries / std::max(per_channel, 1e-3));
  return static_cast<int32_t>(
      std::clamp<int64_t>(std::max<int64_t>({fit, enough, 1}), 1, s.in.channels));
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
void fill_offsets(const Shape& s, const std::vector<int32_t>& copy_of_tap, ConvPlan& p) {
  for (int32_t column = 0; column < s.weight.columns; column++) {
    const int32_t k = column % s.taps();
    const Tap t = tap_of(s.op, k, p.phases);
    const int64_t tap =
        p.packed ? copy_of_tap[k] * p.step + int64_t{t.row - p.row_from} * p.pack_row
                 : phase_origin(s, p, t) + int64_t{t.row} * p.source_row + t.column;
    p.offset.push_back(checked(column / s.taps() * channel_step(p) + tap));
  }
}

// Each row's entries, cut where the blocks of input channels end.
void fill_segments(const Shape& s, ConvPlan& p) {
  const int32_t own = s.in.channels / s.op.groups, rows = s.weight.rows;
  const int32_t per_group = rows / s.op.groups;
  std::vector<std::vector<Segment>> found(p.blocks.size());
  for (int32_t r = 0; r < rows; r++) {
    const int32_t group = r / per_group * own;  // its first channel
    const int32_t base = checked(group * channel_step(p));
    const int32_t end = s.weight.start[r + 1];
    int32_t at = s.weight.start[r], column = 0;
    for (size_t b = 0; b < p.blocks.size(); b++) {
      const ConvBlock& block = p.blocks[b];
      const int64_t stop = int64_t{block.channel + block.channels - group} * s.taps();
      Segment segment{r, at, 0, column, base};
      for (; at < end && column + s.weight.gaps[at] < stop; at++, segment.count++)
        column += s.weight.gaps[at];
      // The first block sets the bias, the last one finishes: of every row.
      const bool ends = b == 0 || b + 1 == p.blocks.size();
      if (ends || segment.count) found[b].push_back(segment);
    }
  }
  for (size_t b = 0; b < p.blocks.size(); b++) {
    ConvBlock& block = p.blocks[b];
    block.shard.push_back(0);
    for (int32_t shard = 0; shard < p.shards; shard++) {
      const size_t first = block.segments.size();
      for (const Segment& segment : found[b])
        if (segment.row % p.shards == shard) block.segments.push_back(segment);
      std::stable_sort(block.segments.begin() + static_cast<ptrdiff_t>(first),
                       block.segments.end(), [](const Segment& a, const Segment& c) {
                         return a.count > c.count;
                       });
      block.shard.push_back(static_cast<int32_t>(block.segments.size()));
    }
    block.segments.shrink_to_fit();
  }
}

}  // namespace

ConvPlan plan_conv(const Kernels& kernels, const OpRecord& op, const Buffer& in,
                   const Buffer& out, const Weight& weight) {
  const Shape s{kernels, op, in, out, weight};
  ConvPlan p;
  p.dense = weight.encoding == kGroups;
  std::vector<int32_t> columns;
  for (int32_t k = 0; k < s.taps(); k++) {
    const Tap t = tap_of(op, k, s.strided());
    index_of(columns, (t.phase_h * op.stride_w + t.phase_w) * 65536 + t.column);
  }
  p.packed = cheaper_packed(s, static_cast<int32_t>(columns.size()), p.dense);
  p.phases = s.strided() || (!p.packed && s.padded());
  plan_source(s, p);
  plan_tiles(s, p);
  p.shards = plan_shards(s, p);
  std::vector<int32_t> copy_of_tap;
  if (p.packed) {
    copy_of_tap = plan_copies(s, p);
    int32_t last = INT32_MIN;
    p.row_from = INT32_MAX;
    for (int32_t k = 0; k < s.taps(); k++) {
      const int32_t row = tap_of(op, k, p.phases).row;
      p.row_from = std::min(p.row_from, row);
      last = std::max(last, row);
    }
    p.row_span = last - p.row_from + 1;
    const int64_t rows = tile_rows(s, p) + p.row_span - 1;
    p.step = (rows * p.pack_row + 15) / 16 * 16;
  }
  const int32_t channels = block_channels(s, p);
  for (int32_t c = 0; c < in.channels; c += channels) {
    ConvBlock block;
    block.channel = c;
    block.channels = std::min(channels, in.channels - c);
    block.base = p.packed ? -c * channel_step(p) : 0;
    p.blocks.push_back(std::move(block));
  }
  if (p.packed)  // a tile's last vectors may read past its last row
    p.pack_floats = channel_step(p) * channels + p.pack_row + p.vectors * kernels.lanes + 64;
  if (p.source_floats > kMostScratch || p.pack_floats > kMostScratch)
    throw Error("a convolution needs too much scratch memory");
  fill_offsets(s, copy_of_tap, p);
  if (!p.dense) fill_segments(s, p);
  return p;
}

}  // namespace flsp
