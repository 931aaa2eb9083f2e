// Windows of rows that may overlap, and what windows add up to.
#include <algorithm>
#include <cstring>

#include "fe_sequence.h"
#include "lanes.h"
#include "support.h"
#include "walk.h"

namespace fe {
namespace {

int64_t windows_of(const FeWindows& d) { return (d.length - d.size) / d.hop + 1; }

template <int L>
void cut(const FeWindows& d, const real* x, real* y) {
  const int64_t count = windows_of(d), rows = d.outer * d.blocks * count;
  const int parts = pieces(rows * d.size, d.threads);
  parallel_for(parts, d.threads, [&](int part) {
    for (int64_t r = split64(rows, part, parts); r < split64(rows, part + 1, parts); r++) {
      const real* from = x + (r / count * d.length + r % count * d.hop) * L;
      std::memcpy(y + r * d.size * L, from, sizeof(real) * (size_t)d.size * L);
    }
  });
}

// Each place sums its windows in their order: the same bits for any number of threads.
template <int L>
void add_up(const FeWindows& d, const real* y, real* x) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL;
  const int64_t count = windows_of(d), places = d.outer * d.blocks * d.length;
  const int parts = pieces(places, d.threads);
  parallel_for(parts, d.threads, [&](int part) {
    for (int64_t p = split64(places, part, parts); p < split64(places, part + 1, parts); p++) {
      const int64_t row = p / d.length, at = p % d.length;
      const int64_t first = at < d.size ? 0 : (at - d.size) / d.hop + 1;
      const int64_t last = std::min(count - 1, at / d.hop);
      const real* from = y + row * count * d.size * L;
      for (int j = 0; j < L; j += VL) {
        V sum{};
        for (int64_t w = first; w <= last; w++)
          sum += load<V>(from + (w * d.size + at - w * d.hop) * L + j);
        store(x + p * L + j, sum);
      }
    }
  });
}

bool sound(const FeWindows& d) {
  return d.blocks >= 1 && d.outer >= 1 && d.size >= 1 && d.hop >= 1 && d.length >= d.size;
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_windows(const FeWindows* d, const real* x, real* y) {
  if (!fe::sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, fe::cut<L>(*d, x, y))
  return FE_OK;
}

int fe_overlap_add(const FeWindows* d, const real* y, real* x) {
  if (!fe::sound(*d)) return FE_BAD_ARGUMENT;
  FE_FOR_LANES(d->lanes, fe::add_up<L>(*d, y, x))
  return FE_OK;
}

}  // extern "C"
