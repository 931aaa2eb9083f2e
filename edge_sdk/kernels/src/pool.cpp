// Max pooling with ReLU fused: the backward pass needs one byte per output, no activation.
#include <cstring>
#include <limits>

#include "fe.h"
#include "lanes.h"
#include "support.h"

namespace fe {
namespace {

constexpr int kNobody = 255;  // relu stopped it

// Window of one output clipped to the plane.
struct Window {
  int y0, y1, x0, x1, top, left;
};
Window window(const FePool& p, int oy, int ox) {
  const int top = oy * p.stride_h - p.pad_h, left = ox * p.stride_w - p.pad_w;
  return {std::max(top, 0), std::min(top + p.kernel_h, p.in_h), std::max(left, 0),
          std::min(left + p.kernel_w, p.in_w), top, left};
}

template <class R> struct IntegerOf;
template <> struct IntegerOf<float> { typedef int32_t T; };
template <> struct IntegerOf<double> { typedef int64_t T; };

template <int L>
struct Winner {
  typedef IntegerOf<real>::T Integer;
  static constexpr int VL = Lanes<L>::VL;
  typedef Integer Index __attribute__((vector_size(VL * sizeof(Integer))));
  typedef uint8_t Bytes __attribute__((vector_size(VL), may_alias, aligned(1)));
  static FE_INLINE Index splat_index(int i) { return Index{} + (Integer)i; }
};

// The largest of a window and the tap it came from. K: a square window of K x K taps
// that lies inside the plane, unrolled; 0: any window, clipped.
template <int L, int K>
struct Best {
  typedef typename Lanes<L>::V V;
  typedef typename Winner<L>::Index Index;
  V value;
  Index at;

