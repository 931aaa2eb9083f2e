// Decodes a plan, checks it like a stranger's, and runs it.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "program.h"
#include "support.h"

namespace {

using namespace fe;

constexpr int64_t kMagic = 0x31304750'45464c46;  // "FLFEPG01" as bytes
constexpr int64_t kMost = 1 << 20;               // tensors, instructions, operands

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// A step goes through all of its memory: as pages of 4 KB it lies on more of them than a
// processor remembers the places of.
void* aligned(size_t bytes) {
  constexpr size_t kLargePage = size_t{1} << 21;
  void* at = nullptr;
  if (posix_memalign(&at, bytes < kLargePage ? 64 : kLargePage, bytes)) return nullptr;
#ifdef MADV_HUGEPAGE
  if (bytes >= kLargePage) madvise(at, bytes & ~(kLargePage - 1), MADV_HUGEPAGE);
#endif
  return at;
}

}  // namespace

struct FeProgram {
  int32_t lanes = 0, blocks = 0;
  int64_t arena_reals = 0;
  std::vector<Tensor> tensors;
  std::vector<Instruction> list;
  std::vector<FeParameter> parameters;
  std::unique_ptr<real, Free> arena;
  int32_t stopped = -1;
  int32_t bad_sample = -1;
  uint64_t seed = 0;
  uint64_t runs = 0;
};

namespace {

// Words taken one after the other; past the end it says no.
struct Words {
  const int64_t* at;
  int64_t left;
  bool take(int64_t& to, int64_t low, int64_t high) {
    if (left < 1 || *at < low || *at > high) return false;
    to = *at++;
    left--;
    return true;
  }
  bool ids(std::vector<int32_t>& to, int64_t count, int64_t limit) {
    if (count > left) return false;
    to.resize(count);
    for (int32_t& id : to) {
      int64_t found;
      if (!take(found, -1, limit - 1)) return false;
      id = (int32_t)found;
    }
    return true;
  }
  bool numbers(std::vector<int64_t>& to, int64_t count) {
    if (count > left) return false;
    to.assign(at, at + count);
    at += count;
    left -= count;
    return true;
  }
};

bool decode_tensors(Words& w, FeProgram& p, int64_t count) {
  p.tensors.reserve(std::min(count, w.left));
  for (int64_t i = 0; i < count; i++) {
    Tensor t;
    if (!w.take(t.offset, 0, p.arena_reals) || !w.take(t.per_sample, 1, p.arena_reals)) return false;
    const int64_t batch = (int64_t)p.lanes * p.blocks;
    if (t.offset % 16 || t.per_sample > (p.arena_reals - t.offset) / batch) return false;
    p.tensors.push_back(t);
  }
  return true;
}

bool decode_instruction(Words& w, const FeProgram& p, Instruction& at) {
  int64_t row, flags, count[8];
  if (!w.take(row, 0, kMost) || !w.take(flags, 0, 3)) return false;
  for (int64_t& n : count)
    if (!w.take(n, 0, 1 << 10)) return false;
  at.row = (int32_t)row;
  at.backward = flags & 1;
  at.accumulate = flags & 2;
  std::vector<int32_t>* lists[] = {&at.in, &at.out, &at.stash, &at.d_out, &at.d_in};
  for (int k = 0; k < 5; k++)
    if (!w.ids(*lists[k], count[k], (int64_t)p.tensors.size())) return false;
  if (!w.ids(at.parameters, count[5], (int64_t)p.parameters.size())) return false;
  std::vector<int64_t> bits;
  if (!w.numbers(at.ints, count[6]) || !w.numbers(bits, count[7])) return false;
  at.reals.resize(bits.size());
  if (!bits.empty()) std::memcpy(at.reals.data(), bits.data(), bits.size() * 8);
  return true;
}

// What one instruction may touch, and what must have been written before.
struct Checker {
  const FeProgram& p;
  std::vector<bool> written;

