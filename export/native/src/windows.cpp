// Linear layers on AVX-512: 16 rows go together, which needs their weights side by side.
//
// Rows as they lie in the file take a cycle or more per kept weight. Measured on Zen 5
// against an older loop over rows, McMahan's network at density 0.05 / 0.1 / 0.2: the whole
// of it ran 1.3 / 1.5 / 1.8 times as fast with steps. Their memory: 77 bytes each.
#include <algorithm>

#include "model.h"

namespace flsp {
namespace {

constexpr double kStepCycles = 4;  // of a step of 16 rows; one weight alone: 1

// Where each row's next weight is.
struct Cursor {
  int32_t at, end;  // entries
  int32_t column;   // of entry `at`
};

// Steps of the rows first..last: each takes, of every row, the next weight if its input
// lies within the window around the first input still to come. Windows start where a vector of
// inputs does: 5 % more steps at density 0.1, but none of their loads crosses a cache line.
void add_steps(const Weight& w, int32_t first, int32_t last, WindowPlan& p) {
  std::vector<Cursor> rows;
  for (int32_t r = first; r < last; r++) {
    const int32_t at = w.start[r], end = w.start[r + 1];
    rows.push_back({at, end, at < end ? w.gaps[at] : 0});
  }
  for (;;) {
    int32_t next = INT32_MAX;
    for (const Cursor& row : rows)
      if (row.at < row.end) next = std::min(next, row.column);
    if (next == INT32_MAX) return;
    const int32_t base = next / kWindowRows * kWindowRows;
    float value[kWindowRows] = {};
    uint32_t index[kWindowRows];  // without a weight: an input that some row reads
    std::fill_n(index, kWindowRows, static_cast<uint32_t>(next - base));
    for (size_t r = 0; r < rows.size(); r++) {
      Cursor& row = rows[r];
      if (row.at >= row.end || row.column >= base + kWindow) continue;
      index[r] = static_cast<uint32_t>(row.column - base);
      value[r] = value_of(w, row.at, first + static_cast<int32_t>(r));
      if (++row.at < row.end) row.column += w.gaps[row.at];
    }
    const size_t step = p.base.size() - static_cast<size_t>(p.start.back());
    const int bit = static_cast<int>(step % kPlaces) * kPlaceBits;
    if (bit == 0) p.places.resize(p.places.size() + kWindowRows);
    uint32_t* places = p.places.data() + p.places.size() - kWindowRows;
    for (int r = 0; r < kWindowRows; r++) places[r] |= index[r] << bit;
    p.base.push_back(static_cast<uint16_t>(base));
    p.values.insert(p.values.end(), value, value + kWindowRows);
  }
}

}  // namespace

WindowPlan plan_windows(const Kernels& kernels, const Weight& w) {
  if (!kernels.linear_window || w.encoding != kGaps || w.columns > 65536) return {};
  WindowPlan p;
  p.start.push_back(0);
  for (int32_t row = 0; row < w.rows; row += kWindowRows) {
    p.six.push_back(static_cast<int32_t>(p.places.size() / kWindowRows));
    add_steps(w, row, std::min(w.rows, row + kWindowRows), p);
    p.start.push_back(static_cast<int32_t>(p.base.size()));
    // The rows may have too little in common for steps to pay.
    if (static_cast<double>(p.base.size()) * kStepCycles >= static_cast<double>(w.entries))
      return {};
  }
  return p;
}

}  // namespace flsp
