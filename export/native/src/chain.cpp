// Operations that run together, channel by channel: a sparse 1 x 1 convolution, the depth-wise
// one that reads it, functions of their values and the average of the result. What lies
// between them is one plane in a cache, where each of them would have moved the whole buffer:
// the expanded channels of a mobile network are six times those before and behind them.
#include <algorithm>

#include "elements.h"
#include "layers.h"

namespace flsp {
namespace {

// Smaller planes stay in a cache anyway. Measured on AVX-512 without functions: 0.78 of the time
// with 28 x 28 pixels, 1.05 with 14 x 14.
constexpr int64_t kLeastPixels = 400;
constexpr int64_t kPart = 2048;  // floats of a plane that stay in a first-level cache

// The function of one value that an operation is; -1: another operation.
int32_t function_of(const OpRecord& o) {
  if (o.kind == kActivation)
    return o.extra == kClip        ? kMapSame
           : o.extra == kSigmoid   ? kMapSigmoid
           : o.extra == kTanh      ? kMapTanh
           : o.extra == kHardSwish ? kMapHardSwish
                                   : -1;
  if (o.kind != kFunction) return -1;
  return o.extra == kSilu       ? kMapSilu
         : o.extra == kGelu     ? kMapGelu
         : o.extra == kGeluTanh ? kMapGeluTanh
                                : -1;
}

// Zeros behind the last row or column would make the output larger.
bool mixes(const Op& op, const Model& model) {
  const OpRecord& o = op.record;
  const Buffer &in = model.buffers[o.in], &out = model.buffers[o.out];
  return o.kind == kConv && in.height == out.height && in.width == out.width && !op.conv.dense &&
         !op.conv.bytes.floats && op.conv.scales.empty() && !op.conv.depthwise.strip &&
         o.kernel_h == 1 && o.kernel_w == 1 && o.stride_h == 1 && o.stride_w == 1 && !o.pad_top &&
         !o.pad_left && o.groups == 1 && o.in2 < 0;
}

bool filters(const Op& op, const Model& model) {
  const OpRecord& o = op.record;
  const DepthwisePlan& p = op.conv.depthwise;
  return o.kind == kConv && p.strip && !p.turned && o.in2 < 0 &&
         model.buffers[o.in].channels == model.buffers[o.out].channels;
}

// The parts of a chain; null where it has none.
struct Parts {
  const Op *mix = nullptr, *before = nullptr, *filter = nullptr, *behind = nullptr,
           *average = nullptr;
  int32_t count = 0;
};

// Operations from `first` on, each of which reads the one before.
Parts parts_at(const Model& model, size_t first) {
  Parts p;
  size_t at = first;
  const auto next = [&](bool wanted, const Op*& part) {
    if (!wanted) return;
    part = &model.ops[at++];
    p.count++;
  };
  const auto here = [&](auto fits) {
    return at < model.ops.size() &&
           (at == first || model.ops[at].record.in == model.ops[at - 1].record.out) &&
           fits(model.ops[at]);
  };
  const auto function = [](const Op& op) { return function_of(op.record) >= 0; };
  next(here([&](const Op& op) { return mixes(op, model); }), p.mix);
  next(here(function), p.before);
  if (p.mix && !p.before && model.buffers[p.mix->record.in].pixels() < kLeastPixels) return {};
  next(here([&](const Op& op) { return filters(op, model); }), p.filter);
  if (!p.filter) return {};
  next(here(function), p.behind);
  next(here([](const Op& op) { return op.record.kind == kGlobalAverage; }), p.average);
  return p;
}

// Who reads each buffer, as often as it does.
std::vector<int32_t> count_readers(const Model& model) {
  std::vector<int32_t> readers(model.buffers.size());
  readers[model.output] = 1;
  for (const Op& op : model.ops) {
    readers[op.record.in]++;
    if (op.record.in2 >= 0) readers[op.record.in2]++;
  }
  return readers;
}

const Op& last_plane(const Parts& p) { return p.behind ? *p.behind : *p.filter; }

// Values between parts are nobody else's, and what is written is not what is still read.
bool may_run(const Model& model, const Parts& p, const std::vector<int32_t>& readers) {
  if (p.count < 2) return false;
  const Op* const first = p.mix ? p.mix : p.before ? p.before : p.filter;
  const Op& last = last_plane(p);
  for (const Op* op : {p.mix, p.before, p.filter, p.behind})
    if (op && op != &last && readers[op->record.out] != 1) return false;
  const Buffer &in = model.buffers[first->record.in], &out = model.buffers[last.record.out];
  if (!apart(in, out)) return false;
  if (!p.average) return true;
  return apart(model.buffers[p.average->record.out], in);
}

// Scratch of one thread: two planes, a row's weights and inputs, the depth-wise layer's.
struct Scratch {
  int64_t made, filtered, weights, planes, rest, floats;
  Scratch(const Model& model, const Parts& p) {
    const Buffer &in = model.buffers[p.filter->record.in], &out = model.buffers[p.filter->record.out];
    const int64_t columns = p.mix ? (p.mix->weight.columns + 15) / 16 * 16 : 0;
    made = kSlack;
    filtered = made + in.plane() + 2 * kSlack;
    weights = filtered + out.plane() + 2 * kSlack;
    planes = weights + columns;
    rest = planes + columns * 2;
    floats = rest + p.filter->conv.depthwise.floats;
  }
};

class ChainRun {
 public:
  ChainRun(const Model& model, const Parts& p, const Workspace& space, int thread)
      : model_(model), space_(space), parts_(p), at_(model, p),
        scratch_(space.pack + thread * space.pack_step),
        filter_(space, *p.filter, scratch_ + at_.rest) {}

