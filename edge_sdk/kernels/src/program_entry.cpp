// Ways into and out of the blocked layout: arrays with samples first on the outside.
#include <cmath>
#include <cstring>

#include "program.h"
#include "support.h"

namespace fe {
namespace {

constexpr int64_t kExact = sizeof(real) == 4 ? 1 << 24 : (int64_t)1 << 52;

// ints: external, values per sample.
bool input_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.out = {product({at.ints[1]})};
  return at.ints[0] >= 0;
}
bool output_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  s.in = {product({at.ints[1]})};
  return at.ints[0] >= 0;
}

const FeExternal* external(const Call& c) {
  if (c.at.ints[0] >= c.external_count) return nullptr;
  const FeExternal* e = c.externals + c.at.ints[0];
  return e->data && e->per_sample == c.at.ints[1] ? e : nullptr;
}

// One block: from [valid][n] to [n][lanes]. Padded lanes hold the last sample again: what
// is finite for the samples is finite there, too.
template <class T>
void pack_block(const T* x, real* y, int64_t n, int valid, int lanes) {
  for (int64_t i = 0; i < n; i++) {
    real* to = y + i * lanes;
    for (int l = 0; l < valid; l++) to[l] = (real)x[l * n + i];
    for (int l = valid; l < lanes; l++) to[l] = to[valid - 1];
  }
}

bool exact(const int64_t* x, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (x[i] > kExact || x[i] < -kExact) return false;
  return true;
}

int input_forward(const Call& c) {
  const FeExternal* e = external(c);
  if (!e) return FE_BAD_BATCH;
  const int64_t n = e->per_sample;
  const int64_t* whole = (const int64_t*)e->data + (int64_t)c.first * n;
  const real* x = (const real*)e->data + (int64_t)c.first * n;
  if (e->type == FE_FROM_INT64 && !exact(whole, c.samples * n)) return FE_BAD_DATA;
  parallel_for(c.blocks, c.threads, [&](int b) {
    const int64_t from = (int64_t)b * c.lanes * n;
    const int valid = std::min(c.lanes, c.samples - b * c.lanes);
    real* y = c.out(0) + from;
    if (e->type == FE_FROM_INT64) pack_block(whole + from, y, n, valid, c.lanes);
    else pack_block(x + from, y, n, valid, c.lanes);
  });
  return FE_OK;
}

int output_forward(const Call& c) {
  const FeExternal* e = external(c);
  if (!e || e->type != FE_FROM_REAL) return FE_BAD_BATCH;
  const int64_t n = e->per_sample;
  real* y = (real*)e->data + (int64_t)c.first * n;
  parallel_for(c.blocks, c.threads, [&](int b) {
    const real* x = c.in(0) + (int64_t)b * c.lanes * n;
    const int valid = std::min(c.lanes, c.samples - b * c.lanes);
    for (int l = 0; l < valid; l++)
      for (int64_t i = 0; i < n; i++)
        y[((int64_t)b * c.lanes + l) * n + i] = x[i * c.lanes + l];
  });
  return FE_OK;
}

}  // namespace

const Row kEntryRows[] = {{"input", 2, 0, input_sizes, input_forward, nullptr},
                          {"output", 2, 0, output_sizes, output_forward, nullptr},
                          {}};

}  // namespace fe
