// Activations and their gradients, on tensors as flat arrays: one formula per kind.
#include <cstring>

#include "activation_kinds.h"
#include "support.h"

namespace fe {
namespace {

// A tensor may begin at any block, which is aligned to its lanes only.
typedef real Loose __attribute__((vector_size(sizeof(V)), may_alias, aligned(sizeof(real))));
constexpr int64_t kPiece = 1 << 14;  // values per piece of work: 64 KiB

// out[i] = f(one[i], two[i]), whole vectors; the last few values through a buffer.
template <class F>
void map(int64_t count, int threads, const real* one, const real* two, real* out, F f) {
  const int pieces = (int)((count + kPiece - 1) / kPiece);
  parallel_for(pieces, threads, [&](int piece) {
    const int64_t end = std::min(count, (piece + 1) * kPiece);
    int64_t i = piece * kPiece;
    for (; i + kMaxVl <= end; i += kMaxVl)
      *(Loose*)(out + i) = f((V)*(const Loose*)(one + i), (V)*(const Loose*)(two + i));
    if (i == end) return;
    alignas(64) real a[kMaxVl] = {}, b[kMaxVl] = {};
    std::memcpy(a, one + i, sizeof(real) * (size_t)(end - i));
    std::memcpy(b, two + i, sizeof(real) * (size_t)(end - i));
    store(a, f(load<V>(a), load<V>(b)));
    std::memcpy(out + i, a, sizeof(real) * (size_t)(end - i));
  });
}

template <int Kind>
void run(const FeActivation& d, const real* saved, const real* dy, real* out) {
  const Constants c{constant<V>(d.a), constant<V>(d.b)};
  if (dy) {
    map(d.count, d.threads, saved ? saved : dy, dy, out,
        [&](V s, V g) FE_INLINE_LAMBDA { return Activation<Kind>::gradient(s, g, c); });
  } else {
    map(d.count, d.threads, saved, saved, out,
        [&](V x, V) FE_INLINE_LAMBDA { return Activation<Kind>::value(x, c); });
  }
}

template <int Kind = 0>
int dispatch(const FeActivation& d, const real* saved, const real* dy, real* out) {
  if constexpr (Kind == FE_ACTIVATIONS) {
    return FE_BAD_ARGUMENT;
  } else {
    if (d.kind != Kind) return dispatch<Kind + 1>(d, saved, dy, out);
    if (!saved && !(dy && Activation<Kind>::kSaves == FE_SAVES_NOTHING)) return FE_BAD_ARGUMENT;
    run<Kind>(d, saved, dy, out);
    return FE_OK;
  }
}

template <int Kind = 0>
int saves(int kind) {
  if constexpr (Kind == FE_ACTIVATIONS) return -1;
  else return kind == Kind ? Activation<Kind>::kSaves : saves<Kind + 1>(kind);
}

bool sound(const FeActivation& d) {
  if (d.count < 0 || d.count > (int64_t)kPiece * INT32_MAX) return false;
  if (d.kind == FE_HARDTANH) return d.a <= d.b;
  if (d.kind == FE_ELU) return d.a >= 0 && d.b >= 0;
  if (d.kind == FE_SOFTPLUS) return d.a > 0;
  return d.kind != FE_LEAKY_RELU || d.a >= 0;
}

}  // namespace
}  // namespace fe

using fe::real;

extern "C" {

int fe_activation_saves(const FeActivation* d) { return fe::saves(d->kind); }

int fe_activation_forward(const FeActivation* d, const real* x, real* y) {
  return fe::sound(*d) ? fe::dispatch(*d, x, nullptr, y) : (int)FE_BAD_ARGUMENT;
}

int fe_activation_backward(const FeActivation* d, const real* saved, const real* dy, real* dx) {
  if (!fe::sound(*d) || !dy) return FE_BAD_ARGUMENT;
  return fe::dispatch(*d, saved, dy, dx);
}

int fe_accumulate(int64_t count, int32_t threads, const real* x, real* y) {
  using fe::V;
  if (count < 0) return FE_BAD_ARGUMENT;
  fe::map(count, threads, x, y, y, [](V a, V b) FE_INLINE_LAMBDA { return b + a; });
  return FE_OK;
}

}  // extern "C"
