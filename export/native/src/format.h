// The .flsp file, version 2. Little endian; offsets in bytes from the start of the file;
// every section starts at a multiple of 64. The exporter writes it, load.cpp checks it.
//
// Weights are used where they lie, in the mapped file: no layout here depends on the
// width of a processor's vectors, and the exporter has chosen what each layer runs on.
#ifndef FLSP_FORMAT_H
#define FLSP_FORMAT_H

#include <cstdint>

namespace flsp {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is little endian");

constexpr uint32_t kVersion = 2;
constexpr uint64_t kAlignment = 64;  // of sections

struct Header {
  char magic[4];  // "FLSP"
  uint32_t version;
  uint64_t file_bytes;
  uint32_t crc;  // CRC-32 of everything behind this header
  uint32_t buffers, weights, ops;
  uint64_t arena_floats;  // activations of one example
  uint64_t buffers_at, weights_at, ops_at;
  uint64_t meta_at, meta_bytes;  // JSON
};
static_assert(sizeof(Header) == 80, "the file format is fixed");

// An activation: channels x height x width. A plane of pixels starts every
// round_up(height * width, 16) floats; where a plane is one pixel, every float.
struct BufferRecord {
  int32_t channels, height, width, reserved;
  uint64_t offset;  // floats into the arena, a multiple of 16
};
static_assert(sizeof(BufferRecord) == 24, "the file format is fixed");

// kRows: every weight, row by row; for linear and affine layers. kGaps: kept weights, row
// by row, each with its distance in columns from the one before (a row's first: from
// column 0), where 255 with the value 0 is a bridge. kGroups: every weight, for
// convolutions: kGroupRows rows beside each other, column by column, the last group
// filled with zeros: value [(row / kGroupRows) * columns + column][row % kGroupRows].
enum Encoding : int32_t { kRows = 0, kGaps = 1, kGroups = 2 };
enum ValueType : int32_t { kFloat = 0, kInt8 = 1 };
constexpr int kGroupRows = 4;

// A rows x columns matrix: a convolution (O, I / groups, kh, kw) is O x rest.
struct WeightRecord {
  int32_t encoding, value_type, rows, columns;
  uint64_t entries;    // stored values, bridges and filling zeros included
  uint64_t values_at;  // float or int8 (entries,)
  uint64_t gaps_at;    // kGaps: uint8 (entries,)
  uint64_t counts_at;  // kGaps: uint32 (rows,), stored values per row
  uint64_t scales_at;  // kInt8: float (rows,)
  uint64_t bias_at;    // float (rows,)
};
static_assert(sizeof(WeightRecord) == 64, "the file format is fixed");

enum Kind : int32_t {
  kConv = 1,        // in, in2 = residual or -1
  kLinear = 2,      // in (flattened), in2 = residual or -1
  kMaxPool = 3,
  kAveragePool = 4, // extra = 1: padding counts
  kGlobalAverage = 5,
  kAdd = 6,         // in + in2
  kPlace = 7,       // copies in to the channels of out that start at extra (concat)
  kActivation = 8,  // extra = Function
  kAffine = 9,      // per channel: weight (channels x 1) times in, plus bias
  kFlatten = 10,    // channels x height x width to one vector
};
enum Function : int32_t { kClip = 0, kSigmoid = 1, kTanh = 2, kSoftmax = 3, kHardSwish = 4 };

// Every result is clipped to low..high; -inf and inf clip nothing.
struct OpRecord {
  int32_t kind, in, in2, out, weight;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
  int32_t dilation_h, dilation_w, groups, extra;
  // kConv of int8 values: its inputs are rounded to round(x / input_scale) + extra, 0 to 255,
  // and sums are those of whole numbers. 0: inputs are used as they are.
  float input_scale;
  float low, high;
};
static_assert(sizeof(OpRecord) == 72, "the file format is fixed");

}  // namespace flsp

#endif
