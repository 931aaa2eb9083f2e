// Every number of a file against what the kernels assume, in one place, before anything is
// laid out. Whoever writes a kernel that trusts another number adds a row here and its
// line in check.cpp; `make fuzz-native` looks for the rows that are missing.
//
// | who                        | assumes                                | holds by               |
// |----------------------------|----------------------------------------|------------------------|
// | every layer                | a buffer's planes lie in the arena, at | check_buffer           |
// |                            | multiples of 16 floats; sides <= 65536 |                        |
// | every layer                | it reads what was written in this run  | check_order            |
// |                            | and what no other buffer has taken     |                        |
// | memcpy (place, flatten)    | input and output do not overlap        | check_op, `apart`      |
// | add, activation, affine,   | in, in2 and out have one shape         | check_op               |
// | residuals of conv, linear  |                                        |                        |
// | place (concat)             | channels extra.. lie in the output     | check_op               |
// | softmax, linear, global    | the output is one pixel a channel      | check_op               |
// | values, shapes: elements.h | every value it names lies in its plane | check_elements.cpp     |
// | recurrent                  | gates are 3, 4 or 1 times the state    | check_elements.cpp     |
// | conv, pools                | the output is as large as the window   | check_axis             |
// |                            | arithmetic says, padding up to 4096 on |                        |
// |                            | either side: rows and columns that are |                        |
// |                            | read fit 17 bits, a plane 29, so that  |                        |
// |                            | row * width fits 32                    |                        |
// | max_pool                   | dilation_w 1; a line of scratch with   | check_op, `pool_line`  |
// |                            | two vectors behind it                  |                        |
// | pack_vectors, pack_narrow  | no copy begins or ends further outside | plan.cpp, `near`;      |
// | (every lane count)         | its plane than kNear; else pack_rows,  | else exact rows        |
// |                            | which copies exactly                   |                        |
// | whole vectors anywhere     | kSlack floats before and behind every  | api.cpp, `Floats`      |
// |                            | allocation: kNear + two vectors of 16  |                        |
// | sparse_tile, sparse_row,   | a column lies in the matrix, columns   | check_gaps             |
// | linear_window              | of a row ascend, rows end where the    |                        |
// |                            | entries end                            |                        |
// | depthwise                  | stride 1 or 2, sides <= 7, padding and | depthwise.cpp, `fits`  |
// |                            | overhang less than the kernel          |                        |
// | depthwise, stride 2 where  | whole vectors end at most kNear floats | depthwise.cpp,         |
// | it lies                    | behind a row, begin as many before     | `strided`              |
// | chains                     | nobody else reads what lies between;   | chain.cpp, `may_run`   |
// |                            | what is written is not still read      |                        |
// | places                     | a part's channels lie in the whole;    | check_kind (place);    |
// |                            | nobody uses it between                 | places.cpp, `touches`  |
// | depthwise_group            | planes with room for four pixels, one  | Buffer::plane,         |
// |                            | filter a channel, sides of any size    | depthwise.cpp, `turns` |
// | the caller's arrays        | nothing is read or written beside them:| callers.cpp; of planes |
// |                            | whole vectors end at most kSlack floats| near their ends,       |
// |                            | beside what an operation reads         | copy_input             |
// | dense_tile                 | groups of 4 whole rows; groups = 1     | entries_of, check_conv |
// | dense_row, affine          | rows * columns values                  | entries_of             |
// | linear_window              | columns <= 65536                       | windows.cpp            |
// | tiles                      | a shape that was compiled for v4, v3,  | check_plan             |
// |                            | base or aarch64; at most kMostVectors  |                        |
// | bytes, rounded inputs      | a finite scale, a zero point of a byte,| check_rounded          |
// |                            | sums below 2^24, groups = 1            |                        |
// | segments, offsets          | 32 bits                                | plan.cpp, `checked`    |
// | scales, biases             | one per row, finite clip limits        | weight.cpp, check_op   |
//
// Work. Opening takes time and memory in proportion to the file, whatever it says: weights
// name at most kMostUses times its bytes, no weight is used by two operations, and tables
// that grow with a declared shape (a pruned layer stores nothing for its columns) may take
// kFreeTables + kTablesPerByte * file bytes. A session may take kFreeFloats +
// kFloatsPerFloat * (floats of one input + file bytes / 4) floats, at most kMostFloats, and
// never more than the machine has; an arena is no larger than its buffers together.
#ifndef FLSP_CHECK_H
#define FLSP_CHECK_H

#include "model.h"

namespace flsp {

constexpr int64_t kFreeTables = int64_t{16} << 20, kTablesPerByte = 32;  // bytes
constexpr int64_t kFreeFloats = int64_t{4} << 20, kFloatsPerFloat = 1024;

// What a file holds: numbers as they are written, arrays inside the file's bytes.
struct Program {
  int64_t file_bytes = 0, arena_floats = 0;
  std::vector<Buffer> buffers;
  std::vector<Weight> weights;  // arrays found, contents unknown
  std::vector<const uint32_t*> counts;  // kGaps: (rows,) per weight
  std::vector<OpRecord> ops;
};

// Throws Error with one sentence; fills in where the rows of sparse weights begin.
void check_program(Program& program);
// Of a weight's record, before its arrays are looked for.
void check_shape(const WeightRecord& record);
// A planned convolution on the kernels it will run on.
void check_plan(const Kernels& kernels, const ConvPlan& plan);
// What a session of one thread will allocate.
void check_memory(const Program& program, int64_t source_floats, int64_t pack_floats);

// Scratch of a pool's rows of windows, each with room for two vectors behind it.
int64_t pool_line(const OpRecord& op, const Buffer& out);

}  // namespace flsp

#endif