  FE_INLINE void meet(V t, int tap) {
    // The first of equals wins, and a NaN always does: as in torch.
    const auto better = (t > value) | (t != t);
    value = better ? t : value;
    at = better ? Winner<L>::splat_index(tap) : at;
  }
  FE_INLINE Best(const FePool& p, const Window& w, const real* in)
      : value(splat<V>(-std::numeric_limits<real>::infinity())),
        at(Winner<L>::splat_index((w.y0 - w.top) * p.kernel_w + w.x0 - w.left)) {
    if constexpr (K > 0) {
      const real* corner = in + ((int64_t)w.top * p.in_w + w.left) * L;
      FE_UNROLL for (int y = 0; y < K; y++) FE_UNROLL for (int x = 0; x < K; x++)
          meet(load<V>(corner + ((int64_t)y * p.in_w + x) * L), y * K + x);
    } else {
      for (int y = w.y0; y < w.y1; y++)
        for (int x = w.x0; x < w.x1; x++)
          meet(load<V>(in + ((int64_t)y * p.in_w + x) * L),
               (y - w.top) * p.kernel_w + x - w.left);
    }
  }
};

template <int L, int K>
void forward_plane(const FePool& p, const real* in, real* y, uint8_t* winner) {
  typedef typename Lanes<L>::V V;
  typedef Winner<L> W;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  for (int oy = 0; oy < p.out_h; oy++)
    for (int ox = 0; ox < p.out_w; ox++, y += L, winner += L) {
      const Window w = window(p, oy, ox);
      FE_UNROLL for (int v = 0; v < NV; v++) {
        Best<L, K> best(p, w, in + v * VL);
        if (p.relu) {
          const auto off = best.value <= V{};
          best.at = off ? W::splat_index(kNobody) : best.at;
          best.value = off ? V{} : best.value;
        }
        store(y + v * VL, best.value);
        *(typename W::Bytes*)(winner + v * VL) =
            __builtin_convertvector(best.at, typename W::Bytes);
      }
    }
}

// Disjoint: windows tile the plane exactly, so every input is written once, not added to.
template <int L, int K, bool Disjoint>
void backward_plane(const FePool& p, const real* dy, const uint8_t* winner, real* in) {
  typedef typename Lanes<L>::V V;
  typedef Winner<L> W;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  if (!Disjoint) std::memset(in, 0, sizeof(real) * p.in_h * p.in_w * L);
  for (int oy = 0; oy < p.out_h; oy++)
    for (int ox = 0; ox < p.out_w; ox++, dy += L, winner += L) {
      const Window w = window(p, oy, ox);
      FE_UNROLL for (int v = 0; v < NV; v++) {
        const V g = load<V>(dy + v * VL);
        const auto at = __builtin_convertvector(
            *(const typename W::Bytes*)(winner + v * VL), typename W::Index);
        const auto give = [&](int iy, int ix, int tap) FE_INLINE_LAMBDA {
          real* to = in + ((int64_t)iy * p.in_w + ix) * L + v * VL;
          const auto mine = at == W::splat_index(tap);
          const V d = mine ? g : V{};
          store(to, Disjoint ? d : load<V>(to) + d);
        };
        if constexpr (K > 0) {
          FE_UNROLL for (int iy = 0; iy < K; iy++) FE_UNROLL for (int ix = 0; ix < K; ix++)
              give(w.top + iy, w.left + ix, iy * K + ix);
        } else {
          for (int iy = w.y0; iy < w.y1; iy++)
            for (int ix = w.x0; ix < w.x1; ix++)
              give(iy, ix, (iy - w.top) * p.kernel_w + ix - w.left);
        }
      }
    }
}

// 2 and 3 where the unrolled code applies: a square window that never leaves the plane.
int unrolled(const FePool& p) {
  const bool inside = !p.pad_h && !p.pad_w && p.kernel_h == p.kernel_w;
  return inside && (p.kernel_h == 2 || p.kernel_h == 3) ? p.kernel_h : 0;
}

template <int L>
void forward(const FePool& p, const real* x, real* y, uint8_t* winner) {
  const int64_t in = (int64_t)p.in_h * p.in_w * L, out = (int64_t)p.out_h * p.out_w * L;
  parallel_for(p.planes, p.threads, [&](int i) {
    switch (unrolled(p)) {
      case 2: return forward_plane<L, 2>(p, x + i * in, y + i * out, winner + i * out);
      case 3: return forward_plane<L, 3>(p, x + i * in, y + i * out, winner + i * out);
      default: forward_plane<L, 0>(p, x + i * in, y + i * out, winner + i * out);
    }
  });
}

template <int L>
void backward(const FePool& p, const real* dy, const uint8_t* winner, real* dx) {
  const int64_t in = (int64_t)p.in_h * p.in_w * L, out = (int64_t)p.out_h * p.out_w * L;
  const int k = unrolled(p);
  const bool disjoint = k && p.stride_h == k && p.stride_w == k && p.out_h * k == p.in_h &&
                        p.out_w * k == p.in_w;
  parallel_for(p.planes, p.threads, [&](int i) {
    const real* g = dy + i * out;
    const uint8_t* at = winner + i * out;
    real* to = dx + i * in;
    if (k == 2 && disjoint) return backward_plane<L, 2, true>(p, g, at, to);
    if (k == 2) return backward_plane<L, 2, false>(p, g, at, to);
    if (k == 3 && disjoint) return backward_plane<L, 3, true>(p, g, at, to);
    if (k == 3) return backward_plane<L, 3, false>(p, g, at, to);
    backward_plane<L, 0, false>(p, g, at, to);
  });
}

bool sound(const FePool& p) {
  return p.planes > 0 && p.kernel_h > 0 && p.kernel_w > 0 && p.kernel_h * p.kernel_w < kNobody &&
         p.stride_h > 0 && p.stride_w > 0 && p.pad_h >= 0 && p.pad_w >= 0 &&
         2 * p.pad_h <= p.kernel_h && 2 * p.pad_w <= p.kernel_w && p.out_h > 0 && p.out_w > 0 &&
         (p.out_h - 1) * p.stride_h - p.pad_h + p.kernel_h <= p.in_h + p.pad_h &&
         (p.out_w - 1) * p.stride_w - p.pad_w + p.kernel_w <= p.in_w + p.pad_w;
}

}  // namespace
}  // namespace fe

extern "C" {

int fe_max_pool_forward(const FePool* p, const fe::real* x, fe::real* y, uint8_t* winner) {
  using namespace fe;
  if (!sound(*p)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(p->lanes, forward<L>(*p, x, y, winner))
  return FE_OK;
}

int fe_max_pool_backward(const FePool* p, const fe::real* dy, const uint8_t* winner, fe::real* dx) {
  using namespace fe;
  if (!sound(*p)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(p->lanes, backward<L>(*p, dy, winner, dx))
  return FE_OK;
}

}  // extern "C"
