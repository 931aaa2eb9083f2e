// What a depth-wise layer's forward and backward pass share: geometry, filters, norms.
#pragma once
#include <cstring>
#include <vector>

#include "channel_norm.h"
#include "correlate.h"
#include "fe_depthwise.h"
#include "pad.h"
#include "structure.h"

namespace fe {

struct DepthwiseShape {
  int out_h, out_w;
  Border border;             // of the input
  std::vector<int32_t> tap;  // [kernel_h * kernel_w] offsets into the padded input
  Correlation forward;       // padded input -> output

  bool pads() const { return border.padded_h != in_h || border.padded_w != in_w; }
  int64_t in_plane() const { return (int64_t)in_h * in_w * lanes; }
  int64_t padded_plane() const { return (int64_t)border.padded_h * border.padded_w * lanes; }
  int64_t out_plane() const { return (int64_t)out_h * out_w * lanes; }
  int in_h, in_w, lanes;
};

// Whether the filter is a window of direct neighbours, for which tiles are compiled.
inline bool neighbours(const FeDepthwise& d) {
  return d.dilation_h == 1 && d.dilation_w == 1 && d.stride_h == d.stride_w;
}

inline bool norm_sound(const FeDepthwise& d, const FeChannelNorm* n) {
  if (!n) return true;
  return n->activation >= FE_FUSED_NONE && n->activation <= FE_FUSED_RELU6 &&
         (!n->norm || (n->saved && (d.training || (n->running_mean && n->running_var))));
}

// Fills the shape; FE_OK or an error code.
inline int depthwise_shape(const FeStructure* s, const FeDepthwise& d, const FeChannelNorm* before,
                           const FeChannelNorm* after, DepthwiseShape& g) {
  if (d.lanes < 1 || d.samples < 1 || d.threads < 1 || d.channels < 1 || d.multiplier < 1 ||
      d.in_h < 1 || d.in_w < 1 || d.kernel_h < 1 || d.kernel_w < 1 || d.stride_h < 1 ||
      d.stride_w < 1 || d.dilation_h < 1 || d.dilation_w < 1 || d.pad_h < 0 || d.pad_w < 0 ||
      d.blocks != (d.samples - 1) / d.lanes + 1 || !norm_sound(d, before) || !norm_sound(d, after))
    return FE_BAD_ARGUMENT;
  if (s && (s->rows != d.channels * d.multiplier || s->cols != d.kernel_h * d.kernel_w))
    return FE_BAD_ARGUMENT;
  const int64_t h = (int64_t)d.in_h + 2 * (int64_t)d.pad_h, w = (int64_t)d.in_w + 2 * (int64_t)d.pad_w;
  const int64_t reach_h = (int64_t)(d.kernel_h - 1) * d.dilation_h + 1;
  const int64_t reach_w = (int64_t)(d.kernel_w - 1) * d.dilation_w + 1;
  if (reach_h > h || reach_w > w) return FE_BAD_ARGUMENT;
  if (h >= INT32_MAX || w >= INT32_MAX || h * w >= INT32_MAX / d.lanes) return FE_TOO_LARGE;
  g.in_h = d.in_h, g.in_w = d.in_w, g.lanes = d.lanes;
  g.out_h = (int)((h - reach_h) / d.stride_h + 1);
  g.out_w = (int)((w - reach_w) / d.stride_w + 1);
  g.border = {d.pad_h, d.pad_w, (int)h, (int)w};
  const ptrdiff_t pitch = (ptrdiff_t)w * d.lanes;
  g.tap.clear();
  for (int ky = 0; ky < d.kernel_h; ky++)
    for (int kx = 0; kx < d.kernel_w; kx++)
      g.tap.push_back((int32_t)(ky * d.dilation_h * pitch + kx * d.dilation_w * d.lanes));
  g.forward = {g.out_h, g.out_w, pitch * d.stride_h, (ptrdiff_t)d.stride_w * d.lanes,
               (ptrdiff_t)g.out_w * d.lanes, d.lanes, (int)g.tap.size(), g.tap.data(), 0, 0, 0,
               pitch};
  if (neighbours(d)) {
    g.forward.kernel_h = d.kernel_h;
    g.forward.kernel_w = d.kernel_w;
    g.forward.stride = d.stride_h;
  }
  return FE_OK;
}

// Kept weights at their places in full filters, zero elsewhere.
template <class Columns>
void place(const FeStructure& s, Columns column, const real* kept, real* full) {
  std::memset(full, 0, sizeof(real) * s.rows * s.cols);
  for (int r = 0; r < s.rows; r++)
    for (int32_t i = s.row_start[r]; i < s.row_start[r + 1]; i++)
      full[(size_t)r * s.cols + column[i]] = kept[i];
}

// All filters in full, [outputs][taps]: w itself where none has a gap, null if memory is short.
inline const real* full_filters(const FeStructure* s, const real* w) {
  if (!s || s->full) return w;
  real* full = scratch<real>(kWeights, (size_t)s->rows * s->cols);
  if (full) with_columns(*s, [&](auto column) { place(*s, column, w, full); });
  return full;
}

inline Planes channel_planes(const FeDepthwise& d, int channels, int64_t plane) {
  return {channels * plane, plane / d.lanes, d.samples, d.lanes, d.blocks};
}

// The affine map that a norm applied to its channel c in the forward pass.
inline ChannelAffine saved_affine(const FeChannelNorm& n, int channels, int c) {
  if (!n.norm) return {0, 1, 1, 0};
  return {n.saved[c], n.saved[channels + c], n.saved[2 * channels + c], n.saved[3 * channels + c]};
}

// Statistics of one channel and the affine map they give, saved for the backward pass.
template <int L>
ChannelAffine measure(const FeDepthwise& d, const FeChannelNorm& n, int channels, int c,
                      const Planes& planes, const real* x) {
  if (!n.norm) return saved_affine(n, channels, c);
  Moments m{};
  if (d.training) {
    m = channel_moments<L>(planes, x);
    if (n.running_mean && n.running_var)
      update_running(m, planes.count(), n.momentum, n.running_mean[c], n.running_var[c]);
  } else {
    m = {n.running_mean[c], n.running_var[c]};
  }
  const ChannelAffine a =
      channel_affine(m, n.eps, n.gamma ? n.gamma[c] : 1.0, n.beta ? n.beta[c] : 0.0);
  n.saved[c] = a.mean;
  n.saved[channels + c] = a.istd;
  n.saved[2 * channels + c] = a.scale;
  n.saved[3 * channels + c] = a.shift;
  return a;
}

// What `before` does to a plane of one block.
template <int L>
PlanePrologue plane_prologue(const FeChannelNorm* n, const LaneAffine<L>& a) {
  if (!n) return {};
  return {n->norm ? a.scale : nullptr, n->norm ? a.shift : nullptr, nullptr, n->activation};
}

}  // namespace fe
