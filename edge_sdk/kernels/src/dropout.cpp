// What is drawn by counter: dropout, whose factors 0 and 1 / (1 - p) are never stored,
// and even values between 0 and 1.
#include "dropout.h"

#include "fe_elementwise.h"
#include "support.h"
#include "walk.h"

namespace fe {
namespace {

// A number that no sample of a batch has: its draws are shared.
constexpr uint32_t kEverySample = UINT32_MAX;

template <int L, bool Shared>
void drop(const FeDropout& d, const real* x, real* y) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  const Keep keep(d.key, d.p);
  const int64_t pairs = (d.elements + 1) / 2;
  const int parts = pieces(pairs, d.threads);
  parallel_for(d.blocks * parts, d.threads, [&](int task) {
    const int block = task / parts, part = task % parts;
    const uint32_t sample = Shared ? kEverySample : d.first_sample + (uint32_t)block * L;
    const int64_t start = (int64_t)block * d.elements * L;
    for (int64_t i = split64(pairs, part, parts); i < split64(pairs, part + 1, parts); i++) {
      alignas(128) real factor[2 * L];
      keep.draw<L, Shared>((uint32_t)i, sample, factor);
      const int n = 2 * i + 1 < d.elements ? 2 * L : L;
      for (int j = 0; j < n; j += VL) {
        const int64_t at = start + 2 * i * L + j;
        const V f = load<V>(factor + j);
        store(y + at, f == V{} ? V{} : load<V>(x + at) * f);  // an infinity is dropped too
      }
    }
  });
}

// Each lane's word as one of the midpoints, brought nearer to 1/2 by `spread`.
template <int L>
FE_INLINE typename Lane<L>::Value midpoints(const typename Lane<L>::Word& word, double spread) {
  typedef typename Lane<L>::Value R;
  constexpr uint32_t kSteps = 1u << 23;
  const R u = (__builtin_convertvector(word >> 9, R) + (real)0.5) / (real)kSteps;
  return (u - (real)0.5) * (real)spread + (real)0.5;
}

template <int L>
void uniform(const FeDropout& d, real* y) {
  typedef typename Lane<L>::Word W;
  typedef typename Lane<L>::Value R;
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  const RandomKey key(d.key);
  const int64_t pairs = (d.elements + 1) / 2;
  const int parts = pieces(pairs, d.threads);
  parallel_for(d.blocks * parts, d.threads, [&](int task) {
    const int block = task / parts, part = task % parts;
    real* to = y + (int64_t)block * d.elements * L;
    for (int64_t i = split64(pairs, part, parts); i < split64(pairs, part + 1, parts); i++) {
      W a = (uint32_t)i - W{}, b = {};
      FE_UNROLL for (int l = 0; l < L; l++) b[l] = d.first_sample + (uint32_t)(block * L + l);
      threefry(key, a, b);
      alignas(128) real two[2 * L];
      *(R*)two = midpoints<L>(a, d.p);
      *(R*)(two + L) = midpoints<L>(b, d.p);
      const int n = 2 * i + 1 < d.elements ? 2 * L : L;
      for (int j = 0; j < n; j += VL) store(to + 2 * i * L + j, load<V>(two + j));
    }
  });
}

// Lanes are pairs of elements here, not samples: L pairs are drawn at once.
template <int L>
void shared_uniform(const FeDropout& d, real* y) {
  typedef typename Lane<L>::Word W;
  typedef typename Lane<L>::Value R;
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  const RandomKey key(d.key);
  const int64_t pairs = (d.elements + 1) / 2, groups = (pairs + L - 1) / L;
  const int parts = pieces(groups, d.threads);
  parallel_for(parts, d.threads, [&](int part) {
    for (int64_t g = split64(groups, part, parts); g < split64(groups, part + 1, parts); g++) {
      W a = {}, b = kEverySample - W{};
      FE_UNROLL for (int l = 0; l < L; l++) a[l] = (uint32_t)(g * L + l);
      threefry(key, a, b);
      alignas(128) real two[2][L];
      *(R*)two[0] = midpoints<L>(a, d.p);
      *(R*)two[1] = midpoints<L>(b, d.p);
      for (int block = 0; block < d.blocks; block++)
        for (int k = 0; k < 2 * L && 2 * g * L + k < d.elements; k++) {
          real* to = y + (block * d.elements + 2 * g * L + k) * L;
          const V value = splat<V>(two[k % 2][k / 2]);
          for (int j = 0; j < L; j += VL) store(to + j, value);
        }
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
  FE_FOR_LANES(d->lanes, (drop<L, false>(*d, x, y)))
  return FE_OK;
}

int fe_shared_dropout(const FeDropout* d, const fe::real* x, fe::real* y) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, (drop<L, true>(*d, x, y)))
  return FE_OK;
}

int fe_uniform(const FeDropout* d, fe::real* y) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, uniform<L>(*d, y))
  return FE_OK;
}

int fe_shared_uniform(const FeDropout* d, fe::real* y) {
  using namespace fe;
  if (!sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, shared_uniform<L>(*d, y))
  return FE_OK;
}

}  // extern "C"
