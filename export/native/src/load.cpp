// Reads a .flsp file: every offset, count and index is checked before it is used, so a
// damaged or hostile file is refused and never read beyond its end.
#include <algorithm>
#include <cstring>

#include "model.h"

namespace flsp {
namespace {

constexpr int64_t kMostFloats = int64_t{1} << 29;  // 2 GiB of activations or weights
constexpr int32_t kMostSide = 1 << 16;

uint32_t crc32(const uint8_t* data, size_t size) {
  static const std::vector<uint32_t> table = [] {
    std::vector<uint32_t> t(256);
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t c = i;
      for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  for (size_t i = 0; i < size; i++) crc = table[(crc ^ data[i]) & 255] ^ (crc >> 8);
  return crc ^ 0xFFFFFFFFu;
}

class File {
 public:
  File(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  // `count` records of type T at an offset; refuses what lies beyond the file.
  template <class T>
  std::vector<T> read(uint64_t at, uint64_t count, const char* what) const {
    if (at > size_ || count > (size_ - at) / sizeof(T))
      throw Error(std::string("the file ends inside its ") + what);
    std::vector<T> out(count);
    if (count) std::memcpy(out.data(), data_ + at, count * sizeof(T));
    return out;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

Header read_header(const uint8_t* data, size_t size) {
  Header h;
  if (size < sizeof h) throw Error("the file is too short to be a .flsp file");
  std::memcpy(&h, data, sizeof h);
  if (std::memcmp(h.magic, "FLSP", 4) != 0) throw Error("this is not a .flsp file");
  if (h.version != kVersion)
    throw Error("the file has format " + std::to_string(h.version) + ", this runtime " +
                std::to_string(kVersion));
  if (h.file_bytes != size)
    throw Error("the file has " + std::to_string(size) + " bytes, it should have " +
                std::to_string(h.file_bytes));
  if (crc32(data + sizeof h, size - sizeof h) != h.crc)
    throw Error("the file is damaged: its checksum is wrong");
  if (h.buffers < 2 || h.ops < 1 || h.buffers > 100000 || h.ops > 100000 ||
      h.weights > 100000 || h.arena_floats > static_cast<uint64_t>(kMostFloats))
    throw Error("the file's header is out of range");
  return h;
}

Buffer check_buffer(const BufferRecord& r, int64_t arena) {
  if (r.channels < 1 || r.height < 1 || r.width < 1 || r.channels > (1 << 24) ||
      r.height > kMostSide || r.width > kMostSide)
    throw Error("a buffer's shape is out of range");
  Buffer b{r.channels, r.height, r.width, static_cast<int64_t>(r.offset)};
  if (b.plane() > kMostFloats / b.channels || r.offset > static_cast<uint64_t>(arena) ||
      b.floats() > arena - b.offset || b.offset % 16)
    throw Error("a buffer lies outside the arena");
  return b;
}

// Values as floats, int8 ones scaled by their row.
std::vector<float> read_values(const File& file, const WeightRecord& r) {
  if (r.value_type == kFloat) return file.read<float>(r.values_at, r.entries, "weights");
  const auto raw = file.read<int8_t>(r.values_at, r.entries, "weights");
  return std::vector<float>(raw.begin(), raw.end());
}

void decode_gaps(const File& file, const WeightRecord& r, std::vector<float> values,
                 Matrix& m) {
  const auto gaps = file.read<uint8_t>(r.pattern_at, r.entries, "pattern");
  const auto counts = file.read<uint32_t>(r.counts_at, r.rows, "row counts");
  uint64_t at = 0;
  for (int32_t row = 0; row < r.rows; row++) {
    int64_t column = 0;
    if (counts[row] > r.entries - at) throw Error("a weight's row counts are wrong");
    for (uint32_t i = 0; i < counts[row]; i++, at++) {
      column += gaps[at];
      if (column >= r.columns) throw Error("a weight's column is out of range");
      if (i && gaps[at] == 0) throw Error("a weight's column is named twice");
      // A filler of value 0 only carries the running column on.
      if (gaps[at] == 255 && values[at] == 0.0f) continue;
      m.column.push_back(static_cast<int32_t>(column));
      m.value.push_back(values[at]);
    }
    m.start.push_back(static_cast<int32_t>(m.value.size()));
  }
  if (at != r.entries) throw Error("a weight's row counts are wrong");
}

void decode_bitmask(const File& file, const WeightRecord& r, std::vector<float> values,
                    Matrix& m) {
  const uint64_t total = static_cast<uint64_t>(r.rows) * r.columns;
  const auto bits = file.read<uint8_t>(r.pattern_at, (total + 7) / 8, "pattern");
  uint64_t at = 0, used = 0;
  for (int32_t row = 0; row < r.rows; row++) {
    for (int32_t c = 0; c < r.columns; c++, at++) {
      if (!(bits[at >> 3] >> (at & 7) & 1)) continue;
      if (used == r.entries) throw Error("a weight has fewer values than bits");
      m.column.push_back(c);
      m.value.push_back(values[used++]);
    }
    m.start.push_back(static_cast<int32_t>(m.value.size()));
  }
  if (used != r.entries) throw Error("a weight has more values than bits");
}

void decode_dense(const WeightRecord& r, std::vector<float> values, Matrix& m) {
  if (r.entries != static_cast<uint64_t>(r.rows) * r.columns)
    throw Error("a dense weight has the wrong number of values");
  m.dense = true;
  m.value = std::move(values);
  for (int32_t row = 1; row <= r.rows; row++) m.start.push_back(row * r.columns);
}

Matrix read_weight(const File& file, const WeightRecord& r) {
  if (r.rows < 1 || r.columns < 1 || r.entries > static_cast<uint64_t>(kMostFloats) ||
      static_cast<int64_t>(r.rows) * r.columns > 4 * kMostFloats)
    throw Error("a weight's shape is out of range");
  Matrix m;
  m.rows = r.rows;
  m.columns = r.columns;
  m.start.push_back(0);
  auto values = read_values(file, r);
  switch (r.encoding) {
    case kDense: decode_dense(r, std::move(values), m); break;
    case kGaps: decode_gaps(file, r, std::move(values), m); break;
    case kBitmask: decode_bitmask(file, r, std::move(values), m); break;
    default: throw Error("a weight has an unknown encoding");
  }
  if (r.value_type == kInt8) {
    const auto scale = file.read<float>(r.scales_at, r.rows, "scales");
    for (int32_t row = 0; row < r.rows; row++)
      for (int32_t i = m.start[row]; i < m.start[row + 1]; i++) m.value[i] *= scale[row];
  } else if (r.value_type != kFloat) {
    throw Error("a weight has an unknown value type");
  }
  m.bias = file.read<float>(r.bias_at, r.rows, "biases");
  return m;
}

bool known(int32_t index, size_t count) {
  return index >= 0 && static_cast<size_t>(index) < count;
}

bool same_shape(const Buffer& a, const Buffer& b) {
  return a.channels == b.channels && a.height == b.height && a.width == b.width;
}

void need(bool condition, const char* what) {
  if (!condition) throw Error(std::string("an operation is malformed: ") + what);
}

void check_window(const OpRecord& o) {
  const int32_t least = 1, most = 1 << 12;
  for (int32_t v : {o.kernel_h, o.kernel_w, o.stride_h, o.stride_w, o.dilation_h,
                    o.dilation_w})
    need(v >= least && v <= most, "window");
  need(o.pad_top >= 0 && o.pad_left >= 0 && o.pad_top <= most && o.pad_left <= most,
       "padding");
}

// Scratch of one row of windows, with room for two vectors behind it.
int64_t pool_line(const OpRecord& o, const Buffer& out) {
  return static_cast<int64_t>(out.width - 1) * o.stride_w + o.kernel_w + 64;
}

void check_conv(const OpRecord& o, const Buffer& in, const Buffer& out, const Matrix& w) {
  check_window(o);
  need(o.groups >= 1 && in.channels % o.groups == 0 && out.channels % o.groups == 0,
       "groups");
  need(w.rows == out.channels, "output channels");
  need(static_cast<int64_t>(in.channels / o.groups) * o.kernel_h * o.kernel_w ==
           w.columns, "input channels");
  need(out.pixels() > 1, "a convolution to one pixel is a linear layer");
}

void check_op(const Model& model, const OpRecord& o, const Matrix& w) {
  const size_t buffers = model.buffers.size();
  need(known(o.in, buffers) && known(o.out, buffers), "buffer");
  need(o.in2 == -1 || known(o.in2, buffers), "second buffer");
  need(!(o.low > o.high), "clip");
  const Buffer& in = model.buffers[o.in];
  const Buffer& out = model.buffers[o.out];
  need(o.in2 < 0 || same_shape(model.buffers[o.in2], out), "second shape");
  switch (o.kind) {
    case kConv: check_conv(o, in, out, w); break;
    case kLinear:
      need(w.rows == out.channels && out.pixels() == 1, "outputs");
      need(w.columns == in.channels * in.pixels(), "inputs");
      break;
    case kMaxPool:
    case kAveragePool:
      check_window(o);
      need(in.channels == out.channels, "pool channels");
      need(pool_line(o, out) < kMostFloats, "pool width");
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
      need(w.rows == in.channels && w.columns == 1 &&
               w.dense, "affine weight");
      break;
    case kFlatten:
      need(out.pixels() == 1 && out.channels == in.channels * in.pixels(), "flatten");
      break;
    default: need(false, "unknown kind");
  }
}

}  // namespace

void load_model(Model& model, const uint8_t* data, size_t size) {
  const Header h = read_header(data, size);
  const File file(data, size);
  model.kernels = best_kernels();
  model.arena_floats = static_cast<int64_t>(h.arena_floats);
  for (const auto& r : file.read<BufferRecord>(h.buffers_at, h.buffers, "buffers"))
    model.buffers.push_back(check_buffer(r, model.arena_floats));
  const auto weights = file.read<WeightRecord>(h.weights_at, h.weights, "weight table");
  for (const auto& r : file.read<OpRecord>(h.ops_at, h.ops, "operations")) {
    // One decoded weight at a time: the plan keeps its own form.
    const bool weighted = r.kind == kConv || r.kind == kLinear || r.kind == kAffine;
    need(!weighted || known(r.weight, weights.size()), "weight");
    Matrix weight = weighted ? read_weight(file, weights[r.weight]) : Matrix{};
    check_op(model, r, weight);
    const Buffer& in = model.buffers[r.in];
    Op op{r, {}, {}};
    if (r.kind == kConv)
      op.conv = plan_conv(*model.kernels, r, in, model.buffers[r.out], weight);
    if (r.kind == kLinear) op.linear = plan_linear(*model.kernels, in, std::move(weight));
    if (r.kind == kAffine) {
      op.linear.values = std::move(weight.value);
      op.linear.bias = std::move(weight.bias);
    }
    model.source_floats = std::max(model.source_floats, op.conv.source_floats);
    model.pack_floats = std::max(model.pack_floats, op.conv.pack_floats);
    if (r.kind == kMaxPool)
      model.pack_floats = std::max(model.pack_floats, pool_line(r, model.buffers[r.out]));
    if (r.kind == kLinear && op.linear.dense)
      model.source_floats = std::max(model.source_floats, in.channels * in.pixels());
    model.ops.push_back(std::move(op));
  }
  const auto meta = file.read<char>(h.meta_at, h.meta_bytes, "metadata");
  model.metadata.assign(meta.begin(), meta.end());
}

int64_t Model::bytes() const {
  int64_t total = static_cast<int64_t>(sizeof(*this)) + arena_floats * 4;
  total += (source_floats + pack_floats) * 4;
  for (const auto& op : ops) {
    for (const auto& b : op.conv.blocks)
      total += static_cast<int64_t>(b.entries.size() * sizeof(Entry) +
                                    (b.start.size() + b.row.size()) * 4 +
                                    (b.values.size() + b.offset.size()) * 4);
    total += static_cast<int64_t>(op.linear.near.size() * 2 + op.linear.far.size() * 4 +
                                  op.linear.index.size() + op.linear.base.size() * 2 +
                                  op.linear.values.size() * 4);
  }
  return total;
}

}  // namespace flsp
