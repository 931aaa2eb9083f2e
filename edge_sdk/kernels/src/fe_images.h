// The C interface of what image networks need besides convolutions and norms: pools over
// any windows, borders, upsampling, and the transposed convolution.
#pragma once
#include "fe.h"

#ifdef __cplusplus
extern "C" {
#endif

// A pool over windows that may leave the plane (ceil_mode), be dilated, or divide the
// plane evenly (adaptive: only the sizes count). Planes are [in_h][in_w][lanes].
typedef struct {
  int32_t lanes, planes, threads;  // planes = blocks * channels
  int32_t in_h, in_w, out_h, out_w;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int32_t adaptive;
  int32_t average;      // else the maximum
  int32_t include_pad;  // average: the padding counts
  int32_t divisor;      // average: instead of the count; 0: the count
} FeRegionPool;

int fe_region_pool_forward(const FeRegionPool*, const FE_REAL* x, FE_REAL* y);
// x: read for the maximum only, which is looked for again.
int fe_region_pool_backward(const FeRegionPool*, const FE_REAL* x, const FE_REAL* dy, FE_REAL* dx);

enum { FE_PAD_CONSTANT = 0, FE_PAD_REFLECT = 1, FE_PAD_REPLICATE = 2, FE_PAD_CIRCULAR = 3 };

// Borders around the last three axes; a negative one cuts off (constant mode only).
typedef struct {
  int32_t lanes, planes, threads;
  int32_t in[3], before[3], after[3];
  int32_t mode;
  double value;  // of the constant
} FePad;

int fe_pad_forward(const FePad*, const FE_REAL* x, FE_REAL* y);
int fe_pad_backward(const FePad*, const FE_REAL* dy, FE_REAL* dx);

// scale: input pixels per output pixel, as torch computes it; 0: in / out.
typedef struct {
  int32_t lanes, planes, threads;
  int32_t in_h, in_w, out_h, out_w;
  int32_t linear;         // else nearest
  int32_t align_corners;  // linear only
  double scale_h, scale_w;
} FeUpsample;

int fe_upsample_forward(const FeUpsample*, const FE_REAL* x, FE_REAL* y);
int fe_upsample_backward(const FeUpsample*, const FE_REAL* dy, FE_REAL* dx);

// The transposed convolution: of the structure's rows, one per input channel, and columns
// (out / groups, kh, kw). in_h and in_w of FeConv are the OUTPUT's height and width.
int fe_conv_transpose_forward(const FeStructure*, const FeConv*, const FE_REAL* x,
                              const FE_REAL* w, const FE_REAL* bias, FE_REAL* y);
// dx and db may be null; accumulate: dw and db are added to.
int fe_conv_transpose_backward(const FeStructure*, const FeConv*, const FE_REAL* x,
                               const FE_REAL* w, const FE_REAL* dy, FE_REAL* dx, FE_REAL* dw,
                               FE_REAL* db, int32_t accumulate);

#ifdef __cplusplus
}
#endif
