// Recurrent layers and embeddings as operations of the training program.
#include "fe_embedding.h"
#include "fe_recurrent.h"
#include "program.h"

namespace fe {
namespace {

constexpr int64_t kMostSteps = 1 << 20;

const FeStructure* weight_structure(const Instruction& at, const FeParameter* parameters) {
  if (at.parameters.empty() || at.parameters[0] < 0) return nullptr;
  return parameters[at.parameters[0]].structure;
}

// ints: cell, reverse, steps, hidden.
bool recurrent_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  const FeStructure* structure = weight_structure(at, parameters);
  const int64_t cell = at.ints[0], steps = at.ints[2], hidden = at.ints[3];
  if (cell < FE_RNN_TANH || cell > FE_GRU || at.ints[1] < 0 || at.ints[1] > 1) return false;
  if (!structure || structure->runs < 1 || structure->cols != hidden || steps < 1 ||
      steps > kMostSteps || hidden > 16384)
    return false;
  const int64_t gates = cell == FE_LSTM ? 4 : cell == FE_GRU ? 3 : 1;
  if (structure->rows != gates * hidden) return false;
  s.in = {product({steps, gates, hidden})};
  s.out = {product({steps, hidden})};
  const int64_t saved = fe_recurrent_saved((int32_t)cell, (int32_t)hidden);
  if (saved) s.stash = {product({steps, saved})};
  s.parameters = {structure->nnz, structure->rows};
  s.optional = 2;
  s.structured = 1;
  s.reads_out = 1;
  s.reads_stash = saved ? 1 : 0;
  return true;
}

// The same with a given state: further inputs are h0 and LSTM's c0, LSTM's last cell
// state is a further output.
bool recurrent_from_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  if (!recurrent_sizes(at, parameters, s)) return false;
  const int64_t state = product({at.ints[3]});
  s.in.push_back(state);
  s.reads_in = 2;
  if (at.ints[0] == FE_LSTM) {
    s.in.push_back(state);
    s.out.push_back(state);
    s.reads_in = 6;
    s.unread = 3;
  }
  return true;
}

FeRecurrent recurrent_of(const Call& c) {
  return {c.lanes, c.blocks, c.threads, c.i(0), c.i(2), c.i(3), c.i(1), c.i(3), 0, c.accumulate};
}

int recurrent_forward(const Call& c) {
  const FeRecurrent r = recurrent_of(c);
  const real* h0 = c.at.in.size() > 1 ? c.in(1) : nullptr;
  const real* c0 = c.at.in.size() > 2 ? c.in(2) : nullptr;
  return fe_recurrent_forward(c.structure(0), &r, c.in(0), c.value(0), c.value(1), h0, c0,
                              c.out(0), c.at.stash.empty() ? nullptr : c.stash(0), nullptr,
                              c.at.out.size() > 1 ? c.out(1) : nullptr);
}

// The gates' gradient is always made: the weights' comes from it.
int recurrent_backward(const Call& c) {
  const FeRecurrent r = recurrent_of(c);
  const int64_t gates = r.cell == FE_LSTM ? 4 : r.cell == FE_GRU ? 3 : 1;
  real* dgates = c.d_in(0);
  if (!dgates)
    dgates = scratch<real>(kPadded, (size_t)(r.blocks * gates * r.steps * r.hidden * r.lanes));
  real* dw = weight_gradient(c);
  if (!dw || !dgates) return FE_NO_MEMORY;
  const bool from = c.at.in.size() > 1, cell = c.at.in.size() > 2;
  return fe_recurrent_backward(c.structure(0), &r, c.value(0), from ? c.in(1) : nullptr,
                               cell ? c.in(2) : nullptr, c.out(0),
                               c.at.stash.empty() ? nullptr : c.stash(0), c.d_out(0), nullptr,
                               cell ? c.d_out(1) : nullptr, dgates, dw, c.gradient(1),
                               from ? c.d_in(1) : nullptr, cell ? c.d_in(2) : nullptr);
}

// ints: positions, tokens, columns, padding.
bool embedding_sizes(const Instruction& at, const FeParameter* parameters, Sizes& s) {
  const FeStructure* structure = weight_structure(at, parameters);
  if (!structure || structure->rows != at.ints[1] || structure->cols != at.ints[2] ||
      at.ints[0] > kMostSteps || at.ints[3] < -1 || at.ints[3] >= at.ints[1])
    return false;
  s.in = {product({at.ints[0]})};
  s.out = {product({at.ints[0], at.ints[2]})};
  s.parameters = {structure->nnz};
  s.structured = 1;
  s.reads_in = 1;
  return true;
}

FeEmbedding embedding_of(const Call& c) {
  return {c.samples, c.lanes, c.blocks, c.threads, c.i(0), c.i(3), c.accumulate};
}

int embedding_forward(const Call& c) {
  const FeEmbedding e = embedding_of(c);
  const int code = fe_embedding_forward(c.structure(0), &e, c.in(0), c.value(0), c.out(0));
  return code == FE_BAD_INDEX ? FE_BAD_DATA : code;
}

int embedding_backward(const Call& c) {
  if (!c.gradient(0)) return FE_OK;
  const FeEmbedding e = embedding_of(c);
  return fe_embedding_backward(c.structure(0), &e, c.in(0), c.d_out(0), c.gradient(0));
}

}  // namespace

const Row kRecurrentRows[] = {
    {"recurrent", 4, 0, recurrent_sizes, recurrent_forward, recurrent_backward},
    {"recurrent_from", 4, 0, recurrent_from_sizes, recurrent_forward, recurrent_backward},
    {"embedding", 4, 0, embedding_sizes, embedding_forward, embedding_backward},
    {}};

}  // namespace fe
