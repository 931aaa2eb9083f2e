// The checks that check.h lists: a hostile number is refused here or harms nobody.
#include "check.h"

#include "elements.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <map>

namespace flsp {
namespace {

constexpr int32_t kMostSide = 1 << 16, kMostChannels = 1 << 24;
constexpr int32_t kMostWindow = 1 << 12;  // kernel, stride, dilation, padding
constexpr int64_t kGuard = 48;  // floats beside a buffer that an exporter may leave

void need(bool condition, const char* what) {
  if (!condition) throw Error(std::string("an operation is malformed: ") + what);
}

bool known(int32_t index, size_t count) {
  return index >= 0 && static_cast<size_t>(index) < count;
}

bool same_shape(const Buffer& a, const Buffer& b) {
  return a.channels == b.channels && a.height == b.height && a.width == b.width;
}

// Floats that it takes; 0 if it does not lie in the arena.
int64_t check_buffer(const Buffer& b, int64_t arena) {
  if (b.channels < 1 || b.height < 1 || b.width < 1 || b.channels > kMostChannels ||
      b.height > kMostSide || b.width > kMostSide)
    throw Error("a buffer's shape is out of range");
  if (b.plane() > kMostFloats / b.channels || b.offset < 0 || b.offset > arena ||
      b.floats() > arena - b.offset || b.offset % 16)
    throw Error("a buffer lies outside the arena");
  return b.floats();
}

void check_arena(const Program& p) {
  int64_t together = 0;
  for (const Buffer& b : p.buffers) together += check_buffer(b, p.arena_floats) + kGuard;
  if (p.arena_floats > together)
    throw Error("the file declares an arena of " + std::to_string(p.arena_floats) +
                " floats; its buffers take " + std::to_string(together) + " together");
}

uint64_t entries_of(const WeightRecord& r) {
  const auto rows = static_cast<uint64_t>(r.rows), columns = static_cast<uint64_t>(r.columns);
  switch (r.encoding) {
    case kRows: return rows * columns;
    case kGroups: return (rows + kGroupRows - 1) / kGroupRows * kGroupRows * columns;
    case kGaps: return r.entries;
    default: throw Error("a weight has an unknown encoding");
  }
}

// Every entry's column lies inside the matrix, and none but a row's first is named twice.
void check_gaps(Weight& w, const uint32_t* counts) {
  uint64_t at = 0;
  const auto entries = static_cast<uint64_t>(w.entries);
  w.start.reserve(static_cast<size_t>(w.rows) + 1);
  w.start.push_back(0);
  for (int32_t row = 0; row < w.rows; row++) {
    if (counts[row] > entries - at) throw Error("a weight's row counts are wrong");
    uint64_t last = 0;  // gaps are not negative: no column is further out
    uint32_t repeats = 0;
    for (uint32_t i = 0; i < counts[row]; i++) {
      last += w.gaps[at + i];
      repeats += w.gaps[at + i] == 0;
    }
    if (last >= static_cast<uint64_t>(w.columns))
      throw Error("a weight's column is out of range");
    if (repeats > (counts[row] && w.gaps[at] == 0 ? 1u : 0u))
      throw Error("a weight's column is named twice");
    at += counts[row];
    w.start.push_back(static_cast<int32_t>(at));
  }
  if (at != entries) throw Error("a weight's row counts are wrong");
}

// Bytes of the file that a weight's arrays take.
int64_t bytes_of(const Weight& w) {
  const int64_t value = w.values.scale ? 1 : sizeof(float);
  const int64_t row = 4 + (w.gaps ? 4 : 0) + (w.values.scale ? 4 : 0);
  return w.entries * (value + (w.gaps ? 1 : 0)) + w.rows * row;
}

// Layers that share a weight name the same bytes; so many of them that opening costs many
// times what the file holds are refused (MOST_USES of fileformat.py).
constexpr int64_t kMostUses = 16;

void check_weights(Program& p) {
  int64_t bytes = 0;
  for (const Weight& w : p.weights) bytes += bytes_of(w);
  if (bytes / kMostUses > p.file_bytes) throw Error("the file's weights overlap");
  for (size_t i = 0; i < p.weights.size(); i++)
    if (p.weights[i].encoding == kGaps) check_gaps(p.weights[i], p.counts[i]);
}

// One axis of a window: `out` positions are those that fit the padded input, whose far
// padding the file leaves out: it is what the last window needs.
void check_axis(int32_t in, int32_t out, int32_t kernel, int32_t stride, int32_t dilation,
                int32_t pad) {
  const int64_t reach = int64_t{kernel - 1} * dilation + 1;
  const int64_t end = int64_t{out - 1} * stride - pad + reach;  // of the last window
  need(end - in <= kMostWindow, "the output is larger than its window allows");
  need(end + stride > in, "the output is smaller than its window makes it");
}

void check_window(const OpRecord& o, const Buffer& in, const Buffer& out) {
  for (int32_t v : {o.kernel_h, o.kernel_w, o.stride_h, o.stride_w, o.dilation_h,
                    o.dilation_w})
    need(v >= 1 && v <= kMostWindow, "window");
  for (int32_t v : {o.pad_top, o.pad_left}) need(v >= 0 && v <= kMostWindow, "padding");
  check_axis(in.height, out.height, o.kernel_h, o.stride_h, o.dilation_h, o.pad_top);
  check_axis(in.width, out.width, o.kernel_w, o.stride_w, o.dilation_w, o.pad_left);
}

// A sum of whole numbers below 2^24 is the same in float32 and in any order.
void check_rounded(const OpRecord& o, const Weight& w) {
  need(o.input_scale > 1e-30f && o.input_scale < 1e30f && o.extra >= 0 && o.extra <= 255,
       "input scale");
  need(w.values.scale && o.groups == 1, "rounded inputs of a layer that is not int8");
  const auto* values = static_cast<const int8_t*>(w.values.at);
  std::vector<int64_t> sums(static_cast<size_t>(w.rows));
  if (w.encoding == kGaps) {
    for (int32_t r = 0; r < w.rows; r++)
      for (int32_t i = w.start[r]; i < w.start[r + 1]; i++) sums[r] += std::abs(values[i]);
  } else {
    for (int64_t i = 0; i < w.entries; i++) {
      const int64_t row = i / (int64_t{w.columns} * kGroupRows) * kGroupRows + i % kGroupRows;
      if (row < w.rows) sums[row] += std::abs(values[i]);
    }
  }
  for (const int64_t sum : sums) need(sum * 255 < int64_t{1} << 24, "sums beyond float32");
}

void check_conv(const OpRecord& o, const Buffer& in, const Buffer& out, const Weight& w) {
  check_window(o, in, out);
  need(o.groups >= 1 && in.channels % o.groups == 0 && out.channels % o.groups == 0,
       "groups");
  need(w.rows == out.channels, "output channels");
  need(int64_t{in.channels / o.groups} * o.kernel_h * o.kernel_w == w.columns,
       "input channels");
  need(out.pixels() > 1, "a convolution to one pixel is a linear layer");
  need(w.encoding == kGaps || (w.encoding == kGroups && o.groups == 1), "encoding");
  if (o.input_scale != 0) check_rounded(o, w);
}

void check_kind(const OpRecord& o, const Buffer& in, const Buffer& out, const Weight& w) {
  switch (o.kind) {
    case kConv: check_conv(o, in, out, w); break;
    case kLinear:
      need(w.rows == out.channels && out.pixels() == 1, "outputs");
      need(w.columns == in.channels * in.pixels(), "inputs");
      need(w.encoding != kGroups, "encoding");
      break;
    case kMaxPool:
    case kAveragePool:
      check_window(o, in, out);
      need(in.channels == out.channels, "pool channels");
      need(o.kind == kAveragePool || o.dilation_w == 1, "dilated pool");
      break;
    case kGlobalAverage:
      need(in.channels == out.channels && out.pixels() == 1, "global pool");
      break;
    case kAdd: need(same_shape(in, out) && o.in2 >= 0, "add"); break;
    case kPlace:
      need(in.height == out.height && in.width == out.width && o.extra >= 0 &&
               o.extra <= out.channels - in.channels, "concat");
      break;
    case kActivation:
      need(same_shape(in, out) && o.extra >= kClip && o.extra <= kHardSwish, "function");
      need(o.extra != kSoftmax || in.pixels() == 1, "softmax over pixels");
      break;
    case kAffine:
      need(same_shape(in, out), "affine shape");
      need(w.rows == in.channels && w.columns == 1 && w.encoding == kRows &&
               !w.values.scale, "affine weight");
      break;
    case kFlatten:
      need(out.pixels() == 1 && out.channels == in.channels * in.pixels(), "flatten");
      break;
    default: need(false, "unknown kind");
  }
}

bool weighted(const OpRecord& o) {
  return o.kind == kConv || o.kind == kLinear || o.kind == kAffine ||
         element_weighted(o.kind);
}

void check_op(const Program& p, const OpRecord& o) {
  const size_t buffers = p.buffers.size();
  need(known(o.in, buffers) && known(o.out, buffers), "buffer");
  need(o.in2 == -1 || known(o.in2, buffers), "second buffer");
  need(o.in2 == -1 || o.kind == kConv || o.kind == kLinear || o.kind == kAdd ||
           element_paired(o.kind) || o.kind == kRecurrent,
       "a second buffer that nothing reads");
  need(weighted(o) ? known(o.weight, p.weights.size()) : o.weight == -1, "weight");
  need(o.low <= o.high, "clip");
  need(o.input_scale == 0 || o.kind == kConv || o.kind == kView, "it is of another format");
  const Buffer &in = p.buffers[o.in], &out = p.buffers[o.out];
  need(apart(in, out), "its output overlaps its input");
  if (o.in2 >= 0) {
    const Buffer& second = p.buffers[o.in2];
    need(element_kind(o.kind) || same_shape(second, out), "second shape");
    need(apart(second, out), "its output overlaps its second input");
  }
  const Weight weight = weighted(o) ? p.weights[o.weight] : Weight{};
  if (element_kind(o.kind))
    return check_element(o, in, o.in2 < 0 ? in : p.buffers[o.in2], out, weight);
  check_kind(o, in, out, weight);
}

// What of each buffer is still to be written before it may be read. The arena's memory
// holds one buffer at a place: whoever writes there loses what another one had.
class Contents {
 public:
  explicit Contents(const std::vector<Buffer>& buffers) : buffers_(buffers) {
    for (const Buffer& b : buffers) missing_.push_back(b.channels);
  }
  bool whole(int32_t b) const { return missing_[b] <= 0; }

