/* Runs a .flsp file: a sparse network in one file, without any other library.
 *
 *   char error[256];
 *   flsp_model* model = flsp_open("model.flsp", error, sizeof error);
 *   flsp_session* session = flsp_session_new(model, 1, error, sizeof error);
 *   flsp_run(session, input, output, 1);
 *
 * A model is immutable and may be shared by threads; a session belongs to one thread at
 * a time. Functions that fail return null or a negative code and write one sentence.
 */
#ifndef FLSP_H
#define FLSP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FLSP_ABI 1

typedef struct flsp_model flsp_model;
typedef struct flsp_session flsp_session;

int flsp_abi(void);

/* Maps a file into memory and checks all of it. Weights are used where they lie: open
 * models share the pages of their file, and whoever replaces the file renames another one
 * over it: one that is written to or cut under an open model breaks the program. */
flsp_model* flsp_open(const char* path, char* error, size_t error_size);
/* The same from a copy of what lies in memory, which may be freed afterwards. */
flsp_model* flsp_open_memory(const void* data, size_t size, char* error,
                             size_t error_size);
void flsp_close(flsp_model* model);

/* Shape of one input or output example: channels, height, width. */
void flsp_input_shape(const flsp_model* model, int64_t shape[3]);
void flsp_output_shape(const flsp_model* model, int64_t shape[3]);
/* What the exporter wrote: JSON text, ended by a zero byte. */
const char* flsp_metadata(const flsp_model* model);
/* Name of the kernels in use: v4, v3 or base. FLSP_ISA in the environment limits it. */
const char* flsp_isa(const flsp_model* model);
/* Bytes of its own that the model and one session hold; a mapped file's come beside. */
int64_t flsp_model_bytes(const flsp_model* model);

/* Memory and threads for one caller at a time; threads counts the caller. */
flsp_session* flsp_session_new(const flsp_model* model, int threads, char* error,
                               size_t error_size);
void flsp_session_free(flsp_session* session);

/* Runs `batch` examples, float32, channels-height-width each, one after the other. The
 * input is not changed; where it shares memory with the output, each example is copied
 * before its output is written. */
int flsp_run(flsp_session* session, const float* input, float* output, int64_t batch);

/* One of a model's several inputs: `values` numbers for each example, all examples one
 * after the other. The metadata lists names, shapes and dtypes, under "inputs". */
typedef enum { FLSP_FLOAT32 = 0, FLSP_INT64 = 1, FLSP_INT32 = 2, FLSP_BOOL = 3 } flsp_type;
typedef struct {
  const void* data;
  flsp_type type;
  int64_t values;
} flsp_array;
/* Runs a model of several inputs, in the metadata's order. Returns -1 if they are not what
 * the model takes, -2 if a whole number is beyond 2^24, where float32 skips some. */
int flsp_run_several(flsp_session* session, const flsp_array* inputs, int count,
                     float* output, int64_t batch);

#ifdef __cplusplus
}
#endif

#endif
