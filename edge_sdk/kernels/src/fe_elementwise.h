// Element-wise operations: activations, sums and products with broadcasting, dropout.
//
// Tensors are blocked as in fe.h. Backward kernels overwrite the gradients that they give;
// where dy is zero (padded lanes), so are they.
#pragma once
#include "fe.h"

#ifdef __cplusplus
extern "C" {
#endif

// a and b: FE_AFFINE y = a x + b; FE_HARDTANH y = min(max(x, a), b); FE_LEAKY_RELU slope a;
// FE_ELU alpha and scale; FE_SOFTPLUS beta and threshold; FE_POWER exponent a; FE_GREATER and
// FE_EQUAL 1 where x > a or x == a, else 0; FE_ROUND half to even; FE_STOP x itself. The
// last six have no gradient.
enum {
  FE_AFFINE = 0, FE_RELU = 1, FE_HARDTANH = 2, FE_LEAKY_RELU = 3, FE_GELU = 4, FE_GELU_TANH = 5,
  FE_SILU = 6, FE_HARDSWISH = 7, FE_HARDSIGMOID = 8, FE_SIGMOID = 9, FE_TANH = 10,
  FE_ELU = 11, FE_SOFTPLUS = 12, FE_MISH = 13, FE_EXP = 14, FE_LOG = 15, FE_SQRT = 16,
  FE_RECIPROCAL = 17, FE_ABS = 18, FE_POWER = 19, FE_SIN = 20, FE_COS = 21, FE_ERF = 22,
  FE_ATAN = 23, FE_GREATER = 24, FE_EQUAL = 25, FE_TRUNC = 26, FE_FLOOR = 27, FE_ROUND = 28,
  FE_STOP = 29, FE_ACTIVATIONS = 30
};
enum { FE_SAVES_NOTHING = 0, FE_SAVES_INPUT = 1, FE_SAVES_OUTPUT = 2 };

typedef struct {
  int32_t kind, threads;
  int64_t count;  // reals in all, padded lanes too
  double a, b;
} FeActivation;

// What fe_activation_backward wants as `saved`: one of FE_SAVES_*, -1 for an unknown kind.
int fe_activation_saves(const FeActivation*);
// y may be x.
int fe_activation_forward(const FeActivation*, const FE_REAL* x, FE_REAL* y);
// dx may be dy.
int fe_activation_backward(const FeActivation*, const FE_REAL* saved, const FE_REAL* dy,
                           FE_REAL* dx);

// y += x, `count` reals: the gradient of a tensor that two operations read.
int fe_accumulate(int64_t count, int32_t threads, const FE_REAL* x, FE_REAL* y);

#define FE_DIMS 6
enum { FE_ADD = 0, FE_SUBTRACT = 1, FE_MULTIPLY = 2 };

// y [blocks][shape][lanes] = a op b. An operand with a batch dimension has lanes; one
// without (a parameter) is read as single reals and is the same for every sample. Strides
// are in elements of the operand's own per-sample shape, 0 where it is broadcast; its
// samples lie `elements` elements apart. dims may be 0.
typedef struct {
  int32_t kind, lanes, blocks, threads, dims;
  int32_t accumulate;  // backward: add to the gradient of an operand without batch dimension
  int64_t shape[FE_DIMS];
  int64_t stride[2][FE_DIMS];
  int64_t elements[2];
  int32_t batched[2];
} FeBinary;

int fe_binary_forward(const FeBinary*, const FE_REAL* a, const FE_REAL* b, FE_REAL* y);
// da or db may be null. An operand's gradient is summed over what it was broadcast along.
// a and b are read by FE_MULTIPLY only.
int fe_binary_backward(const FeBinary*, const FE_REAL* a, const FE_REAL* b, const FE_REAL* dy,
                       FE_REAL* da, FE_REAL* db);

// Keeps an element with probability 1 - p and divides it by that. Which ones depends on the
// key, the sample and the element alone (Threefry-2x32, 20 rounds): not on the machine, the
// lanes or the block that is run. The backward pass draws them again.
typedef struct {
  int32_t lanes, blocks, threads;
  uint32_t first_sample;  // number of the first lane's sample in its batch
  int64_t elements;       // per sample, at most 2^32
  uint64_t key;           // another one for every layer and step
  double p;
} FeDropout;

// y = keep(x) / (1 - p), y may be x. The backward pass is the same function on dy.
int fe_dropout(const FeDropout*, const FE_REAL* x, FE_REAL* y);
// The same elements of every sample, whatever the first one's number is.
int fe_shared_dropout(const FeDropout*, const FE_REAL* x, FE_REAL* y);

// y = 1/2 + p (u - 1/2) for u drawn evenly of the 2^23 midpoints between 0 and 1, by the
// same counter: never 0 or 1, exact in float32, and 1/2 everywhere where p is 0.
int fe_uniform(const FeDropout*, FE_REAL* y);
// The same for one sample that all others repeat, whatever the first one's number is.
int fe_shared_uniform(const FeDropout*, FE_REAL* y);

#ifdef __cplusplus
}
#endif