  void write(int32_t b, int32_t channels) {
    const int64_t begin = buffers_[b].offset, end = begin + buffers_[b].floats();
    auto at = places_.lower_bound(begin);
    if (at != places_.begin() && std::prev(at)->second.end > begin) --at;
    while (at != places_.end() && at->first < end) {
      const int32_t other = at->second.buffer;
      if (other != b) missing_[other] = buffers_[other].channels;
      at = places_.erase(at);
    }
    places_[begin] = {end, b};
    missing_[b] -= channels;
  }

 private:
  struct Place {
    int64_t end;
    int32_t buffer;
  };
  const std::vector<Buffer>& buffers_;
  std::vector<int64_t> missing_;  // channels
  std::map<int64_t, Place> places_;
};

// Nothing is read before it is written, or after another buffer took its memory; each
// weight belongs to one operation, and the last buffer is the result.
void check_order(const Program& p) {
  Contents contents(p.buffers);
  contents.write(0, p.buffers.front().channels);
  std::vector<bool> used(p.weights.size());
  for (const OpRecord& o : p.ops) {
    need(contents.whole(o.in) && (o.in2 < 0 || contents.whole(o.in2)),
         "it reads what is not there");
    need(o.out != 0, "it writes the input");
    contents.write(o.out, p.buffers[o.kind == kPlace ? o.in : o.out].channels);
    if (!weighted(o)) continue;
    need(!used[o.weight], "its weight is another's");
    used[o.weight] = true;
  }
  if (!contents.whole(static_cast<int32_t>(p.buffers.size()) - 1))
    throw Error("the file's operations do not write its output");
}

// Tables that plan.cpp makes for every column and tap, entries or not.
void check_tables(const Program& p) {
  int64_t bytes = 0;
  for (const OpRecord& o : p.ops)
    if (o.kind == kConv)
      bytes += int64_t{p.weights[o.weight].columns} * 4 + int64_t{o.kernel_h} * o.kernel_w * 256;
  if (bytes > kFreeTables + kTablesPerByte * p.file_bytes)
    throw Error("the file's convolutions are too large for what it stores");
}

}  // namespace

int64_t pool_line(const OpRecord& o, const Buffer& out) {
  return kPoolLines * (int64_t{out.width - 1} * o.stride_w + o.kernel_w + 64);
}

void check_shape(const WeightRecord& r) {
  if (r.rows < 1 || r.columns < 1 || r.entries > static_cast<uint64_t>(kMostFloats) ||
      int64_t{r.rows} * r.columns > 4 * kMostFloats)
    throw Error("a weight's shape is out of range");
  if (r.entries != entries_of(r)) throw Error("a weight has the wrong number of values");
  if (r.value_type != kFloat && r.value_type != kInt8)
    throw Error("a weight has an unknown value type");
}

void check_program(Program& p) {
  check_arena(p);
  check_weights(p);
  for (const OpRecord& o : p.ops) check_op(p, o);
  check_order(p);
  check_tables(p);
}

void check_plan(const Kernels& kernels, const ConvPlan& p) {
  if (p.depthwise.strip || p.bytes.floats) return;
  const int32_t most = !p.packed && p.dense ? kernels.max_dense : kernels.max_sparse;
  const int32_t vectors = p.packed ? p.vectors : p.tile_h * p.tile_w;
  const bool compiled = p.packed || p.tile_h == 1 ||
                        ((p.tile_h == 2 || p.tile_h == 4) && p.tile_w <= 4);
  if (vectors < 1 || vectors > std::min<int32_t>(most, kMostVectors) || !compiled)
    throw Error("a convolution has no tile on this processor");
}

void check_memory(const Program& p, int64_t source_floats, int64_t pack_floats) {
  const Buffer& in = p.buffers.front();
  const int64_t given = in.channels * in.pixels() + p.file_bytes / 4;
  const int64_t most = std::min(kMostFloats, kFreeFloats + kFloatsPerFloat * given);
  const int64_t wanted = p.arena_floats + source_floats + pack_floats;
  if (wanted > most)
    throw Error("the model needs " + std::to_string(wanted * 4) +
                " bytes of memory to run; for its input and size at most " +
                std::to_string(most * 4) + " are given");
}

}  // namespace flsp
