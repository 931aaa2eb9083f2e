// Convolutions that write their channels of a concatenation themselves: what they make lies
// there as it would lie in a buffer of its own, so nothing is copied.
#include <algorithm>

#include "model.h"

namespace flsp {
namespace {

constexpr size_t kMostBetween = 64;  // operations: opening stays linear in the file

class Places {
 public:
  explicit Places(Model& model) : model_(model), whole_(model.buffers.size()),
                                  uses_(model.buffers.size()) {
    for (size_t i = 0; i < whole_.size(); i++) whole_[i] = static_cast<int32_t>(i);
    uses_[model.output] = 2;  // the caller reads it
    for (const Op& op : model.ops) {
      uses_[op.record.in]++;
      uses_[op.record.out]++;
      if (op.record.in2 >= 0) uses_[op.record.in2]++;
    }
  }

  // Whether operation `at`, a copy, is left out.
  bool joined(size_t at) {
    const OpRecord place = model_.ops[at].record;
    if (place.kind != kPlace || uses_[place.in] != 2) return false;  // one writes, one reads
    size_t maker = at;
    while (maker > 0 && at - maker < kMostBetween && model_.ops[maker].record.out != place.in)
      maker--;
    OpRecord& made = model_.ops[maker].record;
    if (made.out != place.in || made.kind != kConv) return false;
    for (size_t i = maker; i < at; i++)
      if (touches(model_.ops[i].record, place.out, i == maker)) return false;
    const Buffer out = model_.buffers[place.out], part = model_.buffers[place.in];
    made.out = static_cast<int32_t>(model_.buffers.size());
    model_.buffers.push_back(
        {part.channels, part.height, part.width, out.offset + place.extra * out.plane(), place.out,
         place.extra});
    whole_.push_back(place.out);
    uses_.push_back(2);
    return true;
  }

 private:
  bool apart(int32_t a, int32_t b) const {
    const Buffer &x = model_.buffers[a], &y = model_.buffers[b];
    return x.offset + x.floats() <= y.offset || y.offset + y.floats() <= x.offset;
  }

  // Whether an operation reads a buffer's memory, or writes something else there.
  bool touches(const OpRecord& o, int32_t buffer, bool maker) const {
    if (!apart(o.in, buffer) || (o.in2 >= 0 && !apart(o.in2, buffer))) return true;
    return !maker && whole_[o.out] != buffer && !apart(o.out, buffer);
  }

  Model& model_;
  std::vector<int32_t> whole_;  // the buffer that each is a part of, or itself
  std::vector<int32_t> uses_;
};

}  // namespace

void plan_places(Model& model) {
  Places places(model);
  std::vector<bool> gone;
  for (size_t i = 0; i < model.ops.size(); i++) gone.push_back(places.joined(i));
  size_t kept = 0;
  for (size_t i = 0; i < gone.size(); i++)
    if (!gone[i]) {
      if (kept != i) model.ops[kept] = std::move(model.ops[i]);
      kept++;
    }
  model.ops.resize(kept);
}

}  // namespace flsp
