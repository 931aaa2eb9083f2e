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

// Operations `first` to `first` + its `chained`, channel by channel.
void run_chain(const Model& model, size_t first, const Workspace& space);
void run_depthwise(const Model& model, const Op& op, const Workspace& space);
void run_bytes(const Model& model, const Op& op, const Workspace& space);
const float* rounded_input(const Model& model, const Op& op, const Workspace& space);
void run_op(const Model& model, const Op& op, const Workspace& space);

}  // namespace flsp

#endif
