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
  float* c = h + (n + 15) / 16 * 16;  // the cell of an LSTM
  float* s = c + (n + 15) / 16 * 16;
  std::fill_n(h, n, 0.0f);
  std::fill_n(c, n, 0.0f);
  if (o.in2 >= 0) {
    const Buffer& first = model.buffers[o.in2];
    std::memcpy(h, space.arena + first.offset, n * sizeof(float));
    if (kind == kLstm)
      std::memcpy(c, space.arena + first.offset + first.plane(), n * sizeof(float));
  }
  const Rows rows{w.values, w.gaps, w.start.data(), w.columns, w.bias};
  const WindowPlan& p = op.windows;
  const WindowRows steps_of_rows = p.rows();
  const Kernels& kernels = *model.kernels;
  for (int32_t t = 0; t < steps; t++) {
    const int64_t at = o.extra & 16 ? steps - 1 - t : t;
    if (p.start.empty()) {
      kernels.linear[w.values.scale ? 1 : 0](h, s, rows, 0, w.rows, -kInfinity, kInfinity);
    } else {
      kernels.linear_window(h, s, steps_of_rows, w.bias, 0, static_cast<int32_t>(p.start.size()) - 1,
                            w.rows, -kInfinity, kInfinity);
    }
    const float* const x = space.arena + in.offset + at * in.plane();
    if (kind == kGru) {
      kernels.gru(x, s, h, n);
    } else if (kind == kLstm) {
      kernels.lstm(x, s, h, c, n);
    } else {
      const bool relu = kind == kRnnRelu;
      kernels.pairs(kPairPlus, x, s, false, s, n, -kInfinity, kInfinity);
      kernels.map(relu ? kMapSame : kMapTanh, s, h, n, relu ? 0.0f : -kInfinity, kInfinity);
    }
    std::memcpy(space.arena + out.offset + at * out.plane(), h, n * sizeof(float));
  }
  if (o.extra & 32)
    std::memcpy(space.arena + out.offset + steps * out.plane(), c, n * sizeof(float));
}

}  // namespace flsp
