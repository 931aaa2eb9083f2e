// The vector kernels: one source, compiled once per instruction set (see kernels.cpp).
#ifndef FLSP_KERNELS_H
#define FLSP_KERNELS_H

#include <cstddef>
#include <cstdint>

namespace flsp {

// One kept weight: where its input lies relative to the tile, and its value.
struct Entry {
  int32_t offset;
  float value;
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
  Finish finish;          // residual already moved to the tile's first pixel
  const float* bias;      // per output channel
  int first, last;        // first block of inputs sets the bias, last one finishes
};

// Kept weights of one block of inputs; rows sorted by how many they keep, so that the
// inner loop's length changes rarely: an unpredicted end costs as much as 30 weights.
struct SparseBlock {
  const Entry* entries;
  const int32_t* start;  // (rows + 1,)
  const int32_t* row;    // (rows,): output channel
  int32_t rows;
};

// All weights of one block of inputs, in groups of `kDenseRows` output channels:
// values[(group * columns + column) * kDenseRows + row].
struct DenseBlock {
  const float* values;
  const int32_t* offset;  // (columns,)
  int32_t columns, rows;  // rows of all groups; the last group is filled with zeros
};

constexpr int kDenseRows = 4;

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
};

// A sparse matrix by rows. 16-bit offsets where they suffice: a large layer is as fast
// as its weights can be read.
struct SparseRows {
  const float* value;
  const uint16_t* near;  // offsets, or null where `far` has them
  const int32_t* far;
  const int32_t* start;  // (rows + 1,)
};

// A sparse matrix in steps of one kept weight for each of 16 rows, whose inputs lie
// within one window: two vectors of inputs answer 16 weights. Which rows have none in a
// step hold value 0 at an input that another row reads.
struct WindowRows {
  const float* value;      // (steps, 16)
  const uint8_t* index;    // (steps, 16): input within the window
  const uint16_t* base;    // (steps,): where the window starts
  const int32_t* start;    // (groups + 1,): steps of 16 rows each
};
constexpr int kWindowRows = 16, kWindow = 32;

// Largest values of windows over one channel.
struct MaxPool {
  const float* x;
  float* y;
  int32_t height, width, out_height, out_width;
  int32_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, pad_top, pad_left;
  float low, high;
  float* line;  // scratch: (out_width - 1) * stride_w + kernel_w + 2 vectors floats
};

// What one compiled instruction set offers.
struct Kernels {
  const char* name;
  int lanes;        // floats per vector
  int max_sparse;   // most vectors of a sparse tile
  int max_dense;    // most vectors of a dense tile
  void (*sparse)(const Tile&, const SparseBlock&, int th, int tw);
  void (*dense)(const Tile&, const DenseBlock&, int th, int tw);
  void (*pack)(const Pack&, float* target);
  void (*every_second)(const float* from, float* to, int32_t count);
  void (*max_pool)(const MaxPool&);  // dilation_w 1
  // y[r] = clip(bias[r] + sum value * x[offset]) for rows begin..end
  void (*linear)(const float* x, float* y, const SparseRows& rows, const float* bias,
                 int32_t begin, int32_t end, float low, float high);
  // The same for groups of rows begin..end, of `rows` rows in all; null where the
  // processor has no permutation of two vectors.
  void (*linear_window)(const float* x, float* y, const WindowRows& steps,
                        const float* bias, int32_t begin, int32_t end, int32_t rows,
                        float low, float high);
  void (*linear_dense)(const float* x, float* y, const float* weight, int32_t columns,
                       const float* bias, int32_t begin, int32_t end, float low,
                       float high);
};

// Null where the processor or the build lacks the instruction set.
const Kernels* kernels_v4();
const Kernels* kernels_v3();
const Kernels* kernels_base();

}  // namespace flsp

#endif
