// The C interface of the depth-wise convolution and of the channel-wise chain around it:
// batch norm, activation, depth-wise convolution, batch norm, activation.
//
// All of them treat each channel alone, so a channel passes through the whole chain while
// it is in the second-level cache: memory sees the input and the output, and the backward
// pass computes what lies between again instead of loading it.
#pragma once
#include "fe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int32_t samples, lanes, blocks, threads;
  int32_t channels, multiplier;  // outputs: channels * multiplier
  int32_t in_h, in_w, kernel_h, kernel_w;
  int32_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int32_t training;    // batch statistics in both norms, not running ones
  int32_t accumulate;  // backward adds to dw and db: blocks may come one at a time
} FeDepthwise;

// A batch norm and its activation beside the convolution; a null pointer means neither.
typedef struct {
  int32_t norm;        // 0: the activation alone
  int32_t activation;  // FE_FUSED_NONE, FE_FUSED_RELU or FE_FUSED_RELU6
  const FE_REAL* gamma;  // [channels], may be null, as beta and the running statistics
  const FE_REAL* beta;
  FE_REAL* running_mean;
  FE_REAL* running_var;
  FE_REAL* saved;   // [4][channels] from forward to backward: mean, 1 / deviation, scale, shift
  FE_REAL* dgamma;  // may be null, as dbeta
  FE_REAL* dbeta;
  double momentum, eps;
} FeChannelNorm;

// w: [channels * multiplier][kernel_h * kernel_w], or the kept ones of `structure` (may be
// null: all) in canonical order. x [blocks][channels][in_h][in_w][lanes] ->
// y [blocks][channels * multiplier][out_h][out_w][lanes].
int fe_depthwise_forward(const FeStructure* structure, const FeDepthwise*,
                         const FeChannelNorm* before, const FeChannelNorm* after,
                         const FE_REAL* x, const FE_REAL* w, const FE_REAL* bias, FE_REAL* y);
// x, w and bias of the forward pass; dx and db may be null.
int fe_depthwise_backward(const FeStructure* structure, const FeDepthwise*,
                          const FeChannelNorm* before, const FeChannelNorm* after,
                          const FE_REAL* x, const FE_REAL* w, const FE_REAL* bias,
                          const FE_REAL* dy, FE_REAL* dx, FE_REAL* dw, FE_REAL* db);

#ifdef __cplusplus
}
#endif
