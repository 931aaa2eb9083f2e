// What the samples of a batch make together. Tensors are blocked as in fe.h; padded lanes
// have no part in it. Samples are taken in their order, in double: the same bits for any
// number of threads.
#pragma once
#include "fe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int32_t samples, lanes, blocks, threads;
  int32_t count;  // values per sample
  int32_t mean;   // divide by the number of samples
} FeBatchSum;

// y [blocks][count][lanes]: in every lane the sum of x over all samples.
int fe_batch_sum_forward(const FeBatchSum*, const FE_REAL* x, FE_REAL* y);
// dx: the sum of dy, zero in padded lanes.
int fe_batch_sum_backward(const FeBatchSum*, const FE_REAL* dy, FE_REAL* dx);

#define FE_FLIPPED 0
#define FE_ROLLED 1
#define FE_SHUFFLED 2
// The samples of a batch in another order: the last one first, each `shift` places further,
// or drawn by `key` (where `fixed`: flipped instead, for comparisons).
typedef struct {
  int32_t samples, lanes, blocks, threads;
  int32_t count;  // values per sample
  int32_t kind, shift, fixed;
  uint64_t key;
} FeBatchOrder;

// y: the samples of x in that order; padded lanes are copied.
int fe_batch_order_forward(const FeBatchOrder*, const FE_REAL* x, FE_REAL* y);
// dx: dy back in their places, zero in padded lanes.
int fe_batch_order_backward(const FeBatchOrder*, const FE_REAL* dy, FE_REAL* dx);

// Each sample has `rows` vectors a and `columns` vectors b of so many values. Of row v of a
// sample the term is log(sum of e^(a b) over all samples' columns) - a b of its own sample's
// column (v + shift) modulo columns: the cross-entropy that picks its partner among all.
// apart: a row does not see its own sample's column of the same number.
typedef struct {
  int32_t samples, lanes, blocks, threads;
  int32_t rows, columns, width, shift, apart;
} FeContrast;

// a [blocks][rows][width][lanes], b likewise. terms and normalizer [blocks][rows][lanes].
int fe_contrast_forward(const FeContrast*, const FE_REAL* a, const FE_REAL* b, FE_REAL* terms,
                        FE_REAL* normalizer);
// da and db may be null.
int fe_contrast_backward(const FeContrast*, const FE_REAL* a, const FE_REAL* b,
                         const FE_REAL* normalizer, const FE_REAL* dterms, FE_REAL* da,
                         FE_REAL* db);

#ifdef __cplusplus
}
#endif
