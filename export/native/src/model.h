// A loaded model: checked records, decoded weights, and a plan for every layer.
#ifndef FLSP_MODEL_H
#define FLSP_MODEL_H

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "format.h"
#include "kernels.h"

namespace flsp {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Buffer {
  int32_t channels, height, width;
  int64_t offset;
  int64_t pixels() const { return static_cast<int64_t>(height) * width; }
  int64_t plane() const { return pixels() == 1 ? 1 : (pixels() + 15) / 16 * 16; }
  int64_t floats() const { return channels * plane(); }
};

// Kept weights by row, columns ascending; `dense` where none was left out.
struct Matrix {
  int32_t rows = 0, columns = 0;
  bool dense = false;
  std::vector<int32_t> start;    // (rows + 1,)
  std::vector<int32_t> column;   // (kept,); empty when dense
  std::vector<float> value;      // (kept,)
  std::vector<float> bias;       // (rows,)
  int64_t kept() const { return static_cast<int64_t>(value.size()); }
  int32_t column_at(int32_t i, int32_t row) const {
    return dense ? i - start[row] : column[i];
  }
};

// One block of input channels of a convolution.
struct ConvBlock {
  int32_t channel = 0, channels = 0;  // what is packed
  std::vector<Entry> entries;
  std::vector<int32_t> start, row;
  std::vector<int32_t> shard;         // (shards + 1,): ranges of `row`
  std::vector<float> values;          // dense layers
  std::vector<int32_t> offset;        // of every column: dense layers
};

// How a convolution runs on this processor; see plan.cpp.
struct ConvPlan {
  bool dense = false;
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
  int32_t row_from = 0;     // source row of output row 0 (negative: padding)
  int32_t row_span = 0;     // source rows that one output row reads
  int32_t pack_row = 0;     // floats per packed row: the width, or rounded up to lanes
  int32_t tile_rows = 0;    // output rows of a tile of whole rows; 0: any pixels
  int64_t step = 0;         // floats per copy
  int64_t source_floats = 0, pack_floats = 0;
  std::vector<ConvBlock> blocks;
  std::vector<float> bias;
};

struct LinearPlan {
  bool dense = false;
  std::vector<float> values, bias;
  std::vector<uint16_t> near;   // offsets of sparse values, or `far` where they are large
  std::vector<int32_t> far, start;
  // instead of offsets: steps of 16 rows (kernels.h)
  std::vector<uint8_t> index;
  std::vector<uint16_t> base;
};

struct Op {
  OpRecord record;
  ConvPlan conv;
  LinearPlan linear;
};

struct Model {
  const Kernels* kernels = nullptr;
  std::vector<Buffer> buffers;  // 0 is the input, the last one the output
  std::vector<Op> ops;
  int64_t arena_floats = 0, source_floats = 0, pack_floats = 0;
  std::string metadata;
  int64_t bytes() const;
};

// Checks and loads; throws Error with one sentence.
void load_model(Model& model, const uint8_t* data, size_t size);
// Plans one convolution.
ConvPlan plan_conv(const Kernels& kernels, const OpRecord& op, const Buffer& in,
                   const Buffer& out, const Matrix& weight);
LinearPlan plan_linear(const Kernels& kernels, const Buffer& in, Matrix weight);
const Kernels* best_kernels();

}  // namespace flsp

#endif
