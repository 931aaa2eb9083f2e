// A loaded model: checked records, weights in the file, and a plan for every layer.
#ifndef FLSP_MODEL_H
#define FLSP_MODEL_H

#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "format.h"
#include "kernels.h"

namespace flsp {

constexpr int64_t kMostFloats = int64_t{1} << 29;  // 2 GiB of activations or weights
constexpr int64_t kSlack = 64;  // floats before and behind what a session allocates
// Floats outside a plane that a copy in whole vectors may begin or end, before its last
// vector is rounded up; as many lie between two buffers of a file.
constexpr int32_t kNear = 32;
static_assert(kNear + 16 <= kSlack, "a copy stays in its allocation");

// Vectors that begin where a line of the cache does: no load of theirs crosses one.
template <class T>
struct LineAllocator {
  using value_type = T;
  LineAllocator() = default;
  template <class U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* at, size_t) { ::operator delete(at, std::align_val_t{64}); }
  bool operator==(const LineAllocator&) const { return true; }
  bool operator!=(const LineAllocator&) const { return false; }
};
template <class T>
using Lines = std::vector<T, LineAllocator<T>>;

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Buffer {
  int32_t channels, height, width;
  int64_t offset;
  int32_t whole = -1, first = 0;  // of a part of another buffer: which, and from what channel on
  int64_t pixels() const { return static_cast<int64_t>(height) * width; }
  int64_t plane() const { return pixels() == 1 ? 1 : (pixels() + 15) / 16 * 16; }
  int64_t floats() const { return channels * plane(); }
};

// Whether two buffers share no float of the arena.
inline bool apart(const Buffer& a, const Buffer& b) {
  return a.offset + a.floats() <= b.offset || b.offset + b.floats() <= a.offset;
}

// A weight as it lies in the file, checked; format.h says how.
struct Weight {
  int32_t rows = 0, columns = 0;
  Encoding encoding = kRows;
  Values values{};
  const uint8_t* gaps = nullptr;  // kGaps: (entries,)
  const float* bias = nullptr;    // (rows,)
  std::vector<int32_t> start;     // kGaps: (rows + 1,), where each row's entries begin
  int64_t entries = 0;
};

inline float value_of(const Weight& w, int64_t entry, int64_t row) {
  if (!w.values.scale) return static_cast<const float*>(w.values.at)[entry];
  return static_cast<const int8_t*>(w.values.at)[entry] * w.values.scale[row];
}

// One block of input channels of a convolution.
struct ConvBlock {
  int32_t channel = 0, channels = 0;  // what is packed
  int64_t base = 0;                   // added to the tile's input
  std::vector<Segment> segments;      // sparse layers: by shard, the longest first
  std::vector<int32_t> shard;         // (shards + 1,): ranges of `segments`
};

// How a depth-wise convolution's channels are copied (kernels.h); see depthwise.cpp.
struct DepthwisePlan {
  int32_t strip = 0;  // 0: another way runs it
  int32_t row = 0, plane = 0, copy_floats = 0, line_floats = 0;
  bool flat = false, direct = false;
  bool turned = false;  // a vector holds a pixel of several channels
  std::vector<int32_t> offset;
  int64_t floats = 0;  // of scratch, the filters included
};

// How a convolution of bytes runs (kernels.h); see bytes_plan.cpp. Made when a file is opened, as
// its layout is the processor's.
struct BytePlan {
  std::vector<uint8_t> steps;
  std::vector<int32_t> base, start, output, shift;
  std::vector<float> scale, bias;
  int32_t step = 0, row = 0;      // bytes of a pixel, and of a row of them
  int32_t height = 0, width = 0;  // of the padded input
  int64_t floats = 0;             // of its input's bytes; 0: another way runs it
  bool follows = false;           // the operation before leaves the bytes in the input's buffer
  bool feeds = false;             // its output is bytes for the one behind
};

