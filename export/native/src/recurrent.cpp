// GRU, LSTM and RNN: the input's part of all gates is a layer before; this adds the
// state's, step by step, by the rows of the recurrent matrix.
#include <algorithm>
#include <cstring>
#include <limits>

#include "elements.h"
#include "fast_exp.h"
#include "layers.h"

namespace flsp {
namespace {

float tanh_of(float v) { return 2.0f * sigmoid(2.0f * v) - 1.0f; }

// Gates z, r, n; the reset gate comes after the recurrent matrix, as in torch.
void gru(const float* x, const float* s, float* h, int32_t n) {
  for (int32_t i = 0; i < n; i++) {
    const float z = sigmoid(x[i] + s[i]), r = sigmoid(x[n + i] + s[n + i]);
    const float made = tanh_of(x[2 * n + i] + r * s[2 * n + i]);
    h[i] = made + z * (h[i] - made);
  }
}

// Gates i, o, f, c.
void lstm(const float* x, const float* s, float* h, float* c, int32_t n) {
  for (int32_t i = 0; i < n; i++) {
    const float in = sigmoid(x[i] + s[i]), out = sigmoid(x[n + i] + s[n + i]);
    const float keep = sigmoid(x[2 * n + i] + s[2 * n + i]);
    c[i] = keep * c[i] + in * tanh_of(x[3 * n + i] + s[3 * n + i]);
    h[i] = out * tanh_of(c[i]);
  }
}

}  // namespace

int64_t recurrent_floats(const Buffer& in, const Buffer& out) {
  return int64_t{in.width} + 2 * (out.width + 16) + 64;
}

void run_recurrent(const Model& model, const Op& op, const Workspace& space) {
  const OpRecord& o = op.record;
  const Buffer &in = model.buffers[o.in], &out = model.buffers[o.out];
  const Weight& w = op.weight;
  const int32_t n = out.width, steps = in.channels, kind = o.extra % 16;
  float* h = space.pack;
  float* c = h + (n + 15) / 16 * 16;
  float* s = c + (n + 15) / 16 * 16;
  std::fill_n(h, n, 0.0f);
  std::fill_n(c, n, 0.0f);
  const Rows rows{w.values, w.gaps, w.start.data(), w.columns, w.bias};
  const float infinity = std::numeric_limits<float>::infinity();
  for (int32_t t = 0; t < steps; t++) {
    const int64_t at = o.extra >= 16 ? steps - 1 - t : t;
    model.kernels->linear[w.values.scale ? 1 : 0](h, s, rows, 0, w.rows, -infinity, infinity);
    const float* x = space.arena + in.offset + at * in.plane();
    if (kind == kGru) {
      gru(x, s, h, n);
    } else if (kind == kLstm) {
      lstm(x, s, h, c, n);
    } else {
      for (int32_t i = 0; i < n; i++)
        h[i] = kind == kRnnTanh ? tanh_of(x[i] + s[i]) : std::max(x[i] + s[i], 0.0f);
    }
    std::memcpy(space.arena + out.offset + at * out.plane(), h, n * sizeof(float));
  }
}

}  // namespace flsp