  // Each tensor of a list: of its size, and there if needed(k).
  template <class Needed>
  bool reads(const std::vector<int32_t>& ids, const std::vector<int64_t>& sizes, Needed needed) {
    if (ids.size() != sizes.size()) return false;
    for (size_t k = 0; k < ids.size(); k++) {
      if (ids[k] < 0) {
        if (needed(k)) return false;
      } else if (p.tensors[ids[k]].per_sample != sizes[k] || !written[ids[k]]) {
        return false;
      }
    }
    return true;
  }

  bool writes(const std::vector<int32_t>& ids, const std::vector<int64_t>& sizes, bool all) {
    if (ids.size() != sizes.size()) return false;
    for (size_t k = 0; k < ids.size(); k++) {
      if (ids[k] < 0 && all) return false;
      if (ids[k] < 0) continue;
      if (p.tensors[ids[k]].per_sample != sizes[k]) return false;
      written[ids[k]] = true;
    }
    return true;
  }

  bool parameters(const Instruction& at, const Sizes& s) const {
    if (at.parameters.size() != s.parameters.size()) return false;
    for (size_t k = 0; k < at.parameters.size(); k++) {
      const bool optional = s.optional >> k & 1, structured = s.structured >> k & 1;
      if (at.parameters[k] < 0) {
        if (!optional) return false;
        continue;
      }
      const FeParameter& own = p.parameters[at.parameters[k]];
      if (!own.value || own.count != s.parameters[k] || (structured && !own.structure)) return false;
    }
    return true;
  }

  int64_t end(int32_t id) const {
    return p.tensors[id].offset + p.tensors[id].per_sample * p.lanes * p.blocks;
  }

  // What is written lies apart from all else of the instruction: a kernel may believe
  // what it has looked at, such as a token, until it is done.
  bool apart(const Instruction& at) const {
    std::vector<int32_t> read, made;
    for (const auto* ids : {&at.in, &at.out, &at.stash, &at.d_out, &at.d_in})
      for (const int32_t id : *ids) {
        const bool writes = at.backward ? ids == &at.d_in : ids == &at.out || ids == &at.stash;
        if (id >= 0) (writes ? made : read).push_back(id);
      }
    const auto meet = [&](int32_t a, int32_t b) {
      return p.tensors[a].offset < end(b) && p.tensors[b].offset < end(a);
    };
    for (size_t k = 0; k < made.size(); k++) {
      for (const int32_t id : read)
        if (meet(made[k], id)) return false;
      for (size_t j = 0; j < k; j++)
        if (meet(made[k], made[j])) return false;
    }
    return true;
  }

