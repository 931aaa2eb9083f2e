// Pools over any windows: average and maximum, dilated, hanging over, adaptive.
#include <cmath>
#include <cstring>
#include <limits>

#include "fe_images.h"
#include "lanes.h"
#include "support.h"

namespace fe {
namespace {

// Where one output reads along one axis: first, first + step, ... below end.
struct Run {
  int first, end, step;
  int counted;  // of an average that counts the padding
};

Run run_of(int o, int in, int out, int kernel, int stride, int pad, int dilation, bool adaptive) {
  if (adaptive) {
    const int first = (int)((int64_t)o * in / out);
    const int end = (int)(((int64_t)(o + 1) * in + out - 1) / out);
    return {first, end, 1, end - first};
  }
  const int start = o * stride - pad;
  const int skipped = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const int end = std::min(in, start + (kernel - 1) * dilation + 1);
  return {start + skipped * dilation, end, dilation, std::min(start + kernel, in + pad) - start};
}
Run rows(const FeRegionPool& p, int o) {
  return run_of(o, p.in_h, p.out_h, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h, p.adaptive);
}
Run columns(const FeRegionPool& p, int o) {
  return run_of(o, p.in_w, p.out_w, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w, p.adaptive);
}

real share(const FeRegionPool& p, const Run& y, const Run& x) {
  if (p.divisor) return (real)(1.0 / p.divisor);
  if (p.include_pad && !p.adaptive) return (real)(1.0 / ((double)y.counted * x.counted));
  return (real)(1.0 / ((double)(y.end - y.first) * (x.end - x.first)));
}

// Calls body(pixel) for every input pixel of a window, in elements of lanes.
template <class F>
FE_INLINE void each(const FeRegionPool& p, const Run& y, const Run& x, F body) {
  for (int iy = y.first; iy < y.end; iy += y.step)
    for (int ix = x.first; ix < x.end; ix += x.step) body(((int64_t)iy * p.in_w + ix) * p.lanes);
}

typedef Vector<4>::T V;  // lanes come in fours at least
template <class R> struct IntegerOf;
template <> struct IntegerOf<float> { typedef int32_t T; };
template <> struct IntegerOf<double> { typedef int64_t T; };
typedef IntegerOf<real>::T Integer;
typedef Integer Index __attribute__((vector_size(4 * sizeof(Integer))));

struct Best {
  V value = splat<V>(-std::numeric_limits<real>::infinity());
  Index at;  // pixel
  // The first of equals wins, and a NaN always does: as in torch.
  FE_INLINE void meet(V t, int64_t pixel) {
    const auto better = (t > value) | (t != t);
    value = better ? t : value;
    at = better ? Index{} + (Integer)pixel : at;
  }
};

FE_INLINE Best best_of(const FeRegionPool& p, const Run& y, const Run& x, const real* in) {
  Best best;
  best.at = Index{} + (Integer)(((int64_t)y.first * p.in_w + x.first) * p.lanes);
  each(p, y, x, [&](int64_t i) FE_INLINE_LAMBDA { best.meet(load<V>(in + i), i); });
  return best;
}

void forward_plane(const FeRegionPool& p, const real* in, real* out) {
  for (int oy = 0; oy < p.out_h; oy++)
    for (int ox = 0; ox < p.out_w; ox++, out += p.lanes) {
      const Run y = rows(p, oy), x = columns(p, ox);
      for (int l = 0; l < p.lanes; l += 4) {
        if (!p.average) {
          store(out + l, best_of(p, y, x, in + l).value);
          continue;
        }
        V total = {};
        each(p, y, x, [&](int64_t i) FE_INLINE_LAMBDA { total += load<V>(in + l + i); });
        store(out + l, total * share(p, y, x));
      }
    }
}

void backward_plane(const FeRegionPool& p, const real* in, const real* dy, real* dx) {
  std::memset(dx, 0, sizeof(real) * p.in_h * p.in_w * p.lanes);
  for (int oy = 0; oy < p.out_h; oy++)
    for (int ox = 0; ox < p.out_w; ox++, dy += p.lanes) {
      const Run y = rows(p, oy), x = columns(p, ox);
      for (int l = 0; l < p.lanes; l += 4) {
        V g = load<V>(dy + l);
        if (p.average) {
          g *= share(p, y, x);
          each(p, y, x, [&](int64_t i) FE_INLINE_LAMBDA {
            store(dx + l + i, load<V>(dx + l + i) + g);
          });
          continue;
        }
        const Index at = best_of(p, y, x, in + l).at;
        for (int k = 0; k < 4; k++) dx[at[k] + l + k] += g[k];
      }
    }
}

bool axis_sound(int in, int out, int kernel, int stride, int pad, int dilation, bool adaptive) {
  if (in < 1 || out < 1 || in > 1 << 24 || out > 1 << 24) return false;
  if (adaptive) return true;
  const int most = 1 << 20;
  if (kernel < 1 || stride < 1 || pad < 0 || dilation < 1 || kernel > most || stride > most ||
      pad > most || dilation > most || 2 * pad > kernel)
    return false;
  if ((int64_t)(kernel - 1) * dilation >= INT32_MAX / 2) return false;
  // The first and the last window meet the plane.
  const int64_t last = (int64_t)(out - 1) * stride - pad;
  return last < in && (int64_t)(kernel - 1) * dilation - pad >= 0;
}

bool sound(const FeRegionPool& p) {
  if (p.planes < 1 || (p.lanes != 4 && p.lanes != 8 && p.lanes != 16) || p.divisor < 0) return false;
  if ((int64_t)p.in_h * p.in_w * p.lanes >= INT32_MAX) return false;
  return axis_sound(p.in_h, p.out_h, p.kernel_h, p.stride_h, p.pad_h, p.dilation_h, p.adaptive) &&
         axis_sound(p.in_w, p.out_w, p.kernel_w, p.stride_w, p.pad_w, p.dilation_w, p.adaptive) &&
         // A dilated window could step over a plane that is narrower than its step.
         (p.adaptive || (rows(p, p.out_h - 1).first < p.in_h && columns(p, p.out_w - 1).first < p.in_w &&
                         rows(p, 0).first < p.in_h && columns(p, 0).first < p.in_w));
}

}  // namespace
}  // namespace fe

extern "C" {

int fe_region_pool_forward(const FeRegionPool* p, const fe::real* x, fe::real* y) {
  using namespace fe;
  if (!sound(*p)) return FE_BAD_ARGUMENT;
  const int64_t in = (int64_t)p->in_h * p->in_w * p->lanes, out = (int64_t)p->out_h * p->out_w * p->lanes;
  parallel_for(p->planes, p->threads, [&](int i) { forward_plane(*p, x + i * in, y + i * out); });
  return FE_OK;
}

int fe_region_pool_backward(const FeRegionPool* p, const fe::real* x, const fe::real* dy, fe::real* dx) {
  using namespace fe;
  if (!sound(*p)) return FE_BAD_ARGUMENT;
  const int64_t in = (int64_t)p->in_h * p->in_w * p->lanes, out = (int64_t)p->out_h * p->out_w * p->lanes;
  parallel_for(p->planes, p->threads, [&](int i) {
    backward_plane(*p, p->average ? nullptr : x + i * in, dy + i * out, dx + i * in);
  });
  return FE_OK;
}

}  // extern "C"
