// The C interface of the training program's runtime: a planned list of kernel calls that
// runs without Python between them. edge_sdk/program/runtime.py mirrors it.
//
// The plan is an array of 64-bit words (edge_sdk/program/words.py writes it). It is
// checked as if it came from a stranger: no operand leaves the arena or a parameter, and
// nothing is read that was not written before.
#pragma once
#include "fe.h"

#define FE_PROGRAM_VERSION 1
enum { FE_BAD_PLAN = 10, FE_BAD_DATA = 11, FE_BAD_BATCH = 12 };
enum { FE_FROM_REAL = 0, FE_FROM_INT64 = 1 };

#ifdef __cplusplus
extern "C" {
#endif

typedef struct FeProgram FeProgram;

// Owned by the caller and in place while the program is open.
typedef struct {
  FE_REAL* value;
  FE_REAL* gradient;              // null where it is not trained
  int64_t count;                  // of both
  const FeStructure* structure;   // of a layer's weight: count is its kept weights
} FeParameter;

// Arrays outside: inputs, targets, predictions, samples first.
typedef struct {
  void* data;
  int64_t per_sample;
  int32_t type;                   // FE_FROM_...; what is written is always real
} FeExternal;

// The number by which a plan calls an operation; -1: there is none of that name.
int32_t fe_program_operation(const char* name);

// most_bytes: of the arena; 0: no bound. stopped (may be null): the instruction that is
// wrong, -1 for what is before them.
int fe_program_open(const int64_t* words, int64_t count, const FeParameter*, int32_t parameters,
                    int64_t most_bytes, int32_t* stopped, FeProgram** out);
void fe_program_close(FeProgram*);

// Runs the list over all samples, one chunk of the planned blocks after the other.
// loss: mean over the samples, where the list has one.
int fe_program_run(FeProgram*, int32_t samples, int32_t threads, const FeExternal*,
                   int32_t externals, double* loss);
// Where dropout's masks begin; every run draws new ones, the same for the same seed.
void fe_program_seed(FeProgram*, uint64_t seed);
// The sample whose label is no class, after FE_BAD_DATA; -1 where it is not known.
int32_t fe_program_bad_sample(const FeProgram*);
// The instruction that a failed run stopped at; -1: none.
int32_t fe_program_stopped_at(const FeProgram*);

// Optimizers over flat vectors of `count` values; each is deterministic.
double fe_sum_of_squares(const FE_REAL* x, int64_t count);
void fe_scale(FE_REAL* x, int64_t count, double factor);
// momentum may be null (none); first: it begins as the gradient.
void fe_sgd(FE_REAL* w, const FE_REAL* gradient, FE_REAL* momentum, int64_t count, double rate,
            double mu, double decay, int32_t nesterov, int32_t first);
// decoupled: AdamW's decay, which leaves the gradient alone. step counts from 1.
void fe_adam(FE_REAL* w, const FE_REAL* gradient, FE_REAL* mean, FE_REAL* square, int64_t count,
             double rate, double beta1, double beta2, double eps, double decay,
             int32_t decoupled, int64_t step);

#ifdef __cplusplus
}
#endif
