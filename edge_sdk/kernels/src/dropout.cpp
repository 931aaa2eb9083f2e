// What is drawn by counter: dropout, whose factors 0 and 1 / (1 - p) are never stored,
// and even values between 0 and 1.
#include "dropout.h"

#include "fe_elementwise.h"
#include "support.h"
#include "walk.h"

namespace fe {
namespace {

template <int L>
void drop(const FeDropout& d, const real* x, real* y) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  const Keep keep(d.key, d.p);
  const int64_t pairs = (d.elements + 1) / 2;
  const int parts = pieces(pairs, d.threads);
  parallel_for(d.blocks * parts, d.threads, [&](int task) {
    const int block = task / parts, part = task % parts;
    const uint32_t sample = d.first_sample + (uint32_t)block * L;
    const int64_t start = (int64_t)block * d.elements * L;
    for (int64_t i = split64(pairs, part, parts); i < split64(pairs, part + 1, parts); i++) {
      alignas(128) real factor[2 * L];
      keep.draw<L>((uint32_t)i, sample, factor);
      const int n = 2 * i + 1 < d.elements ? 2 * L : L;
      for (int j = 0; j < n; j += VL) {
        const int64_t at = start + 2 * i * L + j;
        const V f = load<V>(factor + j);
        store(y + at, f == V{} ? V{} : load<V>(x + at) * f);  // an infinity is dropped too
      }
    }
  });
}

template <int L>
void uniform(const FeDropout& d, real* y) {
  typedef typename Lane<L>::Word W;
  typedef typename Lane<L>::Value R;
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  constexpr uint32_t kSteps = 1u << 23;
  const RandomKey key(d.key);
  const int64_t pairs = (d.elements + 1) / 2;
  const int parts = pieces(pairs, d.threads);
  const auto spread = [&](const W& word) {
    const R u = (__builtin_convertvector(word >> 9, R) + (real)0.5) / (real)kSteps;
    return (u - (real)0.5) * (real)d.p + (real)0.5;
  };
  parallel_for(d.blocks * parts, d.threads, [&](int task) {
    const int block = task / parts, part = task % parts;
    real* to = y + (int64_t)block * d.elements * L;
    for (int64_t i = split64(pairs, part, parts); i < split64(pairs, part + 1, parts); i++) {
      W a = (uint32_t)i - W{}, b = {};
      FE_UNROLL for (int l = 0; l < L; l++) b[l] = d.first_sample + (uint32_t)(block * L + l);
      threefry(key, a, b);
      alignas(128) real two[2 * L];
      *(R*)two = spread(a);
      *(R*)(two + L) = spread(b);
      const int n = 2 * i + 1 < d.elements ? 2 * L : L;
      for (int j = 0; j < n; j += VL) store(to + 2 * i * L + j, load<V>(two + j));
    }
  });
}

bool sound(const FeDropout& d) {
  return d.p >= 0 && d.p <= 1 && d.blocks >= 1 && d.elements >= 1 && d.elements <= (int64_t)1 << 32;
}

}  // namespace
}  // namespace fe

extern "C" {

int fe_dropout(const FeDropout* d, const fe::real* x, fe::real* y) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, drop<L>(*d, x, y))
  return FE_OK;
}

int fe_uniform(const FeDropout* d, fe::real* y) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, uniform<L>(*d, y))
  return FE_OK;
}

}  // extern "C"
