// Which steps convolutions on bytes take (kernels.h). Made when a file is opened, as their
// layout is the processor's; linear in entries.
#include <algorithm>
#include <cstdlib>

#include "model.h"

namespace flsp {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 29;

struct Entry {
  int32_t at;  // byte from the pixel's first
  int8_t value;
};

int64_t pixel_step(const Buffer& in) { return (int64_t{in.channels} + 15) / 16 * 16; }

// Kept weights of one row, by where their inputs lie.
std::vector<Entry> entries_of(const Weight& w, int32_t row, const std::vector<int32_t>& tap,
                              const std::vector<int32_t>& place) {
  std::vector<Entry> found;
  const auto taps = static_cast<int32_t>(tap.size());
  const auto* values = static_cast<const int8_t*>(w.values.at);
  const auto add = [&](int32_t column, int8_t value) {
    if (value) found.push_back({tap[column % taps] + place[column / taps], value});
  };
  if (w.encoding == kGaps) {
    int32_t column = 0;
    for (int32_t i = w.start[row]; i < w.start[row + 1]; i++)
      add(column += w.gaps[i], values[i]);
  } else {
    const int8_t* group = values + int64_t{row / kGroupRows} * w.columns * kGroupRows;
    for (int32_t c = 0; c < w.columns; c++)
      add(c, group[int64_t{c} * kGroupRows + row % kGroupRows]);
  }
  std::sort(found.begin(), found.end(), [](Entry a, Entry b) { return a.at < b.at; });
  return found;
}

// Whether two products with bytes of 0 to 255 add up to 16 bits, whatever the bytes are.
bool safe(const Entry& a, const Entry& b) {
  return (a.value < 0) != (b.value < 0) || std::abs(a.value) + std::abs(b.value) <= 128;
}

// Up to four of the entries from `e` on, in an order in which both pairs are safe; two always
// are, one of each pair.
int safe_order(const Entry* e, int count, const Entry* (&found)[4]) {
  constexpr int kPairs[3][4] = {{0, 1, 2, 3}, {0, 2, 1, 3}, {0, 3, 1, 2}};
  for (; count > 2; count--)
    for (const auto& pair : kPairs) {
      const bool first = pair[1] >= count || safe(e[pair[0]], e[pair[1]]);
      if (!first || (pair[3] < count && !safe(e[pair[2]], e[pair[3]]))) continue;
      for (int k = 0; k < 4; k++) found[k] = pair[k] < count ? e + pair[k] : nullptr;
      return count;
    }
  for (int k = 0; k < count; k++) found[2 * k] = e + k;
  return count;
}

// Each step takes, of every row, up to four weights whose inputs lie within the window that
// starts at the first input still to come.
void add_steps(const ByteKernels& kernels, const std::vector<Entry>* rows, BytePlan& p) {
  const size_t half = size_t{4} * kernels.rows;
  size_t next[kMostByteRows] = {};
  for (;;) {
    int32_t base = INT32_MAX;
    for (int r = 0; r < kernels.rows; r++)
      if (next[r] < rows[r].size()) base = std::min(base, rows[r][next[r]].at);
    if (base == INT32_MAX) return;
    p.base.push_back(base);
    p.steps.resize(p.steps.size() + 2 * half);
    uint8_t* const place = &p.steps[p.steps.size() - 2 * half];
    for (int r = 0; r < kernels.rows; r++) {
      const Entry* const e = rows[r].data() + next[r];
      const size_t left = rows[r].size() - next[r];
      int count = 0;
      while (count < 4 && static_cast<size_t>(count) < left &&
             e[count].at < base + kernels.window)
        count++;
      const Entry* used[4] = {};
      if (kernels.order == kSafePairs)
        count = safe_order(e, count, used);
      else
        for (int k = 0; k < count; k++) used[k] = e + k;
      next[r] += count;
      for (int k = 0; k < 4; k++) {
        if (!used[k]) continue;
        const size_t at = kernels.order == kHalves ? half / 2 * (k / 2) + 2 * r + k % 2 : 4 * r + k;
        place[at] = static_cast<uint8_t>(used[k]->at - base);
        place[half + at] = static_cast<uint8_t>(used[k]->value);
      }
    }
  }
}

}  // namespace

BytePlan plan_bytes(const ByteKernels& kernels, const OpRecord& o, const Buffer& in,
                    const Buffer& out, const Weight& w, const BytePlan* before) {
  BytePlan p;
  const auto each = static_cast<size_t>(kernels.rows);
  const int64_t step = pixel_step(in);
  const auto reach = [](int64_t out, int64_t stride, int64_t kernel, int64_t dilation) {
    return (out - 1) * stride + (kernel - 1) * dilation + 1;
  };
  const int64_t height = reach(out.height, o.stride_h, o.kernel_h, o.dilation_h);
  const int64_t width = reach(out.width, o.stride_w, o.kernel_w, o.dilation_w);
  if (width > kMostBytes / step || height > kMostBytes / (step * width)) return p;
  p.step = static_cast<int32_t>(step);
  p.row = static_cast<int32_t>(step * width);
  p.height = static_cast<int32_t>(height), p.width = static_cast<int32_t>(width);
  // The last pixel's window may reach behind it.
  p.floats = (height * p.row + kMostByteWindow + 3) / 4;
  p.follows = before && p.floats <= in.floats();
  std::vector<int32_t> place(in.channels);  // of each channel within a pixel
  for (int32_t c = 0; c < in.channels; c++) place[c] = c;
  for (size_t i = 0; p.follows && i < before->output.size(); i++)
    if (before->output[i] >= 0) place[before->output[i]] = static_cast<int32_t>(i);
  std::vector<int32_t> tap;
  const int32_t taps = o.kernel_h * o.kernel_w;
  for (int32_t k = 0; k < taps; k++)
    tap.push_back(k / o.kernel_w * o.dilation_h * p.row +
                  k % o.kernel_w * o.dilation_w * p.step);
  std::vector<std::vector<Entry>> rows;
  std::vector<int32_t> order;
  for (int32_t r = 0; r < w.rows; r++) {
    rows.push_back(entries_of(w, r, tap, place));
    for (const Entry& e : rows.back())
      if (e.value == INT8_MIN) return {};  // sums of pairs are for -127 to 127
    order.push_back(r);
  }
  // Rows of like length go together: the longest decides how many steps a group takes.
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return rows[a].size() > rows[b].size(); });
  rows.resize((rows.size() + each - 1) / each * each);
  std::vector<Entry> group[kMostByteRows];
  p.start.push_back(0);
  for (size_t first = 0; first < rows.size(); first += each) {
    for (size_t r = 0; r < each; r++) {
      const int32_t row = first + r < order.size() ? order[first + r] : -1;
      group[r].clear();
      if (row >= 0) group[r].swap(rows[row]);
      int32_t sum = 0;
      for (const Entry& e : group[r]) sum += e.value;
      p.output.push_back(row);
      p.shift.push_back((kernels.offset - o.extra) * sum);
      p.scale.push_back(row < 0 ? 0 : w.values.scale[row] * o.input_scale);
      p.bias.push_back(row < 0 ? 0 : w.bias[row]);
    }
    add_steps(kernels, group, p);
    p.start.push_back(static_cast<int32_t>(p.base.size()));
    if (static_cast<double>(p.base.size()) * kernels.least > static_cast<double>(w.entries))
      return {};
  }
  return p;
}

}  // namespace flsp
