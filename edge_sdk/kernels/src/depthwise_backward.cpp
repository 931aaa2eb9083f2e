// Gradients of the depth-wise chain, a channel at a time; what lies between the chain's
// input and its output is computed again.
#include <new>

#include "depthwise.h"
#include "taps.h"

namespace fe {
namespace {

// The pixels of the input that meet the same taps: those of one phase of the stride.
struct InputClass {
  Correlation back;          // padded output gradient -> input gradient
  int64_t from, to;          // where the first pixel reads and writes, elements
  std::vector<int32_t> tap;  // offsets
  std::vector<int> filter;   // which weight each tap takes
};

struct Transposed {
  Border border;  // of the output gradient
  std::vector<InputClass> classes;
  int64_t plane;  // elements of a padded output gradient
};

Transposed transpose(const FeDepthwise& d, const DepthwiseShape& g) {
  Transposed t;
  Border& b = t.border;
  axis_border(d.kernel_h, d.dilation_h, d.pad_h, d.stride_h, d.in_h, g.out_h, b.top, b.padded_h);
  axis_border(d.kernel_w, d.dilation_w, d.pad_w, d.stride_w, d.in_w, g.out_w, b.left, b.padded_w);
  const int L = d.lanes;
  const ptrdiff_t pitch = (ptrdiff_t)b.padded_w * L;
  t.plane = b.padded_h * pitch;
  for (int top = 0; top < std::min(d.stride_h, d.in_h); top++)
    for (int left = 0; left < std::min(d.stride_w, d.in_w); left++) {
      InputClass c{};
      // Last tap first: for neighbours at stride 1 the offsets then ascend like a window's.
      for (int k = d.kernel_h * d.kernel_w - 1; k >= 0; k--) {
        const Tap y = tap(k / d.kernel_w, d.dilation_h, d.pad_h, d.stride_h);
        const Tap x = tap(k % d.kernel_w, d.dilation_w, d.pad_w, d.stride_w);
        if (y.phase != top || x.phase != left) continue;
        c.tap.push_back((int32_t)((y.distance + b.top) * pitch + (x.distance + b.left) * L));
        c.filter.push_back(k);
      }
      c.from = 0;
      c.to = ((int64_t)top * d.in_w + left) * L;
      c.back = {(d.in_h - top + d.stride_h - 1) / d.stride_h,
                (d.in_w - left + d.stride_w - 1) / d.stride_w,
                pitch, L, (ptrdiff_t)d.in_w * d.stride_h * L, (ptrdiff_t)d.stride_w * L,
                (int)c.tap.size(), nullptr, 0, 0, 0, pitch};
      if (neighbours(d) && d.stride_h == 1) {
        c.back.kernel_h = d.kernel_h;
        c.back.kernel_w = d.kernel_w;
        c.back.stride = 1;
        c.from = c.tap[0];
        for (int32_t& offset : c.tap) offset -= (int32_t)c.from;
      }
      t.classes.push_back(std::move(c));
    }
  for (InputClass& c : t.classes) c.back.offset = c.tap.data();
  return t;
}

// Everything one thread needs: padded inputs, the convolution's outputs, one gradient, sums.
struct Work {
  real *padded, *y, *dy, *da, *filter;
  double* sums;
};

struct Arguments {
  const FeDepthwise& d;
  const DepthwiseShape& g;
  const Transposed& t;
  const FeChannelNorm *before, *after;
  const real *x, *w, *bias, *dy;
  real *dx, *dw, *db;
  bool copies;

