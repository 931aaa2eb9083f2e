// Geometry and offset tables shared by the conv kernels.
#pragma once
#include <vector>

#include "fe.h"
#include "lanes.h"
#include "pad.h"
#include "structure.h"
#include "support.h"

namespace fe {

struct Geometry {
  int channels, rows, out_h, out_w, padded_h, padded_w;
  bool pads;
};

inline bool geometry(const FeStructure& s, const FeConv& c, Geometry& g) {
  if (c.lanes < 1 || c.blocks < 1 || c.samples < 1 || c.in_h < 1 || c.in_w < 1 || c.stride_h < 1 ||
      c.stride_w < 1 || c.pad_h < 0 || c.pad_w < 0 || c.dilation_h < 1 || c.dilation_w < 1)
    return false;
  g.channels = s.in_per_group * s.groups;
  g.rows = s.rows;
  g.padded_h = c.in_h + 2 * c.pad_h;
  g.padded_w = c.in_w + 2 * c.pad_w;
  const int reach_h = (s.kernel_h - 1) * c.dilation_h + 1;
  const int reach_w = (s.kernel_w - 1) * c.dilation_w + 1;
  if (reach_h > g.padded_h || reach_w > g.padded_w) return false;
  g.out_h = (g.padded_h - reach_h) / c.stride_h + 1;
  g.out_w = (g.padded_w - reach_w) / c.stride_w + 1;
  g.pads = c.pad_h || c.pad_w;
  return true;
}

// A 1 x 1 convolution that takes every pixel knows no rows: tiles are any pixels.
inline FeConv flat(const FeStructure& s, FeConv c) {
  const bool every = s.taps() == 1 && c.stride_h == 1 && c.stride_w == 1 && !c.pad_h && !c.pad_w;
  if (!every || c.in_h < 1 || c.in_w < 1 || c.in_h > INT32_MAX / c.in_w) return c;
  c.in_w *= c.in_h;
  c.in_h = 1;
  return c;
}

// Offsets are int32: one block of one tensor must stay below 2^31 elements.
inline bool fits(int64_t channels, int64_t h, int64_t w, int64_t lanes) {
  return channels * h * w * lanes < INT32_MAX;
}

// offset[i]: where kept weight i reads the padded input, relative to the output's pixel.
// Also fills start[block][row]: input channels are taken in `blocks` runs so that the
// part of the input one tile reads stays in the first-level cache.
bool forward_offsets(const FeStructure&, const FeConv&, const Geometry&, int blocks,
                     int32_t* offset, int32_t* start);

// The input of a conv with borders and prologue applied; x itself if there is nothing to
// do, null if memory is short.
const real* padded_input(const FeConv&, const Geometry&, const real* x, const FePrologue*);

// How many runs to take channels in so that what a tile reads of each, `region_pixels`,
// stays in the first-level cache; `kept` weights over `rows` tiles' rows.
int channel_blocks(int channels, int64_t region_pixels, int lanes, int64_t kept, int rows);

}  // namespace fe
