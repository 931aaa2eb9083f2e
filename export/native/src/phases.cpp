// A convolution's input, padded and split into phases: of a stride of 2 the even and the odd
// rows and columns, each a plane of its own, so that a tap reads neighbouring floats.
#include <algorithm>
#include <cstring>

#include "layers.h"

namespace flsp {
namespace {

// The phase of the same rows that has the other columns of every two; -1: no tap reads it.
int other_phase(const ConvPlan& p, size_t phase) {
  for (size_t i = 0; i < p.phase_h.size(); i++)
    if (i != phase && p.phase_h[i] == p.phase_h[phase]) return static_cast<int>(i);
  return -1;
}

// A row of one phase, of any stride.
void copy_phase_row(const ConvPlan& p, int32_t step, int32_t width, const float* from,
                    int32_t shift, float* to) {
  // Columns w with 0 <= w * step + shift < width.
  const int32_t first = shift < 0 ? (-shift + step - 1) / step : 0;
  const int32_t room = width - shift;
  const int32_t last = room <= 0 ? 0 : std::min(p.source_width, (room + step - 1) / step);
  const int32_t begin = std::min(first, p.source_width), end = std::max(begin, last);
  std::fill_n(to, begin, 0.0f);
  if (step == 1) {
    std::memcpy(to + begin, from + begin + shift, (end - begin) * sizeof(float));
  } else {
    for (int32_t w = begin; w < end; w++) to[w] = from[w * step + shift];
  }
  std::fill(to + end, to + p.source_width, 0.0f);
}

// Where the rows from number `h` on, which is `row` of the input, end to lie in the same array.
int32_t end_of_run(const ChannelRows& input, int32_t row, int32_t h, int32_t last, int32_t step) {
  const int32_t stop = row < input.begin ? input.begin : row < input.end ? input.end : INT32_MAX;
  if (stop == INT32_MAX) return last;
  return static_cast<int32_t>(std::min<int64_t>(last, h + (int64_t{stop} - row + step - 1) / step));
}

}  // namespace

void copy_phases(const Model& model, const Op& op, const ChannelRows& input, float* source,
                 int channel) {
  const ConvPlan& p = op.conv;
  const OpRecord& o = op.record;
  const Buffer& in = model.buffers[o.in];
  float* const planes = source + channel * p.source_plane;
  const int64_t plane = static_cast<int64_t>(p.source_height) * p.source_row;
  for (size_t phase = 0; phase < p.phase_h.size(); phase++) {
    const int other = o.stride_w == 2 ? other_phase(p, phase) : -1;
    if (other >= 0 && p.phase_w[phase] == 1) continue;  // the even columns' turn copies both
    float* const to = planes + static_cast<int64_t>(phase) * plane;
    float* const beside = other < 0 ? nullptr : planes + other * plane;
    // Rows h with 0 <= h * stride + shift < height.
    const int32_t shift = p.phase_h[phase] - o.pad_top, step = o.stride_h;
    const int32_t first = std::min(shift < 0 ? (-shift + step - 1) / step : 0, p.source_height);
    const int32_t room = std::max(0, in.height - shift);
    const int32_t last = std::clamp((room + step - 1) / step, first, p.source_height);
    for (float* target : {to, beside}) {
      if (!target) continue;
      std::fill(target, target + int64_t{first} * p.source_row, 0.0f);
      std::fill(target + int64_t{last} * p.source_row, target + plane, 0.0f);
    }
    for (int32_t h = first, end; h < last; h = end) {
      const int32_t row = h * step + shift;
      end = end_of_run(input, row, h, last, step);
      const bool own = row >= input.begin && row < input.end;
      const float* from = (own ? input.own : input.copied) + int64_t{row} * in.width;
      const int64_t begin = int64_t{h} * p.source_row;
      if (o.stride_w == 2) {
        const bool odd = p.phase_w[phase] == 1;
        float* const even_to = odd ? nullptr : to + begin;
        float* const odd_to = odd ? to + begin : beside ? beside + begin : nullptr;
        model.kernels->split({from, int64_t{step} * in.width, end - h, -o.pad_left, in.width,
                              even_to, odd_to, p.source_width, p.source_row});
        continue;
      }
      for (int32_t i = h; i < end; i++, from += int64_t{step} * in.width)
        copy_phase_row(p, o.stride_w, in.width, from, p.phase_w[phase] - o.pad_left,
                       to + int64_t{i} * p.source_row);
    }
  }
}

}  // namespace flsp
