// The transposed convolution by the convolution's own kernels: its forward pass is a
// gradient to an input, its input's gradient a forward pass, and its weights' gradient
// that of a convolution with input and output gradient in each other's place.
#include "conv.h"
#include "fe_images.h"
#include "program.h"

namespace fe {
namespace {

// y[plane] += bias[channel]
void add_bias(const real* bias, real* y, int blocks, int channels, int64_t values, int threads) {
  typedef Vector<4>::T V;
  parallel_for(blocks * channels, threads, [&](int p) {
    const V b = splat<V>(bias[p % channels]);
    real* plane = y + p * values;
    for (int64_t i = 0; i < values; i += 4) store(plane + i, load<V>(plane + i) + b);
  });
}

// db[channel] = sum of dy, block by block: the same bits in any chunks of blocks.
void bias_gradient(const real* dy, real* db, int blocks, int channels, int64_t values, int threads,
                   bool accumulate) {
  typedef Vector<4>::T V;
  parallel_for(channels, threads, [&](int c) {
    real total = accumulate ? db[c] : 0;
    for (int b = 0; b < blocks; b++) {
      const real* plane = dy + ((int64_t)b * channels + c) * values;
      double own = 0;
      for (int64_t i0 = 0; i0 < values; i0 += 1024) {
        V s = {};
        for (int64_t i = i0; i < std::min(values, i0 + 1024); i += 4) s += load<V>(plane + i);
        own += sum(s);
      }
      total += (real)own;
    }
    db[c] = total;
  });
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_conv_transpose_forward(const FeStructure* s, const FeConv* c, const real* x, const real* w,
                              const real* bias, real* y) {
  using namespace fe;
  Geometry g;
  if (!geometry(*s, *c, g)) return FE_BAD_ARGUMENT;
  // The kernel forms the weights' gradient too: work space takes it, and the values that it
  // reads for it, the output's own before they are written, do not matter.
  real* unused = scratch<real>(kPart, s->nnz + 4);
  if (!unused) return FE_NO_MEMORY;
  const int code = conv_backward(*s, *c, y, nullptr, w, x, y, unused, nullptr, false);
  if (code || !bias) return code;
  const int64_t values = (int64_t)c->in_h * c->in_w * c->lanes;
  add_bias(bias, y, c->blocks, g.channels, values, c->threads);
  return FE_OK;
}

int fe_conv_transpose_backward(const FeStructure* s, const FeConv* c, const real* x, const real* w,
                               const real* dy, real* dx, real* dw, real* db, int32_t accumulate) {
  using namespace fe;
  Geometry g;
  if (!geometry(*s, *c, g)) return FE_BAD_ARGUMENT;
  const int64_t values = (int64_t)c->in_h * c->in_w * c->lanes;
  if (db) bias_gradient(dy, db, c->blocks, g.channels, values, c->threads, accumulate);
  const int code = conv_backward(*s, *c, dy, nullptr, nullptr, x, nullptr, dw, nullptr, accumulate);
  if (code || !dx) return code;
  return fe_conv_forward(s, c, dy, nullptr, w, nullptr, dx);
}

}  // extern "C"
