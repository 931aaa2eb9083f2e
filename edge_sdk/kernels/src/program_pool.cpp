// Pools.
#include "program.h"

namespace fe {
namespace {

// ints: channels, in height and width, out height and width, then kernel, stride and
// padding, each (h, w), then relu. Stash: the tap that won, one byte per output.
FePool pool_of(const Call& c) {
  return {c.lanes, c.blocks * c.i(0), c.threads, c.i(1), c.i(2), c.i(3), c.i(4), c.i(5),
          c.i(6),  c.i(7),            c.i(8),    c.i(9), c.i(10), c.i(11)};
}

bool max_pool_sizes(const Instruction& at, const FeParameter*, Sizes& s) {
  for (int k = 0; k < 12; k++)
    if (at.ints[k] < (k < 9) || at.ints[k] > 1 << 20) return false;
  s.in = {product({at.ints[0], at.ints[1], at.ints[2]})};
  s.out = {product({at.ints[0], at.ints[3], at.ints[4]})};
  s.stash = {(s.out[0] + 3) / 4};
  s.reads_stash = 1;
  return true;
}

int max_pool_forward(const Call& c) {
  const FePool p = pool_of(c);
  return fe_max_pool_forward(&p, c.in(0), c.out(0), (uint8_t*)c.stash(0));
}

int max_pool_backward(const Call& c) {
  const FePool p = pool_of(c);
  if (!c.d_in(0)) return FE_OK;
  return fe_max_pool_backward(&p, c.d_out(0), (const uint8_t*)c.stash(0), c.d_in(0));
}

}  // namespace

const Row kPoolRows[] = {
    {"max_pool", 12, 0, max_pool_sizes, max_pool_forward, max_pool_backward}, {}};

}  // namespace fe