  // An input gradient is needed for the norm's own parameters too.
  bool wants_input() const { return dx || (before && before->norm); }
};

// Sums of one channel's gradient, those of the norm's parameters, and the map to its input.
template <int L, class Gate>
InputGradient norm_sums(const FeDepthwise& d, const FeChannelNorm& n, const ChannelAffine& a, int c,
                        const Planes& planes, const real* x, Gate gate, const real* dy,
                        int64_t dy_step) {
  double sums[2] = {0, 0};
  for (int b = 0; b < d.blocks; b++)
    gradient_sums<L>(x + b * planes.step, gate, dy + b * dy_step, a.mean, planes.pixels, sums);
  if (n.dgamma) n.dgamma[c] = (real)(sums[1] * a.istd);
  if (n.dbeta) n.dbeta[c] = (real)sums[0];
  return {sums, planes.count(), n.gamma ? n.gamma[c] : 1.0, a.mean, a.istd, d.training != 0};
}

// One plane through an activation alone.
template <int L, class Gate>
void gate_plane(const real* x, Gate gate, const real* dy, int64_t pixels, real* dx) {
  typedef typename Lanes<L>::V V;
  for (int64_t i = 0; i < pixels * L; i += Lanes<L>::VL)
    store(dx + i, gate(i, load<V>(x + i), load<V>(dy + i)));
}

// Through `n` from dy to the gradient of its input, block by block: dx_of(b) says where to
// write it, which may be dy itself, and done(b) follows.
template <int L, class Where, class Done>
void norm_backward(const FeDepthwise& d, const FeChannelNorm& n, const ChannelAffine& a, int c,
                   const Planes& planes, const real* x, const real* dy, int64_t dy_step,
                   Where dx_of, Done done) {
  typedef typename Lanes<L>::V V;
  with_activation(n.activation, [&](auto activation) {
    const FromInput<L, activation> gate{splat<V>(a.scale), splat<V>(a.shift)};
    if (!n.norm) {
      for (int b = 0; b < d.blocks; b++, x += planes.step, dy += dy_step) {
        gate_plane<L>(x, gate, dy, planes.pixels, dx_of(b));
        done(b);
      }
      return;
    }
    const InputGradient own = norm_sums<L>(d, n, a, c, planes, x, gate, dy, dy_step);
    for (int b = 0; b < d.blocks; b++, x += planes.step, dy += dy_step) {
      input_gradient<L>(own, x, gate, dy, planes.pixels, planes.valid(b), dx_of(b), nullptr);
      done(b);
    }
  });
}

// One output channel: `dy` through `after`, then into its filter and its input.
template <int L>
void backward_output(const Arguments& q, const Work& k, const real* inputs, int64_t input_step, int o,
                     bool first, real* da, int64_t da_step) {
  const FeDepthwise& d = q.d;
  const DepthwiseShape& g = q.g;
  const int outputs = d.channels * d.multiplier, taps = g.forward.taps;
  const real* w = q.w + (int64_t)o * taps;
  const Planes out = channel_planes(d, outputs, g.out_plane());
  const Planes own{g.out_plane(), out.pixels, d.samples, d.lanes, d.blocks};
  const real* dyo = q.dy + o * g.out_plane();
  const Border& border = q.t.border;
  const bool whole = border.padded_h == g.out_h && border.padded_w == g.out_w;
  real* dw = q.dw + (int64_t)o * taps;
  if (!d.accumulate) std::fill(dw, dw + taps, real(0));
  if (q.db && !d.accumulate) q.db[o] = 0;
  // The gradient of one block at the convolution's output goes to the filter and the input.
  // Blocks are rounded one by one: the same bits whether they come together or alone.
  const auto spread = [&](int b, const real* gradient) {
    std::fill(k.sums, k.sums + taps + 2, 0.0);
    filter_gradient<L>(g.forward, inputs + b * input_step, gradient, k.sums);
    for (int i = 0; i < taps; i++) dw[i] += (real)k.sums[i];
    if (q.db) {
      plane_moments<L>(gradient, 0, out.pixels, d.lanes, k.sums + taps);
      q.db[o] += (real)k.sums[taps];
    }
    if (!q.wants_input()) return;
    if (!whole) {
      pad_plane<L>(gradient, k.dy + g.out_plane(), g.out_h, g.out_w, border, {});
      gradient = k.dy + g.out_plane();
    }
    for (const InputClass& c : q.t.classes) {
      for (size_t i = 0; i < c.filter.size(); i++) k.filter[i] = w[c.filter[i]];
      correlate<L>(c.back, gradient + c.from, k.filter, 0, !first, da + b * da_step + c.to);
    }
  };
  if (!q.after) {
    for (int b = 0; b < d.blocks; b++) spread(b, dyo + b * out.step);
    return;
  }
  for (int b = 0; b < d.blocks; b++)
    correlate<L>(g.forward, inputs + b * input_step, w, q.bias ? q.bias[o] : 0, false,
                 k.y + b * own.step);
  norm_backward<L>(d, *q.after, saved_affine(*q.after, outputs, o), o, own, k.y, dyo, out.step,
                   [&](int) { return k.dy; }, [&](int b) { spread(b, k.dy); });
}

template <int L>
void backward_channel(const Arguments& q, const Work& k, int c) {
  const FeDepthwise& d = q.d;
  const DepthwiseShape& g = q.g;
  const Planes in = channel_planes(d, d.channels, g.in_plane());
  const real* xc = q.x + c * g.in_plane();
  const ChannelAffine a =
      q.before ? saved_affine(*q.before, d.channels, c) : ChannelAffine{0, 1, 1, 0};
  const real* inputs = xc;
  int64_t input_step = in.step;
  if (q.copies) {
    for (int b = 0; b < d.blocks; b++) {
      const LaneAffine<L> lanes(a);
      pad_plane<L>(xc + b * in.step, k.padded + b * g.padded_plane(), d.in_h, d.in_w, g.border,
                   plane_prologue<L>(q.before, lanes));
    }
    inputs = k.padded;
    input_step = g.padded_plane();
  }
  real* da = q.dx ? q.dx + c * g.in_plane() : k.da;
  const int64_t da_step = q.dx ? in.step : g.in_plane();
  for (int j = 0; j < d.multiplier; j++)
    backward_output<L>(q, k, inputs, input_step, c * d.multiplier + j, j == 0, da, da_step);
  if (!q.before || !q.wants_input()) return;
  norm_backward<L>(d, *q.before, a, c, in, xc, da, da_step,
                   [&](int b) { return da + b * da_step; }, [](int) {});
}

template <int L>
int backward(Arguments& q) {
  const FeDepthwise& d = q.d;
  const DepthwiseShape& g = q.g;
  const int parts = std::min(d.threads, d.channels), taps = g.forward.taps;
  const bool own_input = !q.dx && q.wants_input();
  const auto rounded = [](int64_t n) { return (n + 15) / 16 * 16; };
  const int64_t padded = q.copies ? d.blocks * g.padded_plane() : 0;
  const int64_t y = q.after ? d.blocks * g.out_plane() : 0;
  const int64_t dy = g.out_plane() + q.t.plane;
  const int64_t da = own_input ? d.blocks * g.in_plane() : 0;
  const int64_t each = padded + y + dy + da + rounded(taps);
  real* work = scratch<real>(kPadded, (size_t)parts * each);
  double* sums = scratch<double>(kSums, (size_t)parts * rounded(taps + 2));
  if (!work || !sums) return FE_NO_MEMORY;
  parallel_for(parts, d.threads, [&](int part) {
    real* p = work + part * each;
    const Work k{p, p + padded, p + padded + y, p + padded + y + dy, p + padded + y + dy + da,
                 sums + part * rounded(taps + 2)};
    const int c1 = split(d.channels, part + 1, parts);
    for (int c = split(d.channels, part, parts); c < c1; c++) backward_channel<L>(q, k, c);
  });
  return FE_OK;
}

// The kept weights' gradients in canonical order.
template <class Columns>
void keep(const FeStructure& s, Columns column, const real* full, real* dw) {
  for (int r = 0; r < s.rows; r++)
    for (int32_t i = s.row_start[r]; i < s.row_start[r + 1]; i++)
      dw[i] = full[(size_t)r * s.cols + column[i]];
}

}  // namespace
}  // namespace fe

