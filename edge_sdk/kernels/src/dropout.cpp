// Dropout: the factors 0 and 1 / (1 - p) are drawn by counter and never stored.
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

}  // namespace
}  // namespace fe

extern "C" {

int fe_dropout(const FeDropout* d, const fe::real* x, fe::real* y) {
  using namespace fe;
  if (!(d->p >= 0 && d->p <= 1) || d->blocks < 1) return FE_BAD_ARGUMENT;
  if (d->elements < 1 || d->elements > (int64_t)1 << 32) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, drop<L>(*d, x, y))
  return FE_OK;
}

}  // extern "C"
