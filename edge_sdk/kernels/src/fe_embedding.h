// The C interface of embeddings: rows of a table, looked up by whole numbers.
#pragma once
#include "fe.h"

enum { FE_BAD_INDEX = 6 };

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int32_t samples, lanes, blocks, threads;
  int32_t positions;   // tokens per sample
  int32_t padding;     // the token whose row gets no gradient; -1: none
  int32_t accumulate;  // backward adds to dw instead of writing it
} FeEmbedding;

// tokens [blocks][positions][lanes], whole numbers held as reals; the structure has a row
// per token. y [blocks][positions][columns][lanes], zero off the mask and in padded lanes.
// FE_BAD_INDEX: a token is below 0 or no row; y is undefined then.
int fe_embedding_forward(const FeStructure*, const FeEmbedding*, const FE_REAL* tokens,
                         const FE_REAL* w, FE_REAL* y);
// tokens must have passed the forward pass. A row's terms are added in the order of the
// samples, whatever the number of threads.
int fe_embedding_backward(const FeStructure*, const FeEmbedding*, const FE_REAL* tokens,
                          const FE_REAL* dy, FE_REAL* dw);

#ifdef __cplusplus
}
#endif
