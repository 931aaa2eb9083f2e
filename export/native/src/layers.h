// One function per kind of layer, on the buffers of a session.
#ifndef FLSP_LAYERS_H
#define FLSP_LAYERS_H

#include "model.h"
#include "threads.h"

namespace flsp {

// A buffer's planes, and floats from one to the next.
template <class T>
struct Planes {
  T* at;
  int64_t step;
  T* channel(int64_t c) const { return at + c * step; }
};

// The caller's arrays at one example; null where the arena's buffers hold a copy.
struct Caller {
  const float* x = nullptr;
  float* y = nullptr;
  int64_t before = 0, behind = 0;  // floats of x's array before this example and behind it
};

// The rows of one channel: `begin` to `end` lie in the caller's array, others were copied.
struct ChannelRows {
  const float *own, *copied;
  int32_t begin, end;
};

// Memory that one session owns, every pointer aligned to 64 bytes, and the caller's.
struct Workspace {
  const Model& model;
  float* arena;    // activations
  float* source;   // a convolution's padded input
  float* pack;     // packed rows, `pack_step` floats per thread
  int64_t pack_step;
  Pool* pool;
  Caller caller;

  // Where an operation reads a buffer that touches nothing beside its planes.
  Planes<const float> from(int32_t buffer) const {
    const Buffer& b = model.buffers[buffer];
    if (buffer == 0 && caller.x) return {caller.x, b.pixels()};
    return {arena + b.offset, b.plane()};
  }
  // Channels `first` to `end`, with kSlack floats before and behind that may be read.
  Planes<const float> near(int32_t buffer, int64_t first, int64_t end) const {
    const Buffer& b = model.buffers[buffer];
    if (buffer == 0 && lies_inside(first * b.pixels(), end * b.pixels()))
      return {caller.x + first * b.pixels(), b.pixels()};
    return {arena + b.offset + first * b.plane(), b.plane()};
  }
  const float* near(int32_t buffer, int64_t channel) const {
    return near(buffer, channel, channel + 1).at;
  }
  // A channel's rows, each with that room.
  ChannelRows rows(int32_t buffer, int64_t channel) const;
  // Where an operation writes a buffer.
  Planes<float> to(int32_t buffer) const {
    const Buffer& b = model.buffers[buffer];
    if (caller.y && (buffer == model.output || b.whole == model.output))
      return {caller.y + b.first * b.pixels(), b.pixels()};
    return {arena + b.offset, b.plane()};
  }
  // Whether values `first` to `end` of the caller's example have kSlack floats on both sides.
  bool lies_inside(int64_t first, int64_t end) const {
    const Buffer& b = model.buffers.front();
    return caller.x && first + caller.before >= kSlack &&
           b.channels * b.pixels() - end + caller.behind >= kSlack;
  }
};

// Copies what of an example operations do not read where it lies.
void copy_input(const Workspace& space, const float* x);
// Copies the output, if operations did not write the caller's.
void copy_output(const Workspace& space, float* y);

// A depth-wise convolution, channel by channel; `scratch` is its plan's.
class DepthwiseRun {
 public:
  DepthwiseRun(const Workspace& space, const Op& op, float* scratch);
  // Channel c, from x to the planes of its outputs at y; `residual` may be null.
  void channel(int64_t c, const float* x, const float* residual, float* y);

 private:
  const Op& op_;
  const Kernels& kernels_;
  float* const filters_;
  Depthwise d_{};
};

// One channel of a convolution's input into its padded phase planes.
void copy_phases(const Model& model, const Op& op, const ChannelRows& input, float* source,
                 int channel);
// A convolution and the max pool that alone reads it, some rows at a time: what lies between
// them stays in a cache. Floats of a thread's scratch; 0: they run one after the other.
int64_t pooled_floats(const Model& model, size_t first);
void run_pooled(const Model& model, size_t first, const Workspace& space);
// Operations `first` to `first` + its `chained`, channel by channel.
void run_chain(const Model& model, size_t first, const Workspace& space);
void run_depthwise(const Model& model, const Op& op, const Workspace& space);
void run_bytes(const Model& model, const Op& op, const Workspace& space);
const float* rounded_input(const Model& model, const Op& op, const Workspace& space);
void run_op(const Model& model, const Op& op, const Workspace& space);

}  // namespace flsp

#endif
