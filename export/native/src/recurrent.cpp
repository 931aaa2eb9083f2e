// GRU, LSTM and RNN: the input's part of all gates is a layer before; this adds the
// state's, step by step, by the rows of the recurrent matrix.
#include <algorithm>
#include <cstring>
#include <limits>

#include "elements.h"
#include "layers.h"

namespace flsp {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A step's gates: x is the input's part of them, s the state's; both lie gate by gate.
struct Step {
  const Kernels& kernels;
  const float* x;
  float *s, *h, *c;  // c: the cell of an LSTM, else scratch
  int32_t n;

  void pair(Pair f, const float* a, const float* b, float* y, int32_t count) const {
    kernels.pairs(f, a, b, false, y, count, -kInfinity, kInfinity);
  }
  void map(Mapped f, const float* a, float* y, int32_t count) const {
    kernels.map(f, a, y, count, -kInfinity, kInfinity);
  }

  // Gates z, r, n; the reset gate comes after the recurrent matrix, as in torch.
  void gru() const {
    float *z = s, *r = s + n, *made = s + 2 * n;
    pair(kPairPlus, x, s, s, 2 * n);
    map(kMapSigmoid, s, s, 2 * n);
    pair(kPairTimes, r, made, made, n);
    pair(kPairPlus, x + 2 * n, made, made, n);
    map(kMapTanh, made, made, n);
    pair(kPairMinus, h, made, c, n);  // h = made + z (h - made)
    pair(kPairTimes, z, c, c, n);
    pair(kPairPlus, made, c, h, n);
  }

  // Gates i, o, f, c.
  void lstm() const {
    float *in = s, *out = s + n, *keep = s + 2 * n, *made = s + 3 * n;
    pair(kPairPlus, x, s, s, 4 * n);
    map(kMapSigmoid, s, s, 3 * n);
    map(kMapTanh, made, made, n);
    pair(kPairTimes, in, made, made, n);
    pair(kPairTimes, keep, c, c, n);
    pair(kPairPlus, made, c, c, n);
    map(kMapTanh, c, made, n);
    pair(kPairTimes, out, made, h, n);
  }

  void rnn(bool relu) const {
    pair(kPairPlus, x, s, s, n);
    kernels.map(relu ? kMapSame : kMapTanh, s, h, n, relu ? 0.0f : -kInfinity, kInfinity);
  }
};

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
  const WindowPlan& p = op.windows;
  const WindowRows steps_of_rows{p.values.data(), p.index.data(), p.base.data(), p.start.data()};
  const Kernels& kernels = *model.kernels;
  for (int32_t t = 0; t < steps; t++) {
    const int64_t at = o.extra >= 16 ? steps - 1 - t : t;
    if (p.start.empty()) {
      kernels.linear[w.values.scale ? 1 : 0](h, s, rows, 0, w.rows, -kInfinity, kInfinity);
    } else {
      kernels.linear_window(h, s, steps_of_rows, w.bias, 0, static_cast<int32_t>(p.start.size()) - 1,
                            w.rows, -kInfinity, kInfinity);
    }
    const Step step{kernels, space.arena + in.offset + at * in.plane(), s, h, c, n};
    if (kind == kGru) {
      step.gru();
    } else if (kind == kLstm) {
      step.lstm();
    } else {
      step.rnn(kind == kRnnRelu);
    }
    std::memcpy(space.arena + out.offset + at * out.plane(), h, n * sizeof(float));
  }
}

}  // namespace flsp
