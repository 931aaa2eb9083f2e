// Recurrent layers, forward: of some units at a time, the product and then the cell.
#include <cstring>

#include "fe_math.h"
#include "recurrent.h"

namespace fe {
namespace {

// So many units' products wait in the first-level cache for their cells.
constexpr int kUnits = 16;

// bias + the products of the rows of some units with TB blocks' states, `gates` rows a
// unit: to [gates][units][TB][L].
template <int L, int TB, class Columns>
__attribute__((noinline)) void products(const RecurrentArgs& a, Columns columns, int gates,
                                        int first, int units, const real* h, ptrdiff_t next,
                                        real* to) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  for (int g = 0; g < gates; g++)
    for (int j = 0; j < units; j++) {
      const int row = g * a.r->hidden + first + j, start = a.s->row_start[row];
      V acc[kSplit][TB][NV];
      FE_UNROLL for (int u = 0; u < kSplit; u++)
        FE_EACH acc[u][t][v] = u == 0 && a.bias ? splat<V>(a.bias[row]) : V{};
      const int count = h ? a.s->row_start[row + 1] - start : 0;
      const real* weights = a.w + start;
      const auto column = columns + start;
      int i = 0;
      for (; i + kSplit <= count; i += kSplit)
        FE_UNROLL for (int u = 0; u < kSplit; u++) {
          const real* from = h + (ptrdiff_t)column[i + u] * L;
          const V w = splat<V>(weights[i + u]);
          FE_EACH acc[u][t][v] += w * load<V>(from + t * next + v * VL);
        }
      for (; i < count; i++) {
        const real* from = h + (ptrdiff_t)column[i] * L;
        const V w = splat<V>(weights[i]);
        FE_EACH acc[0][t][v] += w * load<V>(from + t * next + v * VL);
      }
      real* out = to + (ptrdiff_t)(g * units + j) * TB * L;
      FE_EACH store(out + t * L + v * VL, acc[0][t][v] + acc[1][t][v]);
    }
}

// One value of the new state. p: the recurrent product's gates; x: the input's, at step
// distance `plane`; state: LSTM's cell, kept from step to step; saved: null or its values.
template <int Cell, class V>
FE_INLINE V cell_value(const V* p, const real* x, ptrdiff_t plane, V previous, real* state,
                       real* saved) {
  const auto keep = [&](int slot, V value) FE_INLINE_LAMBDA {
    if (saved) store(saved + slot * plane, value);
    return value;
  };
  if constexpr (Cell == FE_RNN_TANH) return hyperbolic_tangent(load<V>(x) + p[0]);
  else if constexpr (Cell == FE_RNN_RELU) return relu(load<V>(x) + p[0]);
  else if constexpr (Cell == FE_LSTM) {
    const V i = keep(0, sigmoid(load<V>(x) + p[0]));
    const V f = keep(1, sigmoid(load<V>(x + plane) + p[1]));
    const V g = keep(2, hyperbolic_tangent(load<V>(x + 2 * plane) + p[2]));
    const V o = keep(3, sigmoid(load<V>(x + 3 * plane) + p[3]));
    const V c = keep(4, f * load<V>(state) + i * g);
    store(state, c);
    return o * hyperbolic_tangent(c);
  } else {
    const V r = keep(0, sigmoid(load<V>(x) + p[0]));
    const V z = keep(1, sigmoid(load<V>(x + plane) + p[1]));
    const V n = keep(2, hyperbolic_tangent(load<V>(x + 2 * plane) + r * keep(3, p[2])));
    return n + z * (previous - n);
  }
}

template <int L, int TB, int Cell>
void cells(const RecurrentArgs& a, int block, int step, int first, int units, const real* product,
           const real* h, ptrdiff_t next) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV, G = gates_of(Cell), S = saved_of(Cell);
  const ptrdiff_t plane = (ptrdiff_t)a.r->hidden * L;
  FE_UNROLL for (int t = 0; t < TB; t++) {
    const real* x = a.gates + a.at(block + t, step, G * a.r->hidden);
    real* y = a.y + a.out(block + t, step);
    real* saved = S && a.saved ? a.saved + a.at(block + t, step, S * a.r->hidden) : nullptr;
    for (int j = 0; j < units; j++)
      FE_UNROLL for (int v = 0; v < NV; v++) {
        const ptrdiff_t at = (ptrdiff_t)(first + j) * L + v * VL;
        V p[G];
        FE_UNROLL for (int g = 0; g < G; g++)
          p[g] = load<V>(product + ((ptrdiff_t)(g * units + j) * TB + t) * L + v * VL);
        const V previous = Cell == FE_GRU && h ? load<V>(h + t * next + at) : V{};
        store(y + at, cell_value<Cell>(p, x + at, plane, previous, a.dc + a.state(block + t) + at,
                                       saved ? saved + at : nullptr));
      }
  }
}

