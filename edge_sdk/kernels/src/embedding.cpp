// Embeddings: a sample's lane takes the kept weights of its token's row.
#include <algorithm>
#include <cstring>

#include "fe_embedding.h"
#include "lanes.h"
#include "structure.h"
#include "support.h"

namespace fe {
namespace {

bool valid(const FeEmbedding& e) {
  return e.blocks > 0 && e.positions > 0 && (e.lanes == 4 || e.lanes == 8 || e.lanes == 16) &&
         e.samples > 0 && e.samples <= e.blocks * e.lanes;
}

int valid_lanes(const FeEmbedding& e, int block) {
  return std::clamp(e.samples - block * e.lanes, 0, e.lanes);
}

// Every token is a row: a comparison that a NaN fails, too.
bool known(const FeStructure& s, const FeEmbedding& e, const real* tokens) {
  for (int b = 0; b < e.blocks; b++)
    for (int p = 0; p < e.positions; p++)
      for (int l = 0; l < valid_lanes(e, b); l++) {
        const real token = tokens[((ptrdiff_t)b * e.positions + p) * e.lanes + l];
        if (!(token >= 0 && token < (real)s.rows)) return false;
      }
  return true;
}

}  // namespace
}  // namespace fe

extern "C" int fe_embedding_forward(const FeStructure* s, const FeEmbedding* e,
                                    const fe::real* tokens, const fe::real* w, fe::real* y) {
  using namespace fe;
  if (!valid(*e)) return FE_BAD_ARGUMENT;
  if (!known(*s, *e, tokens)) return FE_BAD_INDEX;
  const int lanes = e->lanes;
  parallel_for(e->blocks, e->threads, [&](int b) {
    for (int p = 0; p < e->positions; p++) {
      const ptrdiff_t at = (ptrdiff_t)b * e->positions + p;
      real* to = y + at * s->cols * lanes;
      std::memset(to, 0, (size_t)s->cols * lanes * sizeof(real));
      // Lanes behind the samples take what the last one takes: zeros could be divided by.
      const int valid = valid_lanes(*e, b);
      for (int l = 0; l < (valid ? lanes : 0); l++) {
        const int row = (int)tokens[at * lanes + std::min(l, valid - 1)];
        with_columns(*s, [&](auto column) {
          for (int i = s->row_start[row]; i < s->row_start[row + 1]; i++)
            to[(ptrdiff_t)column[i] * lanes + l] = w[i];
        });
      }
    }
  });
  return FE_OK;
}

extern "C" int fe_embedding_backward(const FeStructure* s, const FeEmbedding* e,
                                     const fe::real* tokens, const fe::real* dy, fe::real* dw) {
  using namespace fe;
  if (!valid(*e)) return FE_BAD_ARGUMENT;
  const int lanes = e->lanes, parts = std::max(1, std::min(e->threads, s->rows));
  // Each thread owns a part of the rows and looks at every token.
  parallel_for(parts, e->threads, [&](int part) {
    const int r0 = split(s->rows, part, parts), r1 = split(s->rows, part + 1, parts);
    if (!e->accumulate)
      std::fill(dw + s->row_start[r0], dw + s->row_start[r1], real(0));
    for (int b = 0; b < e->blocks; b++)
      for (int l = 0; l < valid_lanes(*e, b); l++)
        for (int p = 0; p < e->positions; p++) {
          const ptrdiff_t at = (ptrdiff_t)b * e->positions + p;
          const int row = (int)tokens[at * lanes + l];
          if (row < r0 || row >= r1 || row == e->padding) continue;
          const real* from = dy + at * s->cols * lanes + l;
          with_columns(*s, [&](auto column) {
            for (int i = s->row_start[row]; i < s->row_start[row + 1]; i++)
              dw[i] += from[(ptrdiff_t)column[i] * lanes];
          });
        }
  });
  return FE_OK;
}
