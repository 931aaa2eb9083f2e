// One function per kind of layer, on the buffers of a session.
#ifndef FLSP_LAYERS_H
#define FLSP_LAYERS_H

#include "model.h"
#include "threads.h"

namespace flsp {

// Memory that one session owns; every pointer is aligned to 64 bytes.
struct Workspace {
  float* arena;    // activations
  float* source;   // a convolution's padded input
  float* pack;     // packed rows, `pack_step` floats per thread
  int64_t pack_step;
  Pool* pool;
};

// A depth-wise convolution, channel by channel; `scratch` is its plan's.
class DepthwiseRun {
 public:
  DepthwiseRun(const Model& model, const Op& op, float* scratch);
  // Channel c, from x to the planes of its outputs at y; `residual` may be null.
  void channel(int64_t c, const float* x, const float* residual, float* y);

 private:
  const Op& op_;
  const Kernels& kernels_;
  float* const filters_;
  Depthwise d_{};
};

// One channel of a convolution's input into its padded phase planes.
void copy_phases(const Model& model, const Op& op, const float* input, float* source, int channel);
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