template <int L, int TB, int Cell>
void forward_step(const RecurrentArgs& a, int block, int step) {
  constexpr int G = gates_of(Cell);
  alignas(64) real product[G * kUnits * TB * L];
  const int H = a.r->hidden;
  const real* h = step ? a.y + a.out(block, step - 1) : a.h0 ? a.h0 + a.state(block) : nullptr;
  const ptrdiff_t next = (ptrdiff_t)(step ? a.r->steps * a.r->features : H) * L;
  for (int first = 0; first < H; first += kUnits) {
    const int units = std::min(kUnits, H - first);
    if (a.s->full) products<L, TB>(a, EveryColumn{}, G, first, units, h, next, product);
    else products<L, TB>(a, a.s->column.narrow.data(), G, first, units, h, next, product);
    cells<L, TB, Cell>(a, block, step, first, units, product, h, next);
  }
}

template <int L, int TB, int Cell>
void forward_group(const RecurrentArgs& a, int block) {
  const size_t bytes = (size_t)a.r->hidden * L * sizeof(real);
  if (Cell == FE_LSTM) {
    if (a.c0) std::memcpy(a.dc + a.state(block), a.c0 + a.state(block), TB * bytes);
    else std::memset(a.dc + a.state(block), 0, TB * bytes);
  }
  for (int step = 0; step < a.r->steps; step++) forward_step<L, TB, Cell>(a, block, step);
  for (int t = 0; t < TB; t++) {
    const ptrdiff_t at = a.state(block + t);
    if (a.hn) std::memcpy(a.hn + at, a.y + a.out(block + t, a.r->steps - 1), bytes);
    if (a.cn && Cell == FE_LSTM) std::memcpy(a.cn + at, a.dc + at, bytes);
  }
}

template <int L, int Cell>
void forward(const RecurrentArgs& a) {
  for_groups<L>(*a.r, [&](auto tb, int block) {
    forward_group<L, decltype(tb)::value, Cell>(a, block);
  });
}

template <int L>
void forward_cell(const RecurrentArgs& a) {
  switch (a.r->cell) {
    case FE_RNN_TANH: return forward<L, FE_RNN_TANH>(a);
    case FE_RNN_RELU: return forward<L, FE_RNN_RELU>(a);
    case FE_LSTM: return forward<L, FE_LSTM>(a);
    default: return forward<L, FE_GRU>(a);
  }
}

}  // namespace
}  // namespace fe

extern "C" {

int32_t fe_recurrent_saved(int32_t cell, int32_t hidden) { return fe::saved_of(cell) * hidden; }

int fe_recurrent_forward(const FeStructure* s, const FeRecurrent* r, const fe::real* gates,
                         const fe::real* w, const fe::real* bias, const fe::real* h0,
                         const fe::real* c0, fe::real* y, fe::real* saved, fe::real* hn,
                         fe::real* cn) {
  using namespace fe;
  if (!valid(s, *r)) return FE_BAD_ARGUMENT;
  RecurrentArgs a{};
  a.s = s, a.r = r, a.gates = gates, a.w = w, a.bias = bias, a.h0 = h0, a.c0 = c0;
  a.y = y, a.saved = saved, a.hn = hn, a.cn = cn;
  a.dc = scratch<real>(kSums, (size_t)r->blocks * r->hidden * r->lanes);
  if (!a.dc) return FE_NO_MEMORY;
  FE_FOR_LANES(r->lanes, forward_cell<L>(a))
  return FE_OK;
}

}  // extern "C"