extern "C" int fe_depthwise_backward(const FeStructure* s, const FeDepthwise* d,
                                     const FeChannelNorm* before, const FeChannelNorm* after,
                                     const fe::real* x, const fe::real* w, const fe::real* bias,
                                     const fe::real* dy, fe::real* dx, fe::real* dw,
                                     fe::real* db) try {
  using namespace fe;
  DepthwiseShape g;
  int code = depthwise_shape(s, *d, before, after, g);
  if (code) return code;
  const Transposed t = transpose(*d, g);
  if (t.plane >= INT32_MAX) return FE_TOO_LARGE;
  const bool gaps = s && !s->full;
  const real* full = full_filters(s, w);
  const size_t filters = (size_t)d->channels * d->multiplier * g.tap.size();
  real* gradients = gaps ? scratch<real>(kGradients, filters) : dw;
  if (!full || !gradients) return FE_NO_MEMORY;
  Arguments q{*d, g, t, before, after, x, full, bias, dy, dx, gradients, db, g.pads() || before};
  if (gaps && d->accumulate) with_columns(*s, [&](auto column) { place(*s, column, dw, gradients); });
  FE_FOR_LANES(d->lanes, code = backward<L>(q))
  if (!code && gaps) with_columns(*s, [&](auto column) { keep(*s, column, gradients, dw); });
  return code;
} catch (const std::bad_alloc&) {
  return FE_NO_MEMORY;
}
