// Borders and upsampling: every output pixel is a weighted sum of input pixels that a
// table per axis names, and every gradient goes back by the same tables.
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "fe_images.h"
#include "lanes.h"
#include "support.h"

namespace fe {
namespace {

typedef Vector<4>::T V;

bool lanes_sound(int lanes, int planes) {
  return planes > 0 && (lanes == 4 || lanes == 8 || lanes == 16);
}

// Input index of every output index; -1: outside.
std::vector<int32_t> border_map(int in, int before, int after, int mode) {
  std::vector<int32_t> map;
  for (int i = -before; i < in + after; i++) {
    int from = i;
    if (i < 0 || i >= in) {
      if (mode == FE_PAD_CONSTANT) from = -1;
      else if (mode == FE_PAD_REPLICATE) from = i < 0 ? 0 : in - 1;
      else if (mode == FE_PAD_REFLECT) from = i < 0 ? -i : 2 * (in - 1) - i;
      else from = i < 0 ? i + in : i - in;
    }
    map.push_back(from);
  }
  return map;
}

bool pad_sound(const FePad& p) {
  if (!lanes_sound(p.lanes, p.planes) || p.mode < FE_PAD_CONSTANT || p.mode > FE_PAD_CIRCULAR)
    return false;
  int64_t in = p.lanes, out = p.lanes;
  for (int a = 0; a < 3; a++) {
    const int64_t most = 1 << 24, size = (int64_t)p.in[a] + p.before[a] + p.after[a];
    if (p.in[a] < 1 || p.in[a] > most || size < 1 || size > most) return false;
    if (p.mode != FE_PAD_CONSTANT) {
      const int reach = p.mode == FE_PAD_REFLECT ? p.in[a] - 1 : p.in[a];
      const bool any = p.mode == FE_PAD_REPLICATE;
      if (p.before[a] < 0 || p.after[a] < 0 || (!any && (p.before[a] > reach || p.after[a] > reach)))
        return false;
    }
    in *= p.in[a];
    out *= size;
    if (in >= INT32_MAX || out >= INT32_MAX) return false;
  }
  return true;
}

struct PadMaps {
  std::vector<int32_t> axis[3];
  int64_t in, out;  // elements of a plane
};

PadMaps pad_maps(const FePad& p) {
  PadMaps m{{}, p.lanes, p.lanes};
  for (int a = 0; a < 3; a++) {
    m.axis[a] = border_map(p.in[a], p.before[a], p.after[a], p.mode);
    m.in *= p.in[a];
    m.out *= (int64_t)m.axis[a].size();
  }
  return m;
}

// Calls body(output row, input row or -1) for the rows of a plane.
template <class F>
void each_row(const FePad& p, const PadMaps& m, F body) {
  int64_t row = 0;
  for (const int32_t d : m.axis[0])
    for (const int32_t h : m.axis[1])
      body(row++, d < 0 || h < 0 ? -1 : (int64_t)d * p.in[1] + h);
}

// The table of an axis of upsampling: two input pixels and the second one's weight.
struct Source {
  int32_t first, second;
  real weight;
};

std::vector<Source> sources(int in, int out, bool linear, bool align, double scale) {
  std::vector<Source> table;
  // In float, as torch has it: the pixel at a boundary must be the same one.
  const float step = linear && align ? (out > 1 ? (float)(in - 1) / (float)(out - 1) : 0.f)
                     : scale > 0     ? (float)scale
                                     : (float)in / (float)out;
  for (int o = 0; o < out; o++) {
    if (!linear) {
      // The bound comes first, for it holds against a NaN, and before the cast.
      const int at = (int)std::min((float)(in - 1), std::floor((float)o * step));
      table.push_back({at, at, 0});
      continue;
    }
    float from = align ? step * (float)o : step * ((float)o + .5f) - .5f;
    if (from < 0) from = 0;
    from = std::min((float)(in - 1), from);
    const int first = (int)from;
    table.push_back({first, std::min(first + 1, in - 1), (real)std::min(std::max(from - (float)first, 0.f), 1.f)});
  }
  return table;
}

bool upsample_sound(const FeUpsample& u) {
  const int most = 1 << 24;
  return lanes_sound(u.lanes, u.planes) && u.in_h > 0 && u.in_w > 0 && u.out_h > 0 && u.out_w > 0 &&
         u.in_h < most && u.in_w < most && u.out_h < most && u.out_w < most && u.scale_h >= 0 &&
         u.scale_w >= 0 && (int64_t)u.in_h * u.in_w * u.lanes < INT32_MAX &&
         (int64_t)u.out_h * u.out_w * u.lanes < INT32_MAX;
}

struct UpsampleMaps {
  std::vector<Source> y, x;
  int64_t in, out;
};

UpsampleMaps upsample_maps(const FeUpsample& u) {
  return {sources(u.in_h, u.out_h, u.linear, u.align_corners, u.scale_h),
          sources(u.in_w, u.out_w, u.linear, u.align_corners, u.scale_w),
          (int64_t)u.in_h * u.in_w * u.lanes, (int64_t)u.out_h * u.out_w * u.lanes};
}

void add(real* to, V v) { store(to, load<V>(to) + v); }

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_pad_forward(const FePad* p, const real* x, real* y) try {
  using namespace fe;
  if (!pad_sound(*p)) return FE_BAD_ARGUMENT;
  const PadMaps m = pad_maps(*p);
  const int64_t in_row = (int64_t)p->in[2] * p->lanes;
  const int64_t out_row = (int64_t)m.axis[2].size() * p->lanes;
  const V constant = splat<V>((real)p->value);
  parallel_for(p->planes, p->threads, [&](int i) {
    each_row(*p, m, [&](int64_t row, int64_t from) {
      real* to = y + i * m.out + row * out_row;
      for (const int32_t w : m.axis[2])
        for (int l = 0; l < p->lanes; l += 4, to += 4)
          store(to, from < 0 || w < 0
                        ? constant
                        : load<V>(x + i * m.in + from * in_row + (int64_t)w * p->lanes + l));
    });
  });
  return FE_OK;
} catch (const std::bad_alloc&) {
  return FE_NO_MEMORY;
}

int fe_pad_backward(const FePad* p, const real* dy, real* dx) try {
  using namespace fe;
  if (!pad_sound(*p)) return FE_BAD_ARGUMENT;
  const PadMaps m = pad_maps(*p);
  const int64_t in_row = (int64_t)p->in[2] * p->lanes;
  const int64_t out_row = (int64_t)m.axis[2].size() * p->lanes;
  parallel_for(p->planes, p->threads, [&](int i) {
    real* plane = dx + i * m.in;
    std::memset(plane, 0, sizeof(real) * m.in);
    each_row(*p, m, [&](int64_t row, int64_t to) {
      const real* from = dy + i * m.out + row * out_row;
      for (const int32_t w : m.axis[2])
        for (int l = 0; l < p->lanes; l += 4, from += 4)
          if (to >= 0 && w >= 0)
            add(plane + to * in_row + (int64_t)w * p->lanes + l, load<V>(from));
    });
  });
  return FE_OK;
} catch (const std::bad_alloc&) {
  return FE_NO_MEMORY;
}

int fe_upsample_forward(const FeUpsample* u, const real* x, real* y) try {
  using namespace fe;
  if (!upsample_sound(*u)) return FE_BAD_ARGUMENT;
  const UpsampleMaps m = upsample_maps(*u);
  const int64_t row = (int64_t)u->in_w * u->lanes;
  parallel_for(u->planes, u->threads, [&](int i) {
    const real* plane = x + i * m.in;
    real* to = y + i * m.out;
    for (const Source& v : m.y)
      for (const Source& h : m.x)
        for (int l = 0; l < u->lanes; l += 4, to += 4) {
          const real* a = plane + v.first * row + (int64_t)h.first * u->lanes + l;
          if (!u->linear) {
            store(to, load<V>(a));
            continue;
          }
          const int64_t right = (int64_t)(h.second - h.first) * u->lanes;
          const int64_t below = (v.second - v.first) * row;
          const real w = h.weight, w0 = 1 - w;
          const V top = w0 * load<V>(a) + w * load<V>(a + right);
          const V bottom = w0 * load<V>(a + below) + w * load<V>(a + below + right);
          store(to, (1 - v.weight) * top + v.weight * bottom);
        }
  });
  return FE_OK;
} catch (const std::bad_alloc&) {
  return FE_NO_MEMORY;
}

int fe_upsample_backward(const FeUpsample* u, const real* dy, real* dx) try {
  using namespace fe;
  if (!upsample_sound(*u)) return FE_BAD_ARGUMENT;
  const UpsampleMaps m = upsample_maps(*u);
  const int64_t row = (int64_t)u->in_w * u->lanes;
  parallel_for(u->planes, u->threads, [&](int i) {
    real* plane = dx + i * m.in;
    const real* from = dy + i * m.out;
    std::memset(plane, 0, sizeof(real) * m.in);
    for (const Source& v : m.y)
      for (const Source& h : m.x)
        for (int l = 0; l < u->lanes; l += 4, from += 4) {
          real* a = plane + v.first * row + (int64_t)h.first * u->lanes + l;
          const V g = load<V>(from);
          if (!u->linear) {
            add(a, g);
            continue;
          }
          const int64_t right = (int64_t)(h.second - h.first) * u->lanes;
          const int64_t below = (v.second - v.first) * row;
          const real w = h.weight, w0 = 1 - w, u1 = v.weight, u0 = 1 - u1;
          add(a, u0 * w0 * g);
          add(a + right, u0 * w * g);
          add(a + below, u1 * w0 * g);
          add(a + below + right, u1 * w * g);
        }
  });
  return FE_OK;
} catch (const std::bad_alloc&) {
  return FE_NO_MEMORY;
}

}  // extern "C"
