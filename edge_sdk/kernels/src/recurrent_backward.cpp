// Recurrent layers, backward through time: a step's cell, then the product with the
// transposed weights. The weights' gradients follow in recurrent_weights.cpp.
#include <cstring>

#include "fe_math.h"
#include "recurrent.h"
#include "recurrent_weights.h"

namespace fe {
namespace {

// From the gradient of one value of the state to those of its gates (at distance `plane`
// in `to`); returns what goes to the previous state beside the product's part.
template <int Cell, class V>
FE_INLINE V cell_gradient(V dh, V y, V previous, V previous_cell, ptrdiff_t plane, real* saved,
                          real* to, real* cell) {
  if constexpr (Cell == FE_RNN_TANH) store(to, dh * (1 - y * y));
  else if constexpr (Cell == FE_RNN_RELU) store(to, relu_gradient(y, dh));
  else if constexpr (Cell == FE_LSTM) {
    const V i = load<V>(saved), f = load<V>(saved + plane), g = load<V>(saved + 2 * plane);
    const V o = load<V>(saved + 3 * plane), c = hyperbolic_tangent(load<V>(saved + 4 * plane));
    const V dc = load<V>(cell) + dh * o * (1 - c * c);
    store(to, dc * g * i * (1 - i));
    store(to + plane, dc * previous_cell * f * (1 - f));
    store(to + 2 * plane, dc * i * (1 - g * g));
    store(to + 3 * plane, dh * c * o * (1 - o));
    store(cell, dc * f);
  } else {
    const V r = load<V>(saved), z = load<V>(saved + plane), n = load<V>(saved + 2 * plane);
    const V dn = dh * (1 - z) * (1 - n * n);
    const V dr = dn * load<V>(saved + 3 * plane) * r * (1 - r);
    const V dz = dh * (previous - n) * z * (1 - z);
    store(to, dr);
    store(to + plane, dz);
    store(to + 2 * plane, dn);
    store(saved, dr);
    store(saved + plane, dz);
    store(saved + 2 * plane, dn * r);
    return dh * z;
  }
  return V{};
}

template <int L, int TB, int Cell>
void cell_step(const RecurrentArgs& a, int block, int step) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV, G = gates_of(Cell), S = saved_of(Cell);
  const int H = a.r->hidden;
  const ptrdiff_t plane = (ptrdiff_t)H * L;
  FE_UNROLL for (int t = 0; t < TB; t++) {
    const int b = block + t;
    real *dh = a.dh + a.state(b), *dc = a.dc + a.state(b);
    const real* dy = a.dy ? a.dy + a.out(b, step) : nullptr;
    const real* y = a.y + a.out(b, step);
    const real* h = step ? a.y + a.out(b, step - 1) : a.h0 ? a.h0 + a.state(b) : nullptr;
    real* saved = S ? a.saved + a.at(b, step, S * H) : nullptr;
    const real* c = Cell != FE_LSTM ? nullptr
                    : step          ? a.saved + a.at(b, step - 1, S * H) + 4 * plane
                    : a.c0          ? a.c0 + a.state(b)
                                    : nullptr;
    real* to = a.dgates + a.at(b, step, G * H);
    for (int j = 0; j < H; j++)
      FE_UNROLL for (int v = 0; v < NV; v++) {
        const ptrdiff_t at = (ptrdiff_t)j * L + v * VL;
        V gradient = load<V>(dh + at);
        if (dy) gradient += load<V>(dy + at);
        store(dh + at,
              cell_gradient<Cell>(gradient, load<V>(y + at), h ? load<V>(h + at) : V{},
                                  c ? load<V>(c + at) : V{}, plane, S ? saved + at : nullptr,
                                  to + at, dc + at));
      }
  }
}

// dh += the transposed weights times the product's gradients of this step.
template <int L, int TB>
__attribute__((noinline)) void transposed_product(const RecurrentArgs& a, int block, int step) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  const FeStructure& s = *a.s;
  const uint16_t* row_of = s.column_row.narrow.data();
  const ptrdiff_t plane = (ptrdiff_t)s.cols * L;
  const ptrdiff_t next = (ptrdiff_t)a.r->steps * a.product_values() * L;
  const real* d = a.product_gradients(block, step);
  real* dh = a.dh + a.state(block);
  for (int c = 0; c < s.cols; c++) {
    V acc[kSplit][TB][NV];
    FE_EACH acc[0][t][v] = load<V>(dh + t * plane + (ptrdiff_t)c * L + v * VL);
    FE_EACH acc[1][t][v] = V{};
    for (int run = 0; run < s.runs; run++) {
      const int32_t* start = s.column_start.data() + (int64_t)run * s.cols + c;
      int i = start[0];
      for (; i + kSplit <= start[1]; i += kSplit)
        FE_UNROLL for (int u = 0; u < kSplit; u++) {
          const V w = splat<V>(a.by_column[i + u]);
          const real* from = d + (ptrdiff_t)row_of[i + u] * L;
          FE_EACH acc[u][t][v] += w * load<V>(from + t * next + v * VL);
        }
      for (; i < start[1]; i++) {
        const V w = splat<V>(a.by_column[i]);
        const real* from = d + (ptrdiff_t)row_of[i] * L;
        FE_EACH acc[0][t][v] += w * load<V>(from + t * next + v * VL);
      }
    }
    FE_EACH store(dh + t * plane + (ptrdiff_t)c * L + v * VL, acc[0][t][v] + acc[1][t][v]);
  }
}

