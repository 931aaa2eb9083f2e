// The C interface of the sparse training kernels; edge_sdk/kernels/library.py mirrors it.
//
// Blocked tensors: [blocks][channels][height][width][lanes], lanes in {4, 8, 16} samples
// innermost, 64-byte aligned. Kept weights are in canonical order: row-major over
// (out, in / groups, kh, kw). Every function returns FE_OK or an error code and is
// deterministic for any number of threads.
#pragma once
#include <stdint.h>

#ifndef FE_REAL
#define FE_REAL float
#endif

#define FE_ABI 1
enum { FE_OK = 0, FE_BAD_ARGUMENT = 1, FE_NO_MEMORY = 2, FE_TOO_LARGE = 3 };

#ifdef __cplusplus
extern "C" {
#endif

// Activations that a norm or a prologue ends in.
enum { FE_FUSED_NONE = 0, FE_FUSED_RELU = 1, FE_FUSED_RELU6 = 2 };

typedef struct FeStructure FeStructure;  // a frozen pattern, shared by all steps

typedef struct {
  int32_t samples;                 // valid lanes in all; blocks = ceil(samples / lanes)
  int32_t lanes, blocks, threads;
  int32_t in_h, in_w;
  int32_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
} FeConv;

// What happens to a conv's input on the way in: activation(x * scale + shift + residual).
// scale and shift are [blocks][channels][lanes] (zero in padded lanes) or null; relu is
// FE_FUSED_NONE, FE_FUSED_RELU or FE_FUSED_RELU6.
typedef struct {
  const FE_REAL* scale;
  const FE_REAL* shift;
  const FE_REAL* residual;
  int32_t relu;
} FePrologue;

int fe_abi(void);
int fe_real_bytes(void);
int fe_vector_bytes(void);

// pattern: rows x cols bytes, null for a full one. transposed: also index by column
// (linear layers; conv layers sort on the fly).
int fe_structure_create(const uint8_t* pattern, int32_t rows, int32_t in_per_group, int32_t groups,
                        int32_t kernel_h, int32_t kernel_w, int32_t transposed, FeStructure** out);
void fe_structure_free(FeStructure*);
int64_t fe_structure_nnz(const FeStructure*);
int64_t fe_structure_bytes(const FeStructure*);

int fe_conv_forward(const FeStructure*, const FeConv*, const FE_REAL* x, const FePrologue*,
                    const FE_REAL* w, const FE_REAL* bias, FE_REAL* y);
// dx may be null (first layer); dw and db (may be null) are overwritten.
int fe_conv_backward(const FeStructure*, const FeConv*, const FE_REAL* x, const FePrologue*,
                     const FE_REAL* w, const FE_REAL* dy, FE_REAL* dx, FE_REAL* dw, FE_REAL* db);

// x [blocks][in][lanes] -> y [blocks][out][lanes]
int fe_linear_forward(const FeStructure*, int32_t lanes, int32_t blocks, int32_t threads,
                      const FE_REAL* x, const FE_REAL* w, const FE_REAL* bias, FE_REAL* y);
int fe_linear_backward(const FeStructure*, int32_t lanes, int32_t blocks, int32_t threads,
                       const FE_REAL* x, const FE_REAL* w, const FE_REAL* dy, FE_REAL* dx,
                       FE_REAL* dw, FE_REAL* db);

typedef struct {
  int32_t samples, lanes, blocks, threads;
  int32_t channels, pixels;
  int32_t groups;    // 0: batch norm; else group norm
  int32_t training;  // batch norm only: batch statistics, not running ones
  double momentum, eps;
  int32_t activation;  // after it and the residual: FE_FUSED_NONE, FE_FUSED_RELU or FE_FUSED_RELU6
} FeNorm;

// Statistics and the affine map they give. mean, istd: [channels] for batch norm,
// [blocks][groups][lanes] for group norm. gamma, beta, running_* may be null.
int fe_norm_prepare(const FeNorm*, const FE_REAL* x, const FE_REAL* gamma, const FE_REAL* beta,
                    FE_REAL* running_mean, FE_REAL* running_var, FE_REAL* mean, FE_REAL* istd,
                    FE_REAL* scale, FE_REAL* shift);
// Both in one pass over memory, a channel at a time; y = activation(norm(x) + residual?).
int fe_norm_forward(const FeNorm*, const FE_REAL* x, const FE_REAL* gamma, const FE_REAL* beta,
                    FE_REAL* running_mean, FE_REAL* running_var, const FE_REAL* residual,
                    FE_REAL* mean, FE_REAL* istd, FE_REAL* scale, FE_REAL* shift, FE_REAL* y);
// y = activation(x * scale + shift + residual?), the activation that of the prologue
int fe_norm_apply(const FeNorm*, const FE_REAL* x, const FePrologue*, FE_REAL* y);
// y (may be null): what came out of the activation, whose gradient is zero wherever
// y <= 0, and for FE_FUSED_RELU6 y >= 6. dx may be dy itself; dresidual (may be null) takes the
// masked gradient.
int fe_norm_backward(const FeNorm*, const FE_REAL* x, const FE_REAL* y, const FE_REAL* dy,
                     const FE_REAL* gamma, const FE_REAL* mean, const FE_REAL* istd, FE_REAL* dx,
                     FE_REAL* dresidual, FE_REAL* dgamma, FE_REAL* dbeta);
// The same without a residual and without y: it is computed again from x, for a third less
// memory traffic. scale and shift are those of the forward pass.
int fe_norm_activation_backward(const FeNorm*, const FE_REAL* x, const FE_REAL* dy,
                                const FE_REAL* gamma, const FE_REAL* mean, const FE_REAL* istd,
                                const FE_REAL* scale, const FE_REAL* shift, FE_REAL* dx,
                                FE_REAL* dgamma, FE_REAL* dbeta);

typedef struct {
  int32_t lanes, planes, threads;  // planes = blocks * channels
  int32_t in_h, in_w, out_h, out_w;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
  int32_t relu;
} FePool;

// winner: one byte per output, the tap that won, 255 where relu stopped it.
int fe_max_pool_forward(const FePool*, const FE_REAL* x, FE_REAL* y, uint8_t* winner);
int fe_max_pool_backward(const FePool*, const FE_REAL* dy, const uint8_t* winner, FE_REAL* dx);

// Frees the calling thread's work space.
void fe_release_scratch(void);

#ifdef __cplusplus
}
#endif
