// The depth-wise chain, forward: each channel passes through all of it at once.
#include <new>

#include "depthwise.h"

namespace fe {
namespace {

// y = activation(y * scale + shift), in place.
template <int L>
void apply_after(const FeChannelNorm& n, const ChannelAffine& a, real* y,
                 int64_t pixels) {
  const LaneAffine<L> lanes(a);
  const PlanePrologue pro = plane_prologue<L>(&n, lanes);
  with_activation(n.activation, [&](auto activation) {
    prologue_row<L, activation>(y, nullptr, pro.scale, pro.shift, y, pixels);
  });
}

template <int L>
int forward(const FeDepthwise& d, const DepthwiseShape& g, const FeChannelNorm* before,
            const FeChannelNorm* after, const real* x, const real* w, const real* bias, real* y) {
  const int parts = std::min(d.threads, d.channels), outputs = d.channels * d.multiplier;
  const bool copies = g.pads() || before;
  real* work = copies ? scratch<real>(kPadded, parts * g.padded_plane()) : nullptr;
  if (copies && !work) return FE_NO_MEMORY;
  const int64_t taps = g.forward.taps;
  parallel_for(parts, d.threads, [&](int part) {
    real* padded = copies ? work + part * g.padded_plane() : nullptr;
    const int c1 = split(d.channels, part + 1, parts);
    for (int c = split(d.channels, part, parts); c < c1; c++) {
      const Planes in = channel_planes(d, d.channels, g.in_plane());
      const Planes out = channel_planes(d, outputs, g.out_plane());
      const real* xc = x + c * g.in_plane();
      ChannelAffine a{0, 1, 1, 0};
      if (before) a = measure<L>(d, *before, d.channels, c, in, xc);
      for (int b = 0; b < d.blocks; b++) {
        const LaneAffine<L> lanes(a);
        const real* from = xc + b * in.step;
        if (copies) {
          pad_plane<L>(from, padded, d.in_h, d.in_w, g.border, plane_prologue<L>(before, lanes));
          from = padded;
        }
        for (int o = c * d.multiplier; o < (c + 1) * d.multiplier; o++)
          correlate<L>(g.forward, from, w + o * taps, bias ? bias[o] : 0, false,
                       y + b * out.step + o * g.out_plane());
      }
      if (!after) continue;
      for (int o = c * d.multiplier; o < (c + 1) * d.multiplier; o++) {
        real* yo = y + o * g.out_plane();
        const ChannelAffine own = measure<L>(d, *after, outputs, o, out, yo);
        for (int b = 0; b < d.blocks; b++)
          apply_after<L>(*after, own, yo + b * out.step, out.pixels);
      }
    }
  });
  return FE_OK;
}

}  // namespace
}  // namespace fe

extern "C" int fe_depthwise_forward(const FeStructure* s, const FeDepthwise* d,
                                    const FeChannelNorm* before, const FeChannelNorm* after,
                                    const fe::real* x, const fe::real* w, const fe::real* bias,
                                    fe::real* y) try {
  using namespace fe;
  DepthwiseShape g;
  const int code = depthwise_shape(s, *d, before, after, g);
  if (code) return code;
  const real* full = full_filters(s, w);
  if (!full) return FE_NO_MEMORY;
  FE_FOR_LANES(d->lanes, return forward<L>(*d, g, before, after, x, full, bias, y))
  return FE_OK;
} catch (const std::bad_alloc&) {
  return FE_NO_MEMORY;
}