// How a convolution runs on this processor; see plan.cpp.
struct ConvPlan {
  BytePlan bytes;
  DepthwisePlan depthwise;
  std::vector<float> scales;  // of rounded inputs' sums; empty: inputs are not rounded
  int64_t rounded_at = 0;     // where they lie in the scratch
  bool dense = false;
  bool flat = false;        // 1 x 1: a plane is one row of pixels
  bool packed = false;      // tiles read packed rows; else the source itself
  bool phases = false;      // the source is copied, padded and split by stride
  int32_t vectors = 0;      // per tile
  int32_t shards = 1;       // parts of the output channels, for threads
  int32_t tile_h = 0, tile_w = 0;  // direct tiles: rows and vectors
  // the source: the input, or the scratch with phase planes of each channel
  int64_t source_plane = 0;   // floats between channels
  int32_t source_row = 0, source_height = 0, source_width = 0;
  std::vector<int32_t> phase_h, phase_w;  // phases that some weight reads
  // packing
  std::vector<int32_t> origin, shift;
  bool near = false;        // whole vectors may be read: see kNear
  int32_t row_from = 0;     // source row of output row 0 (negative: padding)
  int32_t row_span = 0;     // source rows that one output row reads
  int32_t pack_row = 0;     // floats per packed row: the width, or rounded up to lanes or half of them
  std::vector<int32_t> order;  // of a vector with two rows: its pixels without the gaps
  int32_t tile_rows = 0;    // output rows of a tile of whole rows; 0: any pixels
  int64_t step = 0;         // floats per copy
  int64_t source_floats = 0, pack_floats = 0;
  // sums between blocks: in the scratch, or (0) where the output will be
  int64_t sums_at = 0, sums_row = 0;
  std::vector<int32_t> offset;  // (columns,): where a column's input lies
  std::vector<ConvBlock> blocks;
};

// A sparse linear layer in steps of 16 rows (kernels.h): the one layout that depends on
// the processor, and so the one that is made when a file is opened; see windows.cpp.
struct WindowPlan {
  Lines<float> values;
  Lines<uint32_t> places;
  std::vector<uint16_t> base;
  std::vector<int32_t> start;  // empty: rows are used as they lie in the file
  std::vector<int32_t> six;

  WindowRows rows() const {
    return {values.data(), places.data(), base.data(), start.data(), six.data()};
  }
};

struct Op {
  OpRecord record;
  Weight weight;  // of layers that have one
  ConvPlan conv;
  WindowPlan windows;
  int32_t chained = 0;  // operations behind it that run with it; see chain.cpp
};

struct Model {
  static constexpr int64_t kAll = int64_t{1} << 62;
  const Kernels* kernels = nullptr;
  const ByteKernels* byte_kernels = nullptr;  // null where the processor has none
  std::vector<Buffer> buffers;  // 0 is the input
  int32_t output = 0;
  // How much of the caller's input is copied, if anything (callers.cpp): pieces of so many values
  // near its ends; kAll.
  int64_t copied_piece = kAll;
  bool output_copied = true;  // else operations write the caller's array
  std::vector<Op> ops;
  int64_t arena_floats = 0, source_floats = 0, pack_floats = 0;
  std::string metadata;
  int64_t bytes() const;
};

// Checks a file and plans its layers; throws Error with one sentence. The file starts at a
// multiple of 64 and stays where it is: the model's weights point into it.
void load_model(Model& model, const uint8_t* data, size_t size);
// Plans one convolution; with `bytes` one of rounded inputs may run on bytes, and with `before`
// on those that the operation before leaves.
ConvPlan plan_conv(const Kernels& kernels, const ByteKernels* bytes, const OpRecord& op,
                   const Buffer& in, const Buffer& out, const Weight& weight,
                   const BytePlan* before);
BytePlan plan_bytes(const ByteKernels& kernels, const OpRecord& op, const Buffer& in,
                    const Buffer& out, const Weight& weight, const BytePlan* before);
DepthwisePlan plan_depthwise(const Kernels& kernels, const OpRecord& op, const Buffer& in,
                             const Buffer& out);
// Leaves out copies into concatenations where convolutions can write there.
void plan_places(Model& model);
// Which operations run together; floats of scratch that this takes.
int64_t plan_chains(Model& model);
// Which of the caller's arrays operations use where they lie; the last plan of all.
void plan_callers(Model& model);
// Steps of a linear layer; none where rows are faster, or the processor knows no steps.
WindowPlan plan_windows(const Kernels& kernels, const Weight& weight);
const Kernels* best_kernels();
const ByteKernels* best_bytes();

}  // namespace flsp

#endif
