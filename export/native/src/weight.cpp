// Where a weight's arrays lie in the file; check.cpp says whether they make sense.
#include "check.h"
#include "file.h"

namespace flsp {

Weight read_weight(const File& file, const WeightRecord& r, const uint32_t** counts) {
  check_shape(r);
  Weight w;
  w.rows = r.rows;
  w.columns = r.columns;
  w.encoding = static_cast<Encoding>(r.encoding);
  w.entries = static_cast<int64_t>(r.entries);
  if (r.value_type == kFloat) {
    w.values.at = file.section<float>(r.values_at, r.entries, "weights");
  } else {
    w.values.at = file.section<int8_t>(r.values_at, r.entries, "weights");
    w.values.scale = file.section<float>(r.scales_at, r.rows, "scales");
  }
  if (w.encoding == kGaps) {
    w.gaps = file.section<uint8_t>(r.gaps_at, r.entries, "gaps");
    *counts = file.section<uint32_t>(r.counts_at, r.rows, "row counts");
  }
  w.bias = file.section<float>(r.bias_at, r.rows, "biases");
  return w;
}

}  // namespace flsp
