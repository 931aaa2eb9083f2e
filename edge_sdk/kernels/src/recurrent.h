// Shared by the passes of recurrent layers: arguments, addresses, groups of blocks.
//
// The order of every sum is fixed by the shapes alone, so a block gets the same bits
// whatever it is computed together with.
#pragma once
#include <algorithm>
#include <type_traits>

#include "fe_recurrent.h"
#include "lanes.h"
#include "structure.h"
#include "support.h"

namespace fe {

constexpr int gates_of(int cell) { return cell == FE_LSTM ? 4 : cell == FE_GRU ? 3 : 1; }
constexpr int saved_of(int cell) { return cell == FE_LSTM ? 5 : cell == FE_GRU ? 4 : 0; }

struct RecurrentArgs {
  const FeStructure* s;
  const FeRecurrent* r;
  const real *gates, *w, *bias, *h0, *c0;
  real *y, *saved, *hn, *cn;
  const real *dy, *dhn, *dcn;
  real *dgates, *dw, *db, *dh0, *dc0;
  real *dh, *dc;              // carried from step to step: [blocks][hidden][lanes]
  real *by_column, *dw_column;  // weights and gradients in the order of the columns

  int time(int step) const { return r->reverse ? r->steps - 1 - step : step; }
  // Where a step of a block begins in a tensor with so many values per step.
  ptrdiff_t at(int block, int step, int values) const {
    return ((ptrdiff_t)block * r->steps + time(step)) * values * r->lanes;
  }
  // y's values of this direction.
  ptrdiff_t out(int block, int step) const {
    return at(block, step, r->features) + (ptrdiff_t)r->offset * r->lanes;
  }
  ptrdiff_t state(int block) const { return (ptrdiff_t)block * r->hidden * r->lanes; }
  // Gradients of the recurrent product: GRU's differ from dgates and lie in `saved`.
  const real* product_gradients(int block, int step) const {
    return r->cell == FE_GRU ? saved + at(block, step, 4 * r->hidden)
                             : dgates + at(block, step, gates_of(r->cell) * r->hidden);
  }
  int product_values() const {
    return (r->cell == FE_GRU ? 4 : gates_of(r->cell)) * r->hidden;
  }
};

// Rows and columns of at most so many units have 16-bit indices.
constexpr int kMostHidden = 16384;

inline bool valid(const FeStructure* s, const FeRecurrent& r) {
  return r.cell >= FE_RNN_TANH && r.cell <= FE_GRU && r.blocks > 0 && r.steps > 0 &&
         r.hidden > 0 && r.hidden <= kMostHidden && r.offset >= 0 && r.features - r.offset >= r.hidden && s->runs > 0 &&
         s->cols == r.hidden && s->rows == gates_of(r.cell) * r.hidden;
}

// Two sums per value hide the latency of a multiply-add; a third would spill.
constexpr int kSplit = 2;

template <int L>
constexpr int group_blocks() {
  return std::clamp((kManyRegisters ? 12 : 6) / Lanes<L>::NV, 1, 4);
}

// The columns of a full row, wherever its weights begin.
struct EveryColumn {
  int32_t operator[](int32_t i) const { return i; }
  EveryColumn operator+(int32_t) const { return *this; }
};

// Runs f<TB>() for TB = count, which is at most Most.
template <int Most, class F>
void with_group(int count, F f) {
  if constexpr (Most > 1) {
    if (count < Most) return with_group<Most - 1>(count, f);
  }
  f(std::integral_constant<int, Most>{});
}

// Calls f(tb, first block) for groups of blocks, which threads take independently.
template <int L, class F>
void for_groups(const FeRecurrent& r, F f) {
  const int per_thread = (r.blocks + std::max(1, r.threads) - 1) / std::max(1, r.threads);
  const int most = std::min(group_blocks<L>(), per_thread);
  parallel_for((r.blocks + most - 1) / most, r.threads, [&](int group) {
    const int first = group * most;
    with_group<group_blocks<L>()>(std::min(most, r.blocks - first),
                                  [&](auto tb) { f(tb, first); });
  });
}

#define FE_EACH                          \
  FE_UNROLL for (int t = 0; t < TB; t++) \
  FE_UNROLL for (int v = 0; v < NV; v++)

}  // namespace fe