template <int L, int TB, int Cell>
void backward_group(const RecurrentArgs& a, int block) {
  const size_t bytes = TB * (size_t)a.r->hidden * L * sizeof(real);
  const ptrdiff_t at = a.state(block);
  const auto begin = [&](real* to, const real* from) {
    if (from) std::memcpy(to + at, from + at, bytes);
    else std::memset(to + at, 0, bytes);
  };
  begin(a.dh, a.dhn);
  begin(a.dc, Cell == FE_LSTM ? a.dcn : nullptr);
  for (int step = a.r->steps - 1; step >= 0; step--) {
    cell_step<L, TB, Cell>(a, block, step);
    if (step || a.dh0) transposed_product<L, TB>(a, block, step);
  }
  if (a.dh0) std::memcpy(a.dh0 + at, a.dh + at, bytes);
  if (a.dc0 && Cell == FE_LSTM) std::memcpy(a.dc0 + at, a.dc + at, bytes);
}

template <int L, int Cell>
void backward(const RecurrentArgs& a) {
  for_groups<L>(*a.r, [&](auto tb, int block) {
    backward_group<L, decltype(tb)::value, Cell>(a, block);
  });
}

template <int L>
void backward_cell(const RecurrentArgs& a) {
  switch (a.r->cell) {
    case FE_RNN_TANH: return backward<L, FE_RNN_TANH>(a);
    case FE_RNN_RELU: return backward<L, FE_RNN_RELU>(a);
    case FE_LSTM: return backward<L, FE_LSTM>(a);
    default: return backward<L, FE_GRU>(a);
  }
}

}  // namespace
}  // namespace fe

extern "C" int fe_recurrent_backward(const FeStructure* s, const FeRecurrent* r, const fe::real* w,
                                     const fe::real* h0, const fe::real* c0, const fe::real* y,
                                     fe::real* saved, const fe::real* dy, const fe::real* dhn,
                                     const fe::real* dcn, fe::real* dgates, fe::real* dw,
                                     fe::real* db, fe::real* dh0, fe::real* dc0) {
  using namespace fe;
  if (!valid(s, *r) || (saved_of(r->cell) && !saved)) return FE_BAD_ARGUMENT;
  const size_t state = (size_t)r->blocks * r->hidden * r->lanes;
  real* carried = scratch<real>(kSums, 2 * state);
  real* by_column = scratch<real>(kWeights, (size_t)s->nnz);
  real* dw_column = scratch<real>(kGradients, (size_t)s->nnz);
  int32_t* cursor = scratch<int32_t>(kCursor, (size_t)s->rows);
  if (!carried || !by_column || !dw_column || !cursor) return FE_NO_MEMORY;
  RecurrentArgs a{};
  a.s = s, a.r = r, a.w = w, a.h0 = h0, a.c0 = c0, a.y = const_cast<real*>(y), a.saved = saved;
  a.dy = dy, a.dhn = dhn, a.dcn = dcn, a.dgates = dgates, a.dw = dw, a.db = db;
  a.dh0 = dh0, a.dc0 = dc0, a.dh = carried, a.dc = carried + state;
  a.by_column = by_column, a.dw_column = dw_column;
  into_columns(*s, cursor, w, by_column);
  FE_FOR_LANES(r->lanes, backward_cell<L>(a))
  if (r->accumulate) into_columns(*s, cursor, dw, dw_column);
  else std::memset(dw_column, 0, (size_t)s->nnz * sizeof(real));
  FE_FOR_LANES(r->lanes, weight_gradients<L>(a))
  from_columns(*s, cursor, dw_column, dw);
  return FE_OK;
}
