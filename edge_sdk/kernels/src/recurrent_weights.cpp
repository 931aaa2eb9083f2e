// Gradients of recurrent weights: per kept weight, state times gradient over all steps.
//
// Steps are taken several at a time with the column's states in registers, so that the
// sum over the lanes is made once for all of them.
#include "recurrent_weights.h"

namespace fe {
namespace {

template <class F>
void in_column_order(const FeStructure& s, int32_t* cursor, F each) {
  std::copy_n(s.row_start.data(), s.rows, cursor);
  for (int32_t i = 0; i < (int32_t)s.nnz; i++) each(i, cursor[s.column_row.narrow[i]]++);
}

// TC steps of one block from `step` on, for the columns c0 to c1 of one run of rows.
template <int L, int TC>
void steps_of_run(const RecurrentArgs& a, const real* h, ptrdiff_t next_h, const real* d,
                  ptrdiff_t next_d, int run, int c0, int c1) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV, TB = TC;
  const uint16_t* row_of = a.s->column_row.narrow.data();
  const int32_t* start = a.s->column_start.data() + (int64_t)run * a.s->cols;
  for (int c = c0; c < c1; c++) {
    int i = start[c];
    const int end = start[c + 1];
    V g[TB][NV];
    FE_EACH g[t][v] = load<V>(h + t * next_h + (ptrdiff_t)c * L + v * VL);
    const auto one = [&](int32_t row) FE_INLINE_LAMBDA {
      const real* from = d + (ptrdiff_t)row * L;
      V q = V{};
      FE_EACH {
        const V value = load<V>(from + t * next_d + v * VL);
        q = t + v ? q + g[t][v] * value : g[t][v] * value;
      }
      return q;
    };
    for (; i + 4 <= end; i += 4) {
      V q[4];
      FE_UNROLL for (int u = 0; u < 4; u++) q[u] = one(row_of[i + u]);
      add_four(a.dw_column + i, SumFour<V>::of(q[0], q[1], q[2], q[3]));
    }
    for (; i < end; i++) a.dw_column[i] += SumFour<V>::of(one(row_of[i]), V{}, V{}, V{})[0];
  }
}

template <int L, int TC>
void take_steps(const RecurrentArgs& a, int block, int step, int c0, int c1) {
  const ptrdiff_t sign = a.r->reverse ? -L : L;
  const ptrdiff_t next_h = sign * a.r->features, next_d = sign * a.product_values();
  for (; step + TC <= a.r->steps; step += TC)
    for (int run = 0; run < a.s->runs; run++)
      steps_of_run<L, TC>(a, a.y + a.out(block, step - 1), next_h,
                          a.product_gradients(block, step), next_d, run, c0, c1);
  if constexpr (TC > 1) take_steps<L, TC / 2>(a, block, step, c0, c1);
}

template <int L>
void columns_of_part(const RecurrentArgs& a, int c0, int c1) {
  constexpr int most = std::max(1, (kManyRegisters ? 16 : 8) / Lanes<L>::NV);
  for (int block = 0; block < a.r->blocks; block++) {
    if (a.h0)
      for (int run = 0; run < a.s->runs; run++)
        steps_of_run<L, 1>(a, a.h0 + a.state(block), 0, a.product_gradients(block, 0), 0, run, c0,
                           c1);
    take_steps<L, most>(a, block, 1, c0, c1);
  }
}

template <int L>
void bias_of_rows(const RecurrentArgs& a, int r0, int r1) {
  typedef typename Lanes<L>::V V;
  constexpr int VL = Lanes<L>::VL, NV = Lanes<L>::NV;
  for (int row = r0; row < r1; row++) {
    real total = a.r->accumulate ? a.db[row] : 0;
    for (int block = 0; block < a.r->blocks; block++) {
      V sums[NV] = {};
      for (int step = 0; step < a.r->steps; step++) {
        const real* from = a.product_gradients(block, step) + (ptrdiff_t)row * L;
        FE_UNROLL for (int v = 0; v < NV; v++) sums[v] += load<V>(from + v * VL);
      }
      FE_UNROLL for (int v = 1; v < NV; v++) sums[0] += sums[v];
      total += sum(sums[0]);
    }
    a.db[row] = total;
  }
}

}  // namespace

void into_columns(const FeStructure& s, int32_t* cursor, const real* canonical, real* by_column) {
  in_column_order(s, cursor, [&](int32_t i, int32_t at) { by_column[i] = canonical[at]; });
}

void from_columns(const FeStructure& s, int32_t* cursor, const real* by_column, real* canonical) {
  in_column_order(s, cursor, [&](int32_t i, int32_t at) { canonical[at] = by_column[i]; });
}

template <int L>
void weight_gradients(const RecurrentArgs& a) {
  const FeStructure& s = *a.s;
  const int threads = std::max(1, a.r->threads), parts = std::min(s.cols, threads);
  parallel_for(parts, threads, [&](int part) {
    const int c0 = split(s.cols, part, parts), c1 = split(s.cols, part + 1, parts);
    columns_of_part<L>(a, c0, c1);
    if (a.db) bias_of_rows<L>(a, split(s.rows, part, parts), split(s.rows, part + 1, parts));
  });
}

template void weight_gradients<4>(const RecurrentArgs&);
template void weight_gradients<8>(const RecurrentArgs&);
template void weight_gradients<16>(const RecurrentArgs&);

}  // namespace fe
