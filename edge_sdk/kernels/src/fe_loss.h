// Losses over blocked predictions: forward adds up, backward gives the gradient.
//
// Terms are summed per sample and the samples in their order, in double: the same bits for
// any number of threads and for any number of blocks per call. Means are the caller's: it
// divides the sum, and gives 1 / divisor as the gradient's scale. Padded lanes have no
// term and gradient zero.
#pragma once
#include "fe.h"

// A label that is no class; a term that is NaN or infinite. `sample` then has its number,
// counted from the first of this call; else it is -1.
enum { FE_BAD_LABEL = 4, FE_NOT_FINITE = 5 };

#ifdef __cplusplus
extern "C" {
#endif

// Cross-entropy of logits, or with `log_probabilities` the negative log-likelihood of what
// log-softmax gave. Predictions [blocks][classes][positions][lanes], labels
// [blocks][positions][lanes] as reals. class_weight [classes] may be null (all 1).
typedef struct {
  int32_t samples, lanes, blocks, threads;
  int32_t classes, positions, log_probabilities;
  int64_t ignore;    // positions with this label have no term
  double smoothing;  // label smoothing in [0, 1]; 0 with log_probabilities
} FeClassLoss;

// *total += the weights of all labels that are not ignored: what torch's mean divides by.
int fe_class_loss_weight(const FeClassLoss*, const FE_REAL* labels, const FE_REAL* class_weight,
                         double* total, int32_t* sample);
// *total += the terms. normalizer [blocks][positions][lanes]: the logarithm of the sum of
// exponentials, which the backward pass reads; null with log_probabilities.
int fe_class_loss_forward(const FeClassLoss*, const FE_REAL* x, const FE_REAL* labels,
                          const FE_REAL* class_weight, FE_REAL* normalizer, double* total,
                          int32_t* sample);
int fe_class_loss_backward(const FeClassLoss*, const FE_REAL* x, const FE_REAL* labels,
                           const FE_REAL* class_weight, const FE_REAL* normalizer, double scale,
                           FE_REAL* dx);

enum {
  FE_SQUARED_ERROR = 0, FE_ABSOLUTE_ERROR = 1, FE_SMOOTH_L1 = 2, FE_HUBER = 3,
  FE_BINARY_CROSS_ENTROPY = 4, FE_VALUE_LOSSES = 5
};

// A loss of each value by itself. Predictions and targets [blocks][count][lanes].
typedef struct {
  int32_t kind, samples, lanes, blocks, threads;
  int64_t count;  // values per sample
  double delta;   // FE_SMOOTH_L1's beta, FE_HUBER's delta; above 0
} FeValueLoss;

// positive_weight [count]: FE_BINARY_CROSS_ENTROPY's pos_weight, null for 1.
int fe_value_loss_forward(const FeValueLoss*, const FE_REAL* x, const FE_REAL* target,
                          const FE_REAL* positive_weight, double* total, int32_t* sample);
int fe_value_loss_backward(const FeValueLoss*, const FE_REAL* x, const FE_REAL* target,
                           const FE_REAL* positive_weight, double scale, FE_REAL* dx);

#ifdef __cplusplus
}
#endif