  void channel(int64_t c) {
    const float* x = parts_.mix ? mixed(c) : scratch_ + at_.made;
    if (!parts_.mix && !parts_.before) {
      x = space_.near(parts_.filter->record.in, c);
    } else if (!parts_.mix) {
      map(*parts_.before, space_.near(parts_.before->record.in, c), scratch_ + at_.made,
          model_.buffers[parts_.filter->record.in].pixels());
    }
    float* const y = space_.to(last_plane(parts_).record.out).channel(c);
    float* const to = parts_.behind ? scratch_ + at_.filtered : y;
    filter_.channel(c, x, nullptr, to);
    const int64_t pixels = model_.buffers[parts_.filter->record.out].pixels();
    if (parts_.behind) map(*parts_.behind, to, y, pixels);
    if (!parts_.average) return;
    const OpRecord& o = parts_.average->record;
    const double mean = model_.kernels->sum(y, pixels) / static_cast<double>(pixels);
    space_.to(o.out).channel(c)[0] = std::min(std::max(static_cast<float>(mean), o.low), o.high);
  }

 private:
  void map(const Op& op, const float* x, float* y, int64_t n) const {
    model_.kernels->map(function_of(op.record), x, y, n, op.record.low, op.record.high);
  }

  const float* mixed(int64_t c) {
    const Weight& w = parts_.mix->weight;
    const OpRecord& o = parts_.mix->record;
    float* const weights = scratch_ + at_.weights;
    auto** const planes = reinterpret_cast<const float**>(scratch_ + at_.planes);
    const int32_t count = w.start[c + 1] - w.start[c];
    for (int32_t i = 0, column = 0; i < count; i++) {
      column += w.gaps[w.start[c] + i];
      weights[i] = value_of(w, w.start[c] + i, c);
      planes[i] = space_.near(o.in, column);
    }
    float* const to = scratch_ + at_.made;
    const int64_t pixels = model_.buffers[o.in].pixels();
    for (int64_t at = 0; at < pixels; at += kPart) {
      const int64_t n = std::min(kPart, pixels - at);
      model_.kernels->mix(planes, weights, count, w.bias[c], to + at, n, o.low, o.high);
      if (parts_.before) map(*parts_.before, to + at, to + at, n);
      for (int32_t i = 0; i < count; i++) planes[i] += n;
    }
    return to;
  }

  const Model& model_;
  const Workspace& space_;
  const Parts& parts_;
  const Scratch at_;
  float* const scratch_;
  DepthwiseRun filter_;
};

}  // namespace

int64_t plan_chains(Model& model) {
  const std::vector<int32_t> readers = count_readers(model);
  int64_t floats = 0;
  for (size_t i = 0; i < model.ops.size(); i += 1 + static_cast<size_t>(model.ops[i].chained)) {
    const int64_t pooled = pooled_floats(model, i);
    if (pooled && readers[model.ops[i].record.out] == 1) {
      model.ops[i].chained = 1;
      floats = std::max(floats, pooled);
      continue;
    }
    const Parts p = parts_at(model, i);
    if (!may_run(model, p, readers)) continue;
    model.ops[i].chained = p.count - 1;
    floats = std::max(floats, Scratch(model, p).floats);
  }
  return floats;
}

void run_chain(const Model& model, size_t first, const Workspace& space) {
  if (model.ops[first + 1].record.kind == kMaxPool) return run_pooled(model, first, space);
  const Parts p = parts_at(model, first);
  const int32_t channels = model.buffers[p.filter->record.out].channels;
  const int parts =
      space.pool->threads() == 1 ? 1 : std::min<int>(channels, space.pool->threads() * 4);
  space.pool->each(parts, [&](int part, int thread) {
    ChainRun run(model, p, space, thread);
    const int64_t end = int64_t{channels} * (part + 1) / parts;
    for (int64_t c = int64_t{channels} * part / parts; c < end; c++) run.channel(c);
  });
}

}  // namespace flsp
