// The caller's arrays: which operations read and write them where they lie, and what is copied
// to and from the arena for the others.
//
// An array has the values of its planes behind each other; a buffer's planes begin at multiples
// of 16 floats. Operations that take plane by plane do not mind. Nothing may be read beside a
// caller's array: planes, or rows, near its ends are copied where a kernel reads whole vectors.
#include <algorithm>
#include <cstring>

#include "elements.h"
#include "layers.h"

namespace flsp {
namespace {

// Planes lie as the caller's do.
bool gapless(const Buffer& b) { return b.plane() == b.pixels(); }

// Element by element, or copies of rows: they touch nothing but the values of their planes.
bool touches_values_alone(const OpRecord& o) {
  switch (o.kind) {
    case kAdd:
    case kAffine:
    case kPlace:
    case kFlatten:
    case kTake:
    case kCrop:
    case kTranspose:
    case kReshape: return true;
    case kActivation: return o.extra != kSoftmax;
    case kBinary: return spread_of(o) == kEach;
    case kView: return o.input_scale == 0;  // a scaled row is read again in whole vectors
    default: return false;
  }
}

// Pieces of the input that a convolution needs copied near the array's ends; kAll.
int64_t piece_of_conv(const Model& model, const Op& op, const Buffer& in) {
  const ConvPlan& p = op.conv;
  if (p.bytes.floats) return gapless(in) ? 0 : Model::kAll;  // 16 pixels at a time
  if (!p.scales.empty()) return in.pixels();
  if (p.depthwise.turned) return in.pixels() * model.kernels->lanes;
  if (p.depthwise.strip) return in.pixels();
  // Tiles read each value many times, from planes at multiples of a vector.
  return p.phases ? in.width : Model::kAll;
}

// Those of operations that run together; most read a value once.
int64_t piece_of(const Model& model, const Op& op) {
  const OpRecord& o = op.record;
  const Buffer& in = model.buffers.front();
  if (o.in2 == 0 && !((o.kind == kAdd || o.kind == kBinary) && touches_values_alone(o)))
    return Model::kAll;
  if (o.kind == kConv) return piece_of_conv(model, op, in);
  if (o.kind == kMaxPool || o.kind == kAveragePool || o.kind == kGlobalAverage) return in.pixels();
  if (op.chained && o.in == 0) return in.pixels();  // a function of each value, then a filter
  if (!touches_values_alone(o)) return Model::kAll;
  return gapless(in) && in.pixels() > 1 ? 0 : Model::kAll;
}

// Whether an operation can write the caller's output, of which `part` is a part or all.
bool writes_values_alone(const Model& model, const Op& op, const Buffer& part) {
  const OpRecord& o = op.record;
  const ConvPlan& p = op.conv;
  if (gapless(part)) {
    if (touches_values_alone(o)) return true;
    switch (o.kind) {
      case kConv:
      case kLinear:
      case kMaxPool:
      case kAveragePool:
      case kGlobalAverage:
      case kFunction:
      case kBinary:
      case kSlope:
      case kUpsample:
      case kSpread:
      case kMatMul:
      case kNormalize:
      case kColumnAffine:
      case kReduceRow: return true;
      default: return false;
    }
  }
  if (o.kind == kMaxPool || o.kind == kAveragePool || o.kind == kPlace) return true;
  if (o.kind != kConv || o.in2 >= 0 || p.bytes.floats) return false;
  // Sums between blocks end in whole vectors.
  return p.depthwise.strip || p.blocks.size() == 1 || p.sums_row > 0;
}

void copy_values(const Buffer& b, const float* x, int64_t first, int64_t end, float* to) {
  const int64_t pixels = b.pixels();
  for (int64_t at = first; at < end;) {
    const int64_t count = std::min(pixels - at % pixels, end - at);
    std::memcpy(to + at / pixels * b.plane() + at % pixels, x + at, count * sizeof(float));
    at += count;
  }
}

}  // namespace

void plan_callers(Model& model) {
  int64_t piece = 0;
  bool output = true;
  const auto is_output = [&](int32_t b) {
    return b == model.output || model.buffers[b].whole == model.output;
  };
  for (size_t k = 0; k < model.ops.size(); k += 1 + static_cast<size_t>(model.ops[k].chained)) {
    const size_t last = k + static_cast<size_t>(model.ops[k].chained);
    for (size_t i = k; i <= last; i++) {
      const OpRecord& o = model.ops[i].record;
      if (o.in == 0 || o.in2 == 0)
        piece = std::max(piece, i == k ? piece_of(model, model.ops[i]) : Model::kAll);
      if (is_output(o.in) || (o.in2 >= 0 && is_output(o.in2))) output = false;
      if (is_output(o.out))
        output = output && (i > k || writes_values_alone(model, model.ops[i], model.buffers[o.out]));
    }
  }
  model.copied_piece = piece;
  model.output_copied = !output;
}

ChannelRows Workspace::rows(int32_t buffer, int64_t channel) const {
  const Buffer& b = model.buffers[buffer];
  ChannelRows r{nullptr, arena + b.offset + channel * b.plane(), 0, 0};
  if (buffer != 0 || !caller.x) return r;
  const int64_t first = channel * b.pixels(), width = b.width;
  r.own = caller.x + first;
  const int64_t before = kSlack - caller.before - first;  // floats that the first row lacks
  const int64_t behind = kSlack - caller.behind - (b.channels - 1 - channel) * b.pixels();
  r.begin = static_cast<int32_t>(std::clamp<int64_t>((before + width - 1) / width, 0, b.height));
  r.end = b.height - static_cast<int32_t>(std::clamp<int64_t>((behind + width - 1) / width, 0, b.height));
  return r;
}

void copy_input(const Workspace& space, const float* x) {
  const Buffer& b = space.model.buffers.front();
  const int64_t piece = space.caller.x ? space.model.copied_piece : Model::kAll;
  const int64_t all = b.channels * b.pixels();
  float* const to = space.arena + b.offset;
  if (piece >= all) return copy_values(b, x, 0, all, to);
  if (piece == 0) return;
  const int64_t lacking = std::max<int64_t>(0, kSlack - space.caller.before);
  const int64_t begin = std::min(all, (lacking + piece - 1) / piece * piece);
  const int64_t room = std::max<int64_t>(0, all - std::max<int64_t>(0, kSlack - space.caller.behind));
  const int64_t end = space.caller.behind >= kSlack ? all : std::max(begin, room / piece * piece);
  copy_values(b, x, 0, begin, to);
  copy_values(b, x, end, all, to);
}

void copy_output(const Workspace& space, float* y) {
  const Buffer& b = space.model.buffers[space.model.output];
  const float* const from = space.arena + b.offset;
  for (int32_t c = 0; !space.caller.y && c < b.channels; c++)
    std::memcpy(y + c * b.pixels(), from + c * b.plane(), b.pixels() * sizeof(float));
}

}  // namespace flsp
