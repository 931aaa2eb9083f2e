// Each example's vectors against those of all examples of a batch.
#include <cstring>

#include "fe_batch.h"
#include "fe_math.h"
#include "support.h"

namespace fe {
namespace {

typedef Vector<kMaxVl>::T V;
constexpr real kUnseen = -1e30;  // its exponential is zero

int64_t rounded(int64_t n) { return (n + kMaxVl - 1) / kMaxVl * kMaxVl; }

// All samples' vectors, value by value: at[value * step + sample * own + vector].
struct Turned {
  int own, width;
  int64_t count, step;
  real* at;
};

// Where value d of vector v of sample n lies in a blocked tensor.
struct Blocked {
  int own, width, lanes;
  int64_t operator()(int n, int v, int d) const {
    return (((int64_t)(n / lanes) * own + v) * width + d) * lanes + n % lanes;
  }
};

bool turn(const FeContrast& c, const real* x, int own, Slot slot, Turned& to) {
  to.own = own;
  to.width = c.width;
  to.count = (int64_t)c.samples * own;
  to.step = rounded(to.count);
  to.at = scratch<real>(slot, (size_t)(to.step * c.width));
  if (!to.at) return false;
  const Blocked place{own, c.width, c.lanes};
  for (int d = 0; d < c.width; d++) {
    real* row = to.at + d * to.step;
    std::memset(row + to.count, 0, sizeof(real) * (size_t)(to.step - to.count));
    for (int n = 0; n < c.samples; n++)
      for (int v = 0; v < own; v++) row[n * own + v] = x[place(n, v, d)];
  }
  return true;
}

// s[i]: the product of vector `one` of `from` with vector i of `all`.
void products(const Turned& from, int64_t one, const Turned& all, real* s) {
  std::memset(s, 0, sizeof(real) * (size_t)all.step);
  for (int d = 0; d < all.width; d++) {
    const V own = splat<V>(from.at[d * from.step + one]);
    const real* row = all.at + d * all.step;
    for (int64_t i = 0; i < all.step; i += kMaxVl)
      store(s + i, load<V>(s + i) + own * load<V>(row + i));
  }
}

// The sum of p[i] times vector i of `all` as vector v of sample n.
void weighted(const real* p, const Turned& all, const Blocked& place, int n, int v, real* to) {
  for (int d = 0; d < all.width; d++) {
    V total = {};
    for (int64_t i = 0; i < all.step; i += kMaxVl)
      total += load<V>(p + i) * load<V>(all.at + d * all.step + i);
    to[place(n, v, d)] = sum(total);
  }
}

// body(sample, vector, work of `step` reals) for every one of `own` vectors of the samples.
template <class F>
int each(const FeContrast& c, int own, int64_t step, F body) {
  int code = FE_OK;
  parallel_for(c.samples * own, c.threads, [&](int at) {
    real* work = scratch<real>(kPadded, (size_t)step);
    if (work) body(at / own, at % own, work);
    else code = FE_NO_MEMORY;
  });
  return code;
}

// Zero in the lanes behind the last sample.
void clear(const FeContrast& c, int64_t values, real* to) {
  for (int n = c.samples; n < c.blocks * c.lanes; n++)
    for (int64_t i = 0; i < values; i++) to[(n / c.lanes * values + i) * c.lanes + n % c.lanes] = 0;
}

bool sound(const FeContrast& c) {
  const bool there = c.samples > 0 && c.lanes > 0 && c.rows > 0 && c.columns > 0 && c.width > 0 &&
                     c.blocks == (c.samples + (int64_t)c.lanes - 1) / c.lanes;
  const int64_t most = std::max(c.rows, c.columns);
  return there && c.samples * most <= INT32_MAX / 2 && c.shift >= 0 && c.shift < c.columns &&
         (!c.apart || (c.rows == c.columns && c.shift));
}

int forward(const FeContrast& c, const real* a, const real* b, real* terms, real* normalizer) {
  Turned rows, columns;
  if (!turn(c, a, c.rows, kPart, rows) || !turn(c, b, c.columns, kPartToo, columns))
    return FE_NO_MEMORY;
  const Blocked place{c.rows, 1, c.lanes};
  clear(c, c.rows, terms);
  clear(c, c.rows, normalizer);
  return each(c, c.rows, columns.step, [&](int n, int v, real* s) {
    products(rows, (int64_t)n * c.rows + v, columns, s);
    const real partner = s[n * c.columns + (v + c.shift) % c.columns];
    for (int64_t i = columns.count; i < columns.step; i++) s[i] = kUnseen;
    if (c.apart) s[n * c.columns + v] = kUnseen;
    real most = partner;
    for (int64_t i = 0; i < columns.count; i++) most = s[i] > most ? s[i] : most;
    V total = {};
    for (int64_t i = 0; i < columns.step; i += kMaxVl)
      total += exponential(load<V>(s + i) - splat<V>(most));
    const real found = most + logarithm(splat<V>(sum(total)))[0];
    normalizer[place(n, v, 0)] = found;
    terms[place(n, v, 0)] = found - partner;
  });
}

// p[i] = e^(s[i] - normalizer[i]) slope[i]
void shares(int64_t count, const real* normalizer, const real* slope, real* s) {
  for (int64_t i = 0; i < count; i += kMaxVl)
    store(s + i, exponential(load<V>(s + i) - load<V>(normalizer + i)) * load<V>(slope + i));
}

int backward(const FeContrast& c, const real* a, const real* b, const real* normalizer,
             const real* dterms, real* da, real* db) {
  Turned rows, columns;
  if (!turn(c, a, c.rows, kPart, rows) || !turn(c, b, c.columns, kPartToo, columns))
    return FE_NO_MEMORY;
  const int64_t longest = std::max(rows.step, columns.step);
  real* of_rows = scratch<real>(kSums, (size_t)(2 * rows.step));
  if (!of_rows) return FE_NO_MEMORY;
  real* slopes = of_rows + rows.step;
  const Blocked place{c.rows, 1, c.lanes};
  for (int64_t i = 0; i < rows.step; i++) {
    const bool there = i < rows.count;
    const int64_t from = there ? place((int)(i / c.rows), (int)(i % c.rows), 0) : 0;
    of_rows[i] = there ? normalizer[from] : real(0);
    slopes[i] = there ? dterms[from] : real(0);
  }
  int code = FE_OK;
  if (da) {
    const Blocked to{c.rows, c.width, c.lanes};
    clear(c, (int64_t)c.rows * c.width, da);
    code = each(c, c.rows, 3 * longest, [&](int n, int v, real* s) {
      const int64_t own = (int64_t)n * c.rows + v;
      products(rows, own, columns, s);
      real *same = s + longest, *slope = same + longest;
      for (int64_t i = 0; i < columns.step; i++) same[i] = of_rows[own];
      for (int64_t i = 0; i < columns.step; i++) slope[i] = i < columns.count ? slopes[own] : 0;
      shares(columns.step, same, slope, s);
      if (c.apart) s[n * c.columns + v] = 0;
      s[n * c.columns + (v + c.shift) % c.columns] -= slopes[own];
      weighted(s, columns, to, n, v, da);
    });
  }
  if (db && code == FE_OK) {
    const Blocked to{c.columns, c.width, c.lanes};
    clear(c, (int64_t)c.columns * c.width, db);
    code = each(c, c.columns, longest, [&](int n, int w, real* s) {
      products(columns, (int64_t)n * c.columns + w, rows, s);
      shares(rows.step, of_rows, slopes, s);
      if (c.apart) s[n * c.rows + w] = 0;
      for (int v = 0; v < c.rows; v++)
        if ((v + c.shift) % c.columns == w) s[n * c.rows + v] -= slopes[n * c.rows + v];
      weighted(s, rows, to, n, w, db);
    });
  }
  return code;
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_contrast_forward(const FeContrast* c, const real* a, const real* b, real* terms,
                        real* normalizer) {
  return fe::sound(*c) ? fe::forward(*c, a, b, terms, normalizer) : (int)FE_BAD_ARGUMENT;
}

int fe_contrast_backward(const FeContrast* c, const real* a, const real* b, const real* normalizer,
                         const real* dterms, real* da, real* db) {
  if (!fe::sound(*c)) return FE_BAD_ARGUMENT;
  return fe::backward(*c, a, b, normalizer, dterms, da, db);
}

}  // extern "C"
