// The vector kernels: one source, compiled once per instruction set (see kernels.cpp).
#ifndef FLSP_KERNELS_H
#define FLSP_KERNELS_H

#include <cstddef>
#include <cstdint>

namespace flsp {

// Values in the file: float32, or int8 with a scale per row.
struct Values {
  const void* at;
  const float* scale;  // (rows,) of int8 values; null for float32
};

// What a layer does to a sum before it is stored: clip(sum + residual, low, high).
struct Finish {
  const float* residual;  // laid out as the output, or null
  float low, high;        // -inf and inf where nothing is clipped
};

constexpr int kMostVectors = 16;  // of any tile

// A tile of th rows x tw vectors of output pixels, for many output channels.
struct Tile {
  const float* x;         // input of the tile's first pixel
  float* y;               // output of the tile's first pixel, channel 0
  ptrdiff_t x_row;        // floats between two rows of the tile's input
  ptrdiff_t x_tail;       // where a row's last vector starts: (tw - 1) * lanes or less
  ptrdiff_t y_plane;      // floats between two output channels
  ptrdiff_t y_at[kMostVectors];  // where each vector is stored, ascending
  int y_last;             // floats of the last vector that are stored
  const int32_t* order;   // which lanes of a vector are stored, in order; null: as they lie
  Finish finish;          // residual already moved to the tile's first pixel
  const float* bias;      // per output channel
  const float* scale;     // likewise, of int8 values
  bool rounded;           // inputs are whole numbers: the last bit is every processor's
  float* sums;            // of rows between blocks of inputs: vectors behind each other
  ptrdiff_t sums_row;     // floats between two rows of them
  int first, last;        // first block of inputs sets the bias, last one finishes
};

// Kept weights of one row that read one block of inputs: they lie beside each other.
struct Segment {
  int32_t row;     // output channel
  int32_t begin, count;  // entries in the file
  int32_t column;  // where the first one's gap starts
  int32_t base;    // added to the tile's input: the first input of the row's group
};

// Segments sorted by length, so that the inner loop's length changes rarely: an
// unpredicted end costs as much as 30 weights.
struct SparseBlock {
  const Segment* segments;
  int32_t count;
  const void* values;     // of the whole layer
  const uint8_t* gaps;    // likewise
  const int32_t* offset;  // of every column: its input relative to the tile's
};

// All weights of one block of inputs, in groups of kGroupRows output channels.
struct DenseBlock {
  const void* values;     // of the first group and column
  ptrdiff_t group;        // values between two groups
  const int32_t* offset;  // (columns,)
  int32_t columns, rows;  // rows of all groups; the last group is filled with zeros
};

// Rows of input pixels to copy beside each other, once per horizontal shift, so that the
// tile reads aligned vectors. Pixels outside the plane become zeros.
struct Pack {
  const float* x;          // plane of the first channel
  ptrdiff_t plane, row;    // floats between channels and between rows of x
  int32_t channels;
  const int32_t* origin;   // per copy: added to a channel's start (which phase it is in)
  const int32_t* shift;    // per copy: columns to the right
  int32_t copies;
  int32_t from, to;        // rows of x, may lie outside it
  int32_t height, width;   // of x: what is outside is 0
  int32_t out_width;       // columns per packed row
  int32_t out_row;         // floats per packed row: what is between may be anything
  ptrdiff_t step;          // floats between two copies in the target
  bool near;               // copies stay near their planes: whole vectors may be read
};

// Rows' columns first, first + 2 ... and those between, `count` of each, rounded up to whole
// vectors, zeros where there are none; a target may be null.
struct Split {
  const float* x;
  ptrdiff_t x_row;         // floats between two rows
  int32_t rows, first, width;
  float *even, *odd;
  int32_t count;
  ptrdiff_t to_row;        // floats between two rows of a target
};

// A linear layer: rows of a matrix in the file.
struct Rows {
  Values values;
  const uint8_t* gaps;   // null where every weight is stored
  const int32_t* start;  // (rows + 1,), with gaps
  int32_t columns;
  const float* bias;
};

// A sparse matrix in steps of one kept weight for each of 16 rows, whose inputs lie
// within one window: two vectors of inputs answer 16 weights. Which rows have none in a
// step hold value 0 at an input that another row reads.
struct WindowRows {
  const float* value;      // (steps, 16)
  const uint32_t* places;  // (sixes, 16): inputs within the windows of six steps, 5 bits each
  const uint16_t* base;    // (steps,): where the window starts
  const int32_t* start;    // (groups + 1,): steps of 16 rows each
  const int32_t* six;      // (groups,): where a group's places start
};
constexpr int kWindowRows = 16, kWindow = 32, kPlaces = 6, kPlaceBits = 5;

// Largest values of windows over one channel.
struct MaxPool {
  const float* x;
  float* y;
  int32_t height, width, out_height, out_width;
  int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, pad_top, pad_left;
  float low, high;
  float* line;  // scratch: kPoolLines times (out_width - 1) * stride_w + kernel_w + 2 vectors
};
constexpr int32_t kPoolLines = 4;

// One channel of a depth-wise convolution: its rows are copied a strip at a time, padded and
// split by the stride into planes, and every filter of the channel reads the copy.
struct Depthwise {
  const float* x;          // the channel
  float* y;                // output of its first filter
  ptrdiff_t y_plane;       // floats between two outputs, spare ones included
  const float* residual;   // laid out as the output, or null
  const float* filters;    // (outputs, kernel_h * kernel_w)
  const float* bias;       // (outputs,)
  const int32_t* offset;   // (taps,): where a tap's input lies in the copy
  float* copy;             // (stride * stride, plane): zeros where nothing is copied
  float* line;             // flat planes: (out_height, row) outputs
  int32_t outputs, height, width, out_height, out_width;
  int32_t kernel_h, kernel_w, stride, pad_top, pad_left;
  int32_t strip;           // output rows whose input is copied at once
  int32_t row, plane;      // floats of the copy between rows, and between planes
  bool flat;               // rows are shorter than half a vector
  bool direct;             // the plane itself is read; the copy holds zeros for rows outside
  float low, high;
};

// As many channels of a depth-wise convolution as a vector has lanes, or fewer, each with one
// filter. Up to three floats behind a plane are read; they are written where planes have room.
struct DepthwiseGroup {
  const float* x;          // of the first channel
  float* y;
  ptrdiff_t plane, y_plane;  // floats between channels
  const float* residual;   // laid out as the output, or null
  const float* filters;    // (channels, kernel_h * kernel_w)
  const float* bias;       // (channels,)
  float* scratch;          // the padded plane in front is zero at first
  const int32_t* places;   // of each input pixel in it, and of up to three behind the last
  int32_t channels, height, width, out_height, out_width, padded_height, padded_width;
  int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  float low, high;
};

// y = clip(a times b): rows x inner times inner x columns.
struct Product {
  const float *a, *b;
  float* y;
  int32_t rows, inner, columns;
  ptrdiff_t a_row, b_row, y_row;
  float low, high;
};

enum Mapped : int32_t {
  kMapSame, kMapSigmoid, kMapTanh, kMapHardSwish, kMapSilu, kMapGelu, kMapGeluTanh, kMapExp, kMapErf
};
enum Pair : int32_t {
  kPairPlus, kPairMinus, kPairTimes, kPairOver, kPairLeast, kPairMost, kPairFromSecond,
  kPairUnderSecond
};

// A convolution on bytes. Its input is rounded into pixels of `step` bytes, channels beside
// each other. Some output channels form a group (ByteKernels::rows); a step of a group is, for
// each of them, up to four kept weights whose inputs lie within one window: one permutation of
// bytes brings the inputs to the weights, and one or a few instructions add the products.
constexpr int kMostByteRows = 16, kMostByteWindow = 64, kBytePixels = 16;
struct ByteSteps {
  const uint8_t* steps;   // (steps, 2, 4 * rows): places within the window, int8 values
  const int32_t* base;    // (steps,): where the window starts, from the pixel's first byte
  const int32_t* start;   // (groups + 1,)
  const int32_t* row;     // (groups, rows): output channel, -1 where there is none
  const int32_t* shift;   // (groups, rows): what the zero point adds to a sum
  const float *scale, *bias;  // (groups, rows)
};
// Where rounded values go, and how they are rounded.
struct ByteTarget {
  float inverse, low, high;  // of the scale; limits before the zero point is added
  int32_t zero;              // less the kernels' offset
  uint8_t* at[kBytePixels];  // null: nobody reads this pixel
};
// 16 output pixels.
struct ByteTile {
  const uint8_t* x[kBytePixels];  // where each pixel's window starts
  ptrdiff_t step;         // bytes from one to the next, of four pixels each, if `quads`
  bool quads;
  float* y;               // output of the first pixel, channel 0
  ptrdiff_t y_plane;
  Finish finish;          // residual already moved to the first pixel
  bool rounded;           // pixels go to `target` in the order of the steps' rows, not to y
  ByteTarget target;
};
// 16 pixels of every channel, rounded.
struct ByteCopy {
  const float* x;         // of the first channel
  ptrdiff_t plane;        // floats between two channels
  int32_t channels;
  ByteTarget target;
};
// How a step's four weights of a row lie, and what they may be.
enum ByteOrder : int32_t {
  kFours,      // beside each other
  kSafePairs,  // likewise; the first two add up to 16 bits at most, and so do the others
  kHalves      // two in the step's first half, two in its second
};
struct ByteKernels {
  int32_t rows, window;   // output channels of a group, bytes that a step may read
  int32_t offset;         // what inputs are stored less
  ByteOrder order;
  double least;           // weights a step must have: below, float32 is faster
  void (*copy)(const ByteCopy&);
  void (*tile)(const ByteTile&, const ByteSteps&, int32_t begin, int32_t end);  // groups
};

// What one compiled instruction set offers.
struct Kernels {
  const char* name;
  int lanes;        // floats per vector
  int max_sparse;   // most vectors of a sparse tile
  int max_dense;    // most vectors of a dense tile
  // [0] for float32 values, [1] for int8
  void (*sparse[2])(const Tile&, const SparseBlock&, int th, int tw);
  void (*dense[2])(const Tile&, const DenseBlock&, int th, int tw);
  void (*pack)(const Pack&, float* target);
  void (*split)(const Split&);
  void (*max_pool)(const MaxPool&);  // dilation_w 1
  // y[r] = clip(bias[r] + sum of row r times x) for rows begin..end
  void (*linear[2])(const float* x, float* y, const Rows&, int32_t begin, int32_t end,
                    float low, float high);
  // The same for groups of rows begin..end, of `rows` rows in all; null where the
  // processor has no permutation of two vectors.
  void (*linear_window)(const float* x, float* y, const WindowRows& steps,
                        const float* bias, int32_t begin, int32_t end, int32_t rows,
                        float low, float high);
  // y = clip(bias + weights times planes) of n values; y has room for a vector more.
  void (*mix)(const float* const* planes, const float* weights, int32_t count, float bias,
              float* y, int64_t n, float low, float high);
  void (*depthwise)(const Depthwise&);
  void (*depthwise_group)(const DepthwiseGroup&);
  // y = clip(f(x)) of n values; f of x and z[0] (`one`) or z[i]; x * scale + shift likewise.
  void (*map)(int32_t function, const float* x, float* y, int64_t n, float low, float high);
  void (*pairs)(int32_t function, const float* x, const float* z, bool one, float* y, int64_t n,
                float low, float high);
  void (*scale)(const float* x, const float* scale, const float* shift, bool one, float* y,
                int64_t n, float low, float high);
  // A step of a recurrent layer of n states: x is the input's part of its gates, s the state's,
  // both gate by gate (z, r, new; in, out, keep, new); h and the cell c are changed.
  void (*gru)(const float* x, const float* s, float* h, int32_t n);
  void (*lstm)(const float* x, const float* s, float* h, float* c, int32_t n);
  double (*sum)(const float* x, int64_t n);
  // Of one row of n values.
  void (*normal)(const float* x, float* y, int64_t n, double epsilon);
  void (*softmax)(const float* x, float* y, int64_t n);
  void (*product)(const Product&);
  void (*transpose)(const float* from, ptrdiff_t from_row, float* to, ptrdiff_t to_row,
                    int32_t rows, int32_t columns);
  // y = the whole number next to clip(x * inverse, low, high)
  void (*round)(const float* x, float* y, int64_t n, float inverse, float low, float high);
};

// Null where the processor or the build lacks the instruction set.
const Kernels* kernels_v4();
const Kernels* kernels_v3();
const Kernels* kernels_base();
const ByteKernels* bytes_vnni();
const ByteKernels* bytes_avxvnni();
const ByteKernels* bytes_avx2();
const ByteKernels* bytes_dot();
const ByteKernels* bytes_neon();

}  // namespace flsp

#endif
