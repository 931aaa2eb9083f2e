// Reads a .flsp file: every offset, count and index is checked before it is used, so a
// damaged or hostile file is refused and never read beyond its end.
#include <algorithm>
#include <array>
#include <cstring>

#include "file.h"

namespace flsp {
namespace {

constexpr int32_t kMostSide = 1 << 16;

// Eight bytes at a time: a byte at a time took longer than all the rest of opening.
uint32_t crc32(const uint8_t* data, size_t size) {
  static const auto table = [] {
    std::array<std::array<uint32_t, 256>, 8> t{};
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t c = i;
      for (int k = 0; k < 8; k++) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
      t[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
      for (int k = 1; k < 8; k++) t[k][i] = t[0][t[k - 1][i] & 255] ^ (t[k - 1][i] >> 8);
    return t;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  for (; size >= 8; data += 8, size -= 8) {
    uint32_t low, high;
    std::memcpy(&low, data, 4);
    std::memcpy(&high, data + 4, 4);
    low ^= crc;
    crc = table[7][low & 255] ^ table[6][low >> 8 & 255] ^ table[5][low >> 16 & 255] ^
          table[4][low >> 24] ^ table[3][high & 255] ^ table[2][high >> 8 & 255] ^
          table[1][high >> 16 & 255] ^ table[0][high >> 24];
  }
  for (; size; data++, size--) crc = table[0][(crc ^ *data) & 255] ^ (crc >> 8);
  return crc ^ 0xFFFFFFFFu;
}

Header read_header(const uint8_t* data, size_t size) {
  Header h;
  if (size < sizeof h) throw Error("the file is too short to be a .flsp file");
  std::memcpy(&h, data, sizeof h);
  if (std::memcmp(h.magic, "FLSP", 4) != 0) throw Error("this is not a .flsp file");
  if (h.version != kVersion)
    throw Error("the file has format " + std::to_string(h.version) + ", this runtime reads " +
                std::to_string(kVersion) + ": export the checkpoint again");
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

void check_conv(const OpRecord& o, const Buffer& in, const Buffer& out, const Weight& w) {
  check_window(o);
  need(o.groups >= 1 && in.channels % o.groups == 0 && out.channels % o.groups == 0,
       "groups");
  need(w.rows == out.channels, "output channels");
  need(static_cast<int64_t>(in.channels / o.groups) * o.kernel_h * o.kernel_w ==
           w.columns, "input channels");
  need(out.pixels() > 1, "a convolution to one pixel is a linear layer");
  need(w.encoding == kGaps || (w.encoding == kGroups && o.groups == 1), "encoding");
}

void check_op(const Model& model, const OpRecord& o, const Weight& w) {
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
      need(w.encoding != kGroups, "encoding");
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
      need(w.rows == in.channels && w.columns == 1 && w.encoding == kRows &&
               !w.values.scale, "affine weight");
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
  const auto* buffers = file.section<BufferRecord>(h.buffers_at, h.buffers, "buffers");
  for (uint32_t i = 0; i < h.buffers; i++)
    model.buffers.push_back(check_buffer(buffers[i], model.arena_floats));
  const auto* weights = file.section<WeightRecord>(h.weights_at, h.weights, "weight table");
  const auto* ops = file.section<OpRecord>(h.ops_at, h.ops, "operations");
  for (const OpRecord* r = ops; r < ops + h.ops; r++) {
    const bool weighted = r->kind == kConv || r->kind == kLinear || r->kind == kAffine;
    need(!weighted || known(r->weight, h.weights), "weight");
    Op op{*r, weighted ? read_weight(file, weights[r->weight]) : Weight{}, {}, {}};
    check_op(model, *r, op.weight);
    const Buffer &in = model.buffers[r->in], &out = model.buffers[r->out];
    if (r->kind == kConv) op.conv = plan_conv(*model.kernels, *r, in, out, op.weight);
    if (r->kind == kLinear) op.windows = plan_windows(*model.kernels, op.weight);
    model.source_floats = std::max(model.source_floats, op.conv.source_floats);
    model.pack_floats = std::max(model.pack_floats, op.conv.pack_floats);
    if (r->kind == kMaxPool)
      model.pack_floats = std::max(model.pack_floats, pool_line(*r, out));
    if (r->kind == kLinear && in.plane() != in.pixels())
      model.source_floats = std::max(model.source_floats, in.channels * in.pixels());
    model.ops.push_back(std::move(op));
  }
  model.metadata.assign(file.section<char>(h.meta_at, h.meta_bytes, "metadata"),
                        h.meta_bytes);
}

int64_t Model::bytes() const {
  int64_t total = static_cast<int64_t>(sizeof(*this)) + arena_floats * 4;
  total += (source_floats + pack_floats) * 4;
  for (const auto& op : ops) {
    total += static_cast<int64_t>(
        sizeof op + (op.weight.start.size() + op.conv.offset.size()) * 4 +
        op.windows.values.size() * 4 + op.windows.index.size() + op.windows.base.size() * 2);
    for (const auto& b : op.conv.blocks)
      total += static_cast<int64_t>(sizeof b + b.segments.size() * sizeof(Segment));
  }
  return total;
}

}  // namespace flsp
