// Operations on values and shapes, beside the layers of format.h: none has a kernel of its
// own per instruction set, so kernels.cpp does not know them.
#ifndef FLSP_ELEMENTS_H
#define FLSP_ELEMENTS_H

#include "check.h"
#include "model.h"

namespace flsp {

struct Workspace;

enum ElementKind : int32_t {
  kBinary = 11,       // in with in2; extra = Binary + 16 * Spread: two bits, which no Binary has
  kFunction = 12,     // extra = ElementFunction
  kSlope = 13,        // values below 0 times the channel's weight (channels x 1)
  kTake = 14,         // channel c of out: extra + c % groups * (channels / groups) + c / groups
  kUpsample = 15,     // each pixel stride_h x stride_w times
  kSpread = 16,       // pixels at multiples of stride, from pad on; zeros elsewhere
  kCrop = 17,         // pixels at multiples of stride, from pad on
  kTranspose = 18,    // axes (channels, height, width) in another order: kAxes[extra]
  kReshape = 19,      // the same values in another shape
  kMatMul = 20,       // (c, h, k) times in2 (c, k, w)
  kSoftmaxRow = 21,   // along the width
  kNormalize = 22,    // each row minus its mean, over its deviation; low is epsilon
  kColumnAffine = 23, // per column: weight (width x 1) times in, plus bias
  kReduceRow = 24,    // along the width; extra = Reduction
  kRecurrent = 25,    // in: gates of each step (a channel), weight: the state's part of
                      // them; extra = Cell + 16 where the last step is the first + 32 where out
                      // has a channel more, an LSTM's last cell; in2 or -1: the first state,
                      // and of an LSTM the first cell as second channel
  kLookUp = 26,       // row in[c] of the weight, as channel c; not a number where it has none
  kSortRow = 27,      // the first out.width values of each row in order; extra = Order
  kPick = 28,         // pixel in2[i] of each channel, as pixel i; in2 has one channel for all, or
                      // one for each; a place below 0 counts from the end
  kPut = 29,          // pixel i of each channel, to pixel in2[i]; of several the last, or their
                      // sum where extra = 1; zeros elsewhere
  kView = 30,         // each value from extra + its place times the steps of ViewAxes, times
                      // input_scale where that is not 0
};
enum Cell : int32_t { kGru, kLstm, kRnnTanh, kRnnRelu };
constexpr int kGates[] = {3, 4, 1, 1};
// The first eight have kernels. Comparisons give 1 and 0; kKeep is in where in2 is not 0,
// kDrop where it is, and both are 0 elsewhere; kBitAnd is of whole numbers.
enum Binary : int32_t {
  kPlus, kMinus, kTimes, kOver, kLeast, kMost, kFromSecond, kUnderSecond,
  kPower, kAbove, kAtLeast, kBelow, kAtMost, kEqual, kKeep, kDrop, kBinaries,
  kBitAnd = 64
};
inline Binary binary_of(const OpRecord& o) { return static_cast<Binary>(o.extra & ~0x30); }
inline int32_t spread_of(const OpRecord& o) { return o.extra >> 4 & 3; }
// What in2 has one value for: each value, each channel, each column, each pixel.
enum Spread : int32_t { kEach, kPerChannel, kPerColumn, kPerPixel };
enum ElementFunction : int32_t {
  kSilu, kGelu, kGeluTanh, kElu, kSoftplus, kMish, kExp, kLog, kSqrt, kAbs, kSquare,
  kReciprocal, kErf, kSin, kCos, kTan, kSign, kFloor, kCeil, kRound, kWhole, kNotNumber,
  kAsin, kAcos, kAtan, kSinh, kCosh, kAsinh, kAcosh, kAtanh, kFunctions
};
// The last two give the first place that has it.
enum Reduction : int32_t { kMean, kSum, kLargest, kSmallest, kWhereMost, kWhereLeast, kReductions };
// The last two give the places that the values have; of equal values the first comes first.
enum Order : int32_t { kLargestFirst, kSmallestFirst, kWhereLargest, kWhereSmallest, kOrders };
constexpr int kAxes[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

inline bool element_kind(int32_t kind) { return kind >= kBinary && kind <= kView; }
inline bool element_weighted(int32_t kind) {
  return kind == kSlope || kind == kColumnAffine || kind == kRecurrent || kind == kLookUp;
}
inline bool element_paired(int32_t kind) {
  return kind == kBinary || kind == kMatMul || kind == kPick || kind == kPut;
}

// One axis of a copy: values, and floats from one to the next on both sides.
struct Axis {
  int32_t size;
  int64_t from, to;
};

// Axes of kView, outermost first. Channels are o.groups times equally many, two axes. The input
// is taken as the floats of its planes behind each other, gaps between planes included.
struct ViewAxes {
  Axis axis[4];
  ViewAxes(const OpRecord& o, const Buffer& out)
      : axis{{o.groups, o.pad_top, out.channels / o.groups * out.plane()},
             {out.channels / o.groups, o.pad_left, out.plane()},
             {out.height, o.stride_h, out.width},
             {out.width, o.stride_w, 1}} {}
};

// Throws Error where the operation does not fit its buffers; `second` is `in` without in2.
void check_element(const OpRecord& o, const Buffer& in, const Buffer& second,
                   const Buffer& out, const Weight& w);
// Scratch of one recurrent layer.
int64_t recurrent_floats(const Buffer& in, const Buffer& out);
void run_pick(const Buffer& in, const Buffer& places, const Buffer& out, float* arena);
void run_put(const Buffer& in, const Buffer& places, const Buffer& out, bool adds, float* arena);
void run_element(const Op& op, const Workspace& space);

}  // namespace flsp

#endif
