// What operations on values and shapes assume of their buffers.
#include "elements.h"

#include <cmath>

namespace flsp {
namespace {

void fits(bool condition, const char* what) {
  if (!condition) throw Error(std::string("an operation is malformed: ") + what);
}

bool same(const Buffer& a, const Buffer& b) {
  return a.channels == b.channels && a.height == b.height && a.width == b.width;
}

void check_binary(const OpRecord& o, const Buffer& in, const Buffer& second,
                  const Buffer& out) {
  const int32_t spread = spread_of(o), function = binary_of(o);
  static_assert(kBinaries == 16, "below 64 extra has four bits for the function");
  fits((function >= 0 && function < kBinaries) || function == kBitAnd, "function");
  fits(same(in, out) && o.in2 >= 0, "shapes of two inputs");
  const bool channels = second.channels == in.channels, one = second.channels == 1;
  const bool rows = second.height == in.height, columns = second.width == in.width;
  switch (spread) {
    case kEach: return fits(channels && rows && columns, "second shape");
    case kPerChannel: return fits(channels && second.pixels() == 1, "second shape");
    case kPerColumn: return fits(one && second.height == 1 && columns, "second shape");
    default: return fits(one && rows && columns, "second shape");
  }
}

// Pixels of `small` lie in `large` at multiples of the stride, from the padding on.
void check_grid(const OpRecord& o, const Buffer& small, const Buffer& large) {
  constexpr int32_t most = 1 << 16;
  for (int32_t v : {o.stride_h, o.stride_w}) fits(v >= 1 && v <= most, "stride");
  for (int32_t v : {o.pad_top, o.pad_left}) fits(v >= 0 && v <= most, "padding");
  fits(small.channels == large.channels, "channels");
  fits(int64_t{small.height - 1} * o.stride_h + o.pad_top < large.height &&
           int64_t{small.width - 1} * o.stride_w + o.pad_left < large.width,
       "pixels outside");
}

void check_take(const OpRecord& o, const Buffer& in, const Buffer& out) {
  fits(in.height == out.height && in.width == out.width, "channels of another size");
  fits(o.groups >= 1 && out.channels % o.groups == 0, "groups");
  fits(o.extra >= 0 && o.extra <= in.channels - out.channels, "channels outside");
}

void check_transpose(const OpRecord& o, const Buffer& in, const Buffer& out) {
  fits(o.extra >= 0 && o.extra < 6, "axes");
  const int32_t from[] = {in.channels, in.height, in.width};
  const int* axes = kAxes[o.extra];
  fits(out.channels == from[axes[0]] && out.height == from[axes[1]] &&
           out.width == from[axes[2]],
       "transposed shape");
}

void check_view(const OpRecord& o, const Buffer& in, const Buffer& out) {
  fits(o.groups >= 1 && out.channels % o.groups == 0, "groups");
  fits(o.extra >= 0, "first value");
  fits(o.input_scale == 0 || (std::fabs(o.input_scale) > 1e-30f && std::fabs(o.input_scale) < 1e30f),
       "factor");
  int64_t last = o.extra;
  for (const Axis& axis : ViewAxes(o, out).axis) {
    fits(axis.from >= 0, "steps");
    last += (axis.size - 1) * axis.from;
  }
  fits(last < in.channels * in.plane(), "values outside");
}

void check_recurrent(const OpRecord& o, const Buffer& in, const Buffer& second,
                     const Buffer& out, const Weight& w) {
  const bool cell = o.extra / 16 >= 2;  // its last cell is a result as well
  fits(o.extra >= 0 && o.extra / 16 <= 3 && o.extra % 16 <= kRnnRelu, "cell");
  fits(!cell || o.extra % 16 == kLstm, "cell");
  fits(int64_t{in.channels} + cell == out.channels && in.height == 1 && out.height == 1 &&
           int64_t{out.width} * kGates[o.extra % 16] == in.width,
       "gates");
  fits(w.rows == in.width && w.columns == out.width && w.encoding != kGroups,
       "recurrent weight");
  const int32_t states = o.extra % 16 == kLstm ? 2 : 1;
  fits(o.in2 < 0 ||
           (second.channels == states && second.height == 1 && second.width == out.width),
       "first state");
}

void check_look_up(const Buffer& in, const Buffer& out, const Weight& w) {
  fits(in.pixels() == 1 && out.channels == in.channels && out.height == 1 &&
           out.width == w.columns && w.encoding != kGroups && w.rows <= 1 << 24,
       "looked up shape");
}

// Places of `few` pixels among those of `many`, which float32 counts exactly.
void check_places(const OpRecord& o, const Buffer& in, const Buffer& places, const Buffer& out,
                  const Buffer& few, const Buffer& many) {
  fits(o.in2 >= 0 && in.channels == out.channels && places.pixels() == few.pixels() &&
           (places.channels == 1 || places.channels == in.channels) &&
           many.pixels() <= 1 << 24,
       "places");
  fits(o.extra >= 0 && o.extra <= (o.kind == kPut ? 1 : 0), "function");
}

}  // namespace

void check_element(const OpRecord& o, const Buffer& in, const Buffer& second,
                   const Buffer& out, const Weight& w) {
  if (o.kind == kRecurrent) return check_recurrent(o, in, second, out, w);
  if (o.kind == kLookUp) return check_look_up(in, out, w);
  if (element_weighted(o.kind))
    fits(w.columns == 1 && w.encoding == kRows && !w.values.scale &&
             w.rows == (o.kind == kSlope ? in.channels : in.width),
         "weight of values");
  switch (o.kind) {
    case kBinary: return check_binary(o, in, second, out);
    case kFunction:
      return fits(same(in, out) && o.extra >= 0 && o.extra < kFunctions, "function");
    case kTake: return check_take(o, in, out);
    case kUpsample:
      return fits(o.stride_h >= 1 && o.stride_w >= 1 && in.channels == out.channels &&
                      int64_t{in.height} * o.stride_h == out.height &&
                      int64_t{in.width} * o.stride_w == out.width,
                  "upsampled shape");
    case kSpread: return check_grid(o, in, out);
    case kCrop: return check_grid(o, out, in);
    case kTranspose: return check_transpose(o, in, out);
    case kView: return check_view(o, in, out);
    case kReshape:
      return fits(in.channels * in.pixels() == out.channels * out.pixels(), "values");
    case kMatMul:
      return fits(o.in2 >= 0 && in.channels == out.channels &&
                      second.channels == in.channels && in.width == second.height &&
                      out.height == in.height && out.width == second.width,
                  "matrices");
    case kReduceRow:
      return fits(o.extra >= 0 && o.extra < kReductions && out.width == 1 &&
                      out.channels == in.channels && out.height == in.height,
                  "reduced shape");
    case kSortRow:
      return fits(o.extra >= 0 && o.extra < kOrders && out.channels == in.channels &&
                      out.height == in.height && out.width <= in.width && in.width <= 1 << 24,
                  "sorted shape");
    case kPick: return check_places(o, in, second, out, out, in);
    case kPut: return check_places(o, in, second, out, in, out);
    case kNormalize:
      fits(o.low > 0 && o.low < 1, "epsilon");
      [[fallthrough]];
    default: return fits(same(in, out), "shape");
  }
}

}  // namespace flsp
