// Operations of sequence models: layer norm, softmax, attention, sums over axes, and
// copies that permute, cut, join and pad.
//
// Per-sample shapes are in the order of their strides; an element is a whole lane vector.
// Backward kernels overwrite what they give, unless `accumulate` says otherwise.
#pragma once
#include "fe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int32_t samples, lanes, blocks, threads;
  int32_t rows, width;  // per sample: rows that are normalised, values in each
  int32_t accumulate;   // backward: add to dgamma and dbeta
  double eps;
} FeLayerNorm;

// mean, istd: [blocks][rows][lanes], zero in padded lanes. gamma, beta [width] may be null.
int fe_layer_norm_forward(const FeLayerNorm*, const FE_REAL* x, const FE_REAL* gamma,
                          const FE_REAL* beta, FE_REAL* y, FE_REAL* mean, FE_REAL* istd);
// dx, dgamma, dbeta may be null.
int fe_layer_norm_backward(const FeLayerNorm*, const FE_REAL* x, const FE_REAL* dy,
                           const FE_REAL* gamma, const FE_REAL* mean, const FE_REAL* istd,
                           FE_REAL* dx, FE_REAL* dgamma, FE_REAL* dbeta);

// [outer][count][inner] per sample; the operation runs along `count`.
typedef struct {
  int32_t lanes, blocks, threads;
  int32_t logarithm;  // softmax: give its logarithm
  int64_t outer, count, inner;
  double factor;      // sums: 1, or 1 / count for a mean
} FeAxis;

int fe_softmax_forward(const FeAxis*, const FE_REAL* x, FE_REAL* y);
int fe_softmax_backward(const FeAxis*, const FE_REAL* y, const FE_REAL* dy, FE_REAL* dx);
// y [outer][inner] = factor * sum of x along the axis.
int fe_sum_forward(const FeAxis*, const FE_REAL* x, FE_REAL* y);
int fe_sum_backward(const FeAxis*, const FE_REAL* dy, FE_REAL* dx);

// softmax(scale q k^T) v, never more of it in memory than some rows of one head.
// q [blocks][heads][queries][width][lanes], k likewise with `keys`, v with `value_width`.
typedef struct {
  int32_t lanes, blocks, threads;
  int32_t heads, queries, keys, width, value_width;
  int32_t causal;         // query i sees keys 0 to i
  uint32_t first_sample;  // dropout, as FeDropout has it; p = 0 for none
  uint64_t key;
  double p, scale;
} FeAttention;

// normalizer [blocks][heads][queries][lanes]: for the backward pass.
int fe_attention_forward(const FeAttention*, const FE_REAL* q, const FE_REAL* k, const FE_REAL* v,
                         FE_REAL* y, FE_REAL* normalizer);
int fe_attention_backward(const FeAttention*, const FE_REAL* q, const FE_REAL* k, const FE_REAL* v,
                          const FE_REAL* y, const FE_REAL* normalizer, const FE_REAL* dy,
                          FE_REAL* dq, FE_REAL* dk, FE_REAL* dv);

#define FE_COPY_DIMS 6
// to[i, j, ...] = from[i, j, ...], each with strides and an offset in elements of its own
// per-sample shape; `elements` lie between two blocks' samples.
typedef struct {
  int32_t lanes, blocks, threads, dims;
  int64_t shape[FE_COPY_DIMS];
  int64_t stride[2][FE_COPY_DIMS];  // from, to
  int64_t offset[2], elements[2];
} FeCopy;

int fe_copy(const FeCopy*, const FE_REAL* from, FE_REAL* to);
int fe_fill(int64_t count, double value, FE_REAL* to);

// Windows of `size` values, `hop` apart, of each of `outer` rows of `length` values.
typedef struct {
  int32_t lanes, blocks, threads;
  int64_t outer, length, size, hop;
} FeWindows;

// y [outer][(length - size) / hop + 1][size] = windows of x [outer][length].
int fe_windows(const FeWindows*, const FE_REAL* x, FE_REAL* y);
// The gradient of that: x = what windows y of each place add up to, 0 where there is none.
int fe_overlap_add(const FeWindows*, const FE_REAL* y, FE_REAL* x);

#ifdef __cplusplus
}
#endif
