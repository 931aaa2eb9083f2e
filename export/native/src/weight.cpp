// Weights stay in the file; what kernels will trust is checked here, once: a hostile
// column would be read from anywhere.
#include "file.h"

namespace flsp {
namespace {

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

uint64_t entries_of(const WeightRecord& r) {
  const auto rows = static_cast<uint64_t>(r.rows), columns = static_cast<uint64_t>(r.columns);
  switch (r.encoding) {
    case kRows: return rows * columns;
    case kGroups: return (rows + kGroupRows - 1) / kGroupRows * kGroupRows * columns;
    case kGaps: return r.entries;
    default: throw Error("a weight has an unknown encoding");
  }
}

}  // namespace

Weight read_weight(const File& file, const WeightRecord& r) {
  if (r.rows < 1 || r.columns < 1 || r.entries > static_cast<uint64_t>(kMostFloats) ||
      int64_t{r.rows} * r.columns > 4 * kMostFloats)
    throw Error("a weight's shape is out of range");
  if (r.entries != entries_of(r)) throw Error("a weight has the wrong number of values");
  Weight w;
  w.rows = r.rows;
  w.columns = r.columns;
  w.encoding = static_cast<Encoding>(r.encoding);
  w.entries = static_cast<int64_t>(r.entries);
  if (r.value_type == kFloat) {
    w.values.at = file.section<float>(r.values_at, r.entries, "weights");
  } else if (r.value_type == kInt8) {
    w.values.at = file.section<int8_t>(r.values_at, r.entries, "weights");
    w.values.scale = file.section<float>(r.scales_at, r.rows, "scales");
  } else {
    throw Error("a weight has an unknown value type");
  }
  if (w.encoding == kGaps) {
    w.gaps = file.section<uint8_t>(r.gaps_at, r.entries, "gaps");
    check_gaps(w, file.section<uint32_t>(r.counts_at, r.rows, "row counts"));
  }
  w.bias = file.section<float>(r.bias_at, r.rows, "biases");
  return w;
}

}  // namespace flsp
