// Shapes that follow from an operation on values and its inputs, as far as they do: so
// that a mutant whose input or operation changed is still opened.
#ifndef FOLLOW_H
#define FOLLOW_H

#include <algorithm>
#include <cstdint>

#include "elements.h"
#include "flsp_bytes.h"

namespace fuzz {

inline bool takes_second(int32_t kind) {
  return kind == flsp::kConv || kind == flsp::kLinear || kind == flsp::kAdd ||
         kind == flsp::kRecurrent || flsp::element_paired(kind);
}

// How in2 has to be spread over in; -1 where it does not fit.
inline int32_t spread_of(const flsp::BufferRecord& in, const flsp::BufferRecord& second) {
  const bool channels = second.channels == in.channels, rows = second.height == in.height,
             columns = second.width == in.width, one = second.channels == 1;
  if (channels && rows && columns) return flsp::kEach;
  if (channels && second.height == 1 && second.width == 1) return flsp::kPerChannel;
  if (one && second.height == 1 && columns) return flsp::kPerColumn;
  return one && rows && columns ? flsp::kPerPixel : -1;
}

// Whether the operation's output is told by what it takes; `second` is in where it has none.
inline bool follow_element(flsp::OpRecord& o, const flsp::BufferRecord& in,
                           const flsp::BufferRecord& second, flsp::BufferRecord& out) {
  const auto side = [](int64_t v) {
    return static_cast<int32_t>(std::clamp<int64_t>(v, 1, 1 << 16));
  };
  switch (o.kind) {
    case flsp::kBinary: {
      const int32_t spread = o.in2 < 0 ? -1 : spread_of(in, second);
      if (spread < 0) o.in2 = o.in;
      o.extra = (o.extra & 15) + 16 * std::max(spread, 0);
      out = in;
      return true;
    }
    case flsp::kTake:
      out.height = in.height;
      out.width = in.width;
      out.channels = std::min(out.channels, in.channels);
      o.extra = std::clamp(o.extra, 0, std::max(in.channels - out.channels, 0));
      if (o.groups < 1 || out.channels % o.groups) o.groups = 1;
      return true;
    case flsp::kUpsample:
      out.channels = in.channels;
      out.height = side(int64_t{in.height} * o.stride_h);
      out.width = side(int64_t{in.width} * o.stride_w);
      return true;
    case flsp::kSpread:
      out.channels = in.channels;
      out.height = side(std::max(int64_t{out.height}, int64_t{in.height - 1} * o.stride_h + o.pad_top + 1));
      out.width = side(std::max(int64_t{out.width}, int64_t{in.width - 1} * o.stride_w + o.pad_left + 1));
      return true;
    case flsp::kCrop:
      if (o.stride_h < 1 || o.stride_w < 1) return false;
      out.channels = in.channels;
      out.height = side((int64_t{in.height} - 1 - o.pad_top) / o.stride_h + 1);
      out.width = side((int64_t{in.width} - 1 - o.pad_left) / o.stride_w + 1);
      return true;
    case flsp::kTranspose: {
      if (o.extra < 0 || o.extra > 5) return false;
      const int32_t from[] = {in.channels, in.height, in.width};
      const int* axes = flsp::kAxes[o.extra];
      out.channels = from[axes[0]];
      out.height = from[axes[1]];
      out.width = from[axes[2]];
      return true;
    }
    case flsp::kReshape: {
      const auto values = [](const flsp::BufferRecord& b) {
        return int64_t{b.channels} * b.height * b.width;
      };
      if (values(in) == values(out)) return true;
      out.channels = in.width;
      out.height = in.channels;
      out.width = in.height;
      return true;
    }
    case flsp::kMatMul:
      out.channels = in.channels;
      out.height = in.height;
      out.width = second.width;
      return true;
    case flsp::kReduceRow:
      out = in;
      out.width = 1;
      return true;
    case flsp::kSortRow:
      out.channels = in.channels;
      out.height = in.height;
      out.width = std::min(out.width, in.width);
      return true;
    case flsp::kPick:
      out = second;
      out.channels = in.channels;
      return true;
    case flsp::kPut: out.channels = in.channels; return true;
    case flsp::kRecurrent: out.channels = side(int64_t{in.channels} + (o.extra >= 32)); return true;
    case flsp::kLookUp:
      out.channels = in.channels;
      out.height = 1;
      return true;
    case flsp::kView: return true;
    default: return false;
  }
}

}  // namespace fuzz

#endif
