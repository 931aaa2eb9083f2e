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
  // Several outputs of a channel before a norm: each is finished while it is in the second-level
  // cache, so the channel's padded planes stay for all of them.
  const bool by_output = after && d.multiplier > 1;
  const int64_t kept = (by_output ? d.blocks : 1) * g.padded_plane();
  real* work = copies ? scratch<real>(kPadded, (size_t)parts * kept) : nullptr;
  if (copies && !work) return FE_NO_MEMORY;
  const int64_t taps = g.forward.taps;
  parallel_for(parts, d.threads, [&](int part) {
    real* padded = copies ? work + part * kept : nullptr;
    const Planes in = channel_planes(d, d.channels, g.in_plane());
    const Planes out = channel_planes(d, outputs, g.out_plane());
    const int c1 = split(d.channels, part + 1, parts);
    for (int c = split(d.channels, part, parts); c < c1; c++) {
      const real* xc = x + c * g.in_plane();
      ChannelAffine a{0, 1, 1, 0};
      if (before) a = measure<L>(d, *before, d.channels, c, in, xc);
      // Where block b is read; padded first.
      const auto input = [&](int b) -> const real* {
        const real* from = xc + b * in.step;
        if (!copies) return from;
        real* to = padded + (by_output ? b * g.padded_plane() : 0);
        const LaneAffine<L> lanes(a);
        pad_plane<L>(from, to, d.in_h, d.in_w, g.border, plane_prologue<L>(before, lanes));
        return to;
      };
      const auto convolve = [&](int o, int b, const real* from) {
        correlate<L>(g.forward, from, w + o * taps, bias ? bias[o] : 0, false,
                     y + b * out.step + o * g.out_plane());
      };
      const auto finish = [&](int o) {
        real* yo = y + o * g.out_plane();
        const ChannelAffine own = measure<L>(d, *after, outputs, o, out, yo);
        for (int b = 0; b < d.blocks; b++)
          apply_after<L>(*after, own, yo + b * out.step, out.pixels);
      };
      const int o0 = c * d.multiplier, o1 = o0 + d.multiplier;
      if (by_output) {
        for (int b = 0; b < d.blocks; b++) input(b);
        for (int o = o0; o < o1; o++) {
          for (int b = 0; b < d.blocks; b++)
            convolve(o, b, copies ? padded + b * g.padded_plane() : xc + b * in.step);
          finish(o);
        }
        continue;
      }
      for (int b = 0; b < d.blocks; b++) {
        const real* from = input(b);
        for (int o = o0; o < o1; o++) convolve(o, b, from);
      }
      for (int o = o0; after && o < o1; o++) finish(o);
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