  bool instruction(const Instruction& at) {
    const Row* row = find_row(at.row);
    if (!row || (int)at.ints.size() != row->ints || (int)at.reals.size() != row->reals) return false;
    if (at.backward && !row->backward) return false;
    Sizes s;
    if (!row->sizes(at, p.parameters.data(), s)) return false;
    for (const auto* sizes : {&s.in, &s.out, &s.stash, &s.parameters})
      for (const int64_t size : *sizes)
        if (size < 0) return false;
    if (!parameters(at, s) || !apart(at)) return false;
    if (!at.backward)
      return at.d_out.empty() && at.d_in.empty() && reads(at.in, s.in, [](size_t) { return true; }) &&
             writes(at.out, s.out, true) && writes(at.stash, s.stash, true);
    return reads(at.in, s.in, [&](size_t k) { return s.reads_in >> k & 1; }) &&
           reads(at.out, s.out, [&](size_t k) { return s.reads_out >> k & 1; }) &&
           reads(at.stash, s.stash, [&](size_t k) { return s.reads_stash >> k & 1; }) &&
           reads(at.d_out, s.out, [&](size_t k) { return !(s.unread >> k & 1); }) && writes(at.d_in, s.in, false);
  }
};

int decode(Words w, int64_t most_bytes, FeProgram& p) {
  int64_t word, tensors, instructions;
  if (!w.take(word, kMagic, kMagic) || !w.take(word, FE_PROGRAM_VERSION, FE_PROGRAM_VERSION))
    return FE_BAD_PLAN;
  if (!w.take(word, 4, 16) || (word & (word - 1))) return FE_BAD_PLAN;
  p.lanes = (int32_t)word;
  if (!w.take(word, 1, 1 << 16)) return FE_BAD_PLAN;
  p.blocks = (int32_t)word;
  if (!w.take(p.arena_reals, 16, (int64_t)1 << 36)) return FE_BAD_PLAN;
  if (!w.take(tensors, 1, kMost) || !w.take(instructions, 1, kMost)) return FE_BAD_PLAN;
  if (most_bytes && p.arena_reals > most_bytes / (int64_t)sizeof(real)) return FE_NO_MEMORY;
  if (!decode_tensors(w, p, tensors)) return FE_BAD_PLAN;
  Checker checker{p, std::vector<bool>(tensors)};
  for (int64_t i = 0; i < instructions; i++) {
    Instruction at;
    p.stopped = (int32_t)i;
    if (!decode_instruction(w, p, at) || !checker.instruction(at)) return FE_BAD_PLAN;
    p.list.push_back(std::move(at));
  }
  p.stopped = -1;
  if (w.left) return FE_BAD_PLAN;
  const size_t bytes = (p.arena_reals * sizeof(real) + 63) / 64 * 64;
  p.arena.reset((real*)aligned(bytes));
  if (!p.arena) return FE_NO_MEMORY;
  std::memset(p.arena.get(), 0, bytes);
  return FE_OK;
}

}  // namespace

extern "C" {

int fe_program_open(const int64_t* words, int64_t count, const FeParameter* parameters,
                    int32_t n_parameters, int64_t most_bytes, int32_t* stopped, FeProgram** out) {
  if (!words || !out || count < 0 || n_parameters < 0) return FE_BAD_ARGUMENT;
  try {
    auto p = std::make_unique<FeProgram>();
    p->parameters.assign(parameters, parameters + n_parameters);
    const int code = decode({words, count}, most_bytes, *p);
    if (stopped) *stopped = p->stopped;
    if (code == FE_OK) *out = p.release();
    return code;
  } catch (const std::bad_alloc&) {
    return FE_NO_MEMORY;
  }
}

void fe_program_close(FeProgram* p) { delete p; }

int fe_program_run(FeProgram* p, int32_t samples, int32_t threads, const FeExternal* externals,
                   int32_t n_externals, double* loss) {
  if (samples < 1 || threads < 1 || n_externals < 0) return FE_BAD_ARGUMENT;
  double total = 0;
  p->bad_sample = -1;
  p->runs++;
  const int32_t chunk = p->blocks * p->lanes;
  for (int32_t first = 0; first < samples; first += std::min(chunk, samples - first)) {
    const int32_t own = std::min(chunk, samples - first);
    for (size_t i = 0; i < p->list.size(); i++) {
      const Instruction& at = p->list[i];
      const Row* row = find_row(at.row);
      const Call call{at, p->tensors.data(), p->arena.get(), p->parameters.data(), externals,
                      n_externals, &total, own, (own + p->lanes - 1) / p->lanes, p->lanes, threads,
                      first, samples, at.accumulate || first > 0, p->seed + p->runs,
                      &p->bad_sample};
      const int code = at.backward ? row->backward(call) : row->forward(call);
      if (code != FE_OK) {
        p->stopped = (int32_t)i;
        return code;
      }
    }
  }
  p->stopped = -1;
  if (loss) *loss = total;
  return FE_OK;
}

void fe_program_seed(FeProgram* p, uint64_t seed) {
  p->seed = seed;
  p->runs = 0;
}

int32_t fe_program_bad_sample(const FeProgram* p) { return p->bad_sample; }

int32_t fe_program_stopped_at(const FeProgram* p) { return p->stopped; }

}  // extern "C"
