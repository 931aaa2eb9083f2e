/* Prints the outputs of a .flsp model for one raw float32 example:
 *   cc classify.c -I../src -L. -lflsp -o classify && ./classify model.flsp input.f32 */
#include <stdio.h>
#include <stdlib.h>

#include "flsp.h"

int main(int argc, char** argv) {
  char error[256];
  int64_t in[3], out[3];
  if (argc != 3) return fprintf(stderr, "usage: classify MODEL INPUT\n"), 2;
  flsp_model* model = flsp_open(argv[1], error, sizeof error);
  if (!model) return fprintf(stderr, "error: %s\n", error), 1;
  flsp_session* session = flsp_session_new(model, 1, error, sizeof error);
  if (!session) return fprintf(stderr, "error: %s\n", error), 1;
  flsp_input_shape(model, in);
  flsp_output_shape(model, out);
  size_t n = in[0] * in[1] * in[2], m = out[0] * out[1] * out[2];
  float *x = malloc(n * sizeof *x), *y = malloc(m * sizeof *y);
  FILE* file = fopen(argv[2], "rb");
  if (!file || fread(x, sizeof *x, n, file) != n)
    return fprintf(stderr, "error: %s does not hold %zu floats\n", argv[2], n), 1;
  flsp_run(session, x, y, 1);
  for (size_t i = 0; i < m; i++) printf("%.9g\n", y[i]);
  flsp_session_free(session);
  flsp_close(model);
  return 0;
}
