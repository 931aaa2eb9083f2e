// Products of matrices that are both a sample's own, and the choice between two values.
#pragma once
#include "fe.h"

#ifdef __cplusplus
extern "C" {
#endif

// c [blocks][matrices][rows][columns][lanes] = a [..][rows][depth] times b [..][depth][columns].
typedef struct {
  int32_t lanes, blocks, threads;
  int32_t matrices, rows, depth, columns;
} FeProduct;

int fe_product_forward(const FeProduct*, const FE_REAL* a, const FE_REAL* b, FE_REAL* c);
// Overwrites da and db, either of which may be null.
int fe_product_backward(const FeProduct*, const FE_REAL* a, const FE_REAL* b, const FE_REAL* dc,
                        FE_REAL* da, FE_REAL* db);

// y = which != 0 ? a : b, `count` reals. Each of da and db may be null.
int fe_choice_forward(int64_t count, int32_t threads, const FE_REAL* which, const FE_REAL* a,
                      const FE_REAL* b, FE_REAL* y);
int fe_choice_backward(int64_t count, int32_t threads, const FE_REAL* which, const FE_REAL* dy,
                       FE_REAL* da, FE_REAL* db);

#ifdef __cplusplus
}
#endif
