// Reads a .flsp file: its tables are found inside its bytes, checked as a whole (check.h),
// and only then laid out, so a damaged or hostile file is refused and harms nobody.
#include <algorithm>
#include <array>
#include <cstring>

#include "check.h"
#include "elements.h"
#include "file.h"

namespace flsp {
namespace {

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

// The tables, where they lie inside the file.
Program read_program(const Header& h, const File& file, size_t size) {
  Program p;
  p.file_bytes = static_cast<int64_t>(size);
  p.arena_floats = static_cast<int64_t>(h.arena_floats);
  const auto* buffers = file.section<BufferRecord>(h.buffers_at, h.buffers, "buffers");
  for (const BufferRecord* b = buffers; b < buffers + h.buffers; b++) {
    if (b->offset > h.arena_floats) throw Error("a buffer lies outside the arena");
    if (b->reserved) throw Error("a buffer is of another format");
    p.buffers.push_back({b->channels, b->height, b->width, static_cast<int64_t>(b->offset)});
  }
  const auto* weights = file.section<WeightRecord>(h.weights_at, h.weights, "weight table");
  for (const WeightRecord* w = weights; w < weights + h.weights; w++) {
    const uint32_t* counts = nullptr;
    p.weights.push_back(read_weight(file, *w, &counts));
    p.counts.push_back(counts);
  }
  const auto* ops = file.section<OpRecord>(h.ops_at, h.ops, "operations");
  p.ops.assign(ops, ops + h.ops);
  return p;
}

// How often each buffer is read and written.
struct Uses {
  std::vector<int32_t> reads, writes;
  explicit Uses(const Program& p) : reads(p.buffers.size()), writes(p.buffers.size()) {
    for (const OpRecord& o : p.ops) {
      reads[o.in]++, writes[o.out]++;
      if (o.in2 >= 0) reads[o.in2]++;
    }
    reads.back()++;  // the output
  }
};

// The plan of the operation before, if it may leave its output as bytes in the buffer: this
// one alone reads it, and neither writes over what it still reads.
const BytePlan* before(const Program& p, const Uses& uses, const Model& model) {
  const size_t at = model.ops.size();
  if (at == 0 || !model.ops.back().conv.bytes.floats) return nullptr;
  const OpRecord &first = p.ops[at - 1], &second = p.ops[at];
  const int32_t between = first.out;
  if (second.in != between || first.in2 >= 0) return nullptr;
  if (uses.reads[between] != 1 || uses.writes[between] != 1) return nullptr;
  const bool safe = apart(p.buffers[first.in], p.buffers[between]) &&
                    apart(p.buffers[between], p.buffers[second.out]);
  return safe ? &model.ops.back().conv.bytes : nullptr;
}

}  // namespace

void load_model(Model& model, const uint8_t* data, size_t size) {
  const Header h = read_header(data, size);
  const File file(data, size);
  Program program = read_program(h, file, size);
  check_program(program);
  model.kernels = best_kernels();
  model.byte_kernels = best_bytes();
  model.buffers = program.buffers;
  model.output = static_cast<int32_t>(program.buffers.size()) - 1;
  model.arena_floats = program.arena_floats;
  model.ops.reserve(program.ops.size());
  const Uses uses(program);
  for (const OpRecord& r : program.ops) {
    Op op{r, r.weight < 0 ? Weight{} : std::move(program.weights[r.weight]), {}, {}};
    const Buffer &in = model.buffers[r.in], &out = model.buffers[r.out];
    if (r.kind == kConv) {
      op.conv = plan_conv(*model.kernels, model.byte_kernels, r, in, out, op.weight,
                          before(program, uses, model));
      if (op.conv.bytes.follows) model.ops.back().conv.bytes.feeds = true;
      check_plan(*model.kernels, op.conv);
    }
    if (r.kind == kLinear || r.kind == kRecurrent)
      op.windows = plan_windows(*model.kernels, op.weight);
    model.source_floats = std::max(model.source_floats, op.conv.source_floats);
    model.pack_floats = std::max(model.pack_floats, op.conv.pack_floats);
    if (r.kind == kRecurrent)
      model.pack_floats = std::max(model.pack_floats, recurrent_floats(in, out));
    if (r.kind == kMaxPool || r.kind == kAveragePool)
      model.pack_floats = std::max(model.pack_floats, pool_line(r, out));
    if (r.kind == kLinear && in.plane() != in.pixels())
      model.source_floats = std::max(model.source_floats, in.channels * in.pixels());
    model.ops.push_back(std::move(op));
  }
  plan_places(model);
  model.pack_floats = std::max(model.pack_floats, plan_chains(model));
  plan_callers(model);
  check_memory(program, model.source_floats, model.pack_floats);
  const auto* text = file.section<char>(h.meta_at, h.meta_bytes, "metadata");
  if (std::memchr(text, 0, h.meta_bytes)) throw Error("the file's metadata is no text");
  model.metadata.assign(text, h.meta_bytes);
}

int64_t Model::bytes() const {
  int64_t total = static_cast<int64_t>(sizeof(*this)) + arena_floats * 4;
  total += (source_floats + pack_floats) * 4;
  for (const auto& op : ops) {
    total += static_cast<int64_t>(
        sizeof op + (op.weight.start.size() + op.conv.offset.size()) * 4 +
        op.conv.bytes.steps.size() + op.conv.bytes.base.size() * 4 + op.conv.scales.size() * 4 +
        (op.windows.values.size() + op.windows.places.size()) * 4 + op.windows.base.size() * 2);
    for (const auto& b : op.conv.blocks)
      total += static_cast<int64_t>(sizeof b + b.segments.size() * sizeof(Segment));
  }
  return total;
}

}  // namespace flsp
