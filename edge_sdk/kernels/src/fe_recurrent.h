// The C interface of recurrent layers: one direction of one layer, all steps in one call.
//
// Sequences are [blocks][steps][features][lanes]. The caller gives every step's product of
// the inputs (w_ih x + b_ih, one linear layer on blocks * steps blocks) and takes its
// gradient; what is here is the rest. Gates are in torch's order: LSTM i, f, g, o; GRU
// r, z, n with the reset after the product.
#pragma once
#include "fe.h"

enum { FE_RNN_TANH = 0, FE_RNN_RELU = 1, FE_LSTM = 2, FE_GRU = 3 };

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int32_t lanes, blocks, threads;
  int32_t cell;              // FE_RNN_TANH, FE_RNN_RELU, FE_LSTM or FE_GRU
  int32_t steps, hidden;
  int32_t reverse;           // 1: from the last step to the first
  int32_t features, offset;  // y's features per step; this direction has offset + [0, hidden)
  int32_t accumulate;        // backward adds to dw and db instead of writing them
} FeRecurrent;

// Values that forward saves for backward, per step and lane: 0, 5 * hidden, 4 * hidden.
int32_t fe_recurrent_saved(int32_t cell, int32_t hidden);

// gates [blocks][steps][G * hidden][lanes], G = 1, 4, 3; w: kept values of w_hh, whose
// structure has G * hidden rows and hidden columns, indexed by column. bias: b_hh, or
// null. h0, c0 [blocks][hidden][lanes]: null for zero. y [blocks][steps][features][lanes].
// saved: null without a backward pass. hn, cn: the last state, or null.
int fe_recurrent_forward(const FeStructure*, const FeRecurrent*, const FE_REAL* gates,
                         const FE_REAL* w, const FE_REAL* bias, const FE_REAL* h0,
                         const FE_REAL* c0, FE_REAL* y, FE_REAL* saved, FE_REAL* hn, FE_REAL* cn);
// saved is used up: GRU's gradients are kept in it. dy (like y), dhn, dcn: null for zero.
// dgates is overwritten; db, dh0 and dc0 may be null.
int fe_recurrent_backward(const FeStructure*, const FeRecurrent*, const FE_REAL* w,
                          const FE_REAL* h0, const FE_REAL* c0, const FE_REAL* y, FE_REAL* saved,
                          const FE_REAL* dy, const FE_REAL* dhn, const FE_REAL* dcn,
                          FE_REAL* dgates, FE_REAL* dw, FE_REAL* db, FE_REAL* dh0, FE_REAL* dc0);

#ifdef __cplusplus
}
#endif
