// Random bits by counter: Threefry-2x32 with 20 rounds (Salmon et al., SC'11), on vectors.
#pragma once
#include <cstdint>

#include "lanes.h"

namespace fe {

struct RandomKey {
  uint32_t word[3];
  explicit RandomKey(uint64_t key) : word{(uint32_t)key, (uint32_t)(key >> 32), 0} {
    word[2] = word[0] ^ word[1] ^ 0x1BD11BDAu;
  }
};

// In place: the counter (a, b) becomes two random words.
template <class W>
FE_INLINE void threefry(const RandomKey& key, W& a, W& b) {
  constexpr int turns[8] = {13, 15, 26, 6, 17, 29, 16, 24};
  a += key.word[0];
  b += key.word[1];
  FE_UNROLL for (int round = 0; round < 20; round++) {
    const int turn = turns[round % 8];
    a += b;
    b = (b << turn) | (b >> (32 - turn));
    b ^= a;
    if (round % 4 == 3) {
      const uint32_t step = (uint32_t)round / 4 + 1;
      a += key.word[step % 3];
      b += key.word[(step + 1) % 3] + step;
    }
  }
}

template <int L>
struct Lane {
  typedef uint32_t Word __attribute__((vector_size(L * 4)));
  typedef real Value __attribute__((vector_size(L * sizeof(real)), may_alias));
};

// Which of L samples keep an element, and what a kept value is multiplied by.
struct Keep {
  RandomKey key;
  uint32_t below;  // random words under it are dropped
  real scale;      // 0 where p is 1, so that every value is
  Keep(uint64_t seed, double p)
      : key(seed), below((uint32_t)(p < 1 ? p * 4294967296.0 : 0)),
        scale(p < 1 ? (real)(1 / (1 - p)) : 0) {}

  // factor[2][L] of elements 2 `pair` and 2 `pair` + 1: 0 or `scale`. Lanes are samples one
  // after the other, or all the same one.
  template <int L, bool Shared = false>
  FE_INLINE void draw(uint32_t pair, uint32_t first_sample, real* factor) const {
    typedef typename Lane<L>::Word W;
    typedef typename Lane<L>::Value R;
    W a = pair - W{}, b = {};
    FE_UNROLL for (int l = 0; l < L; l++) b[l] = first_sample + (Shared ? 0 : (uint32_t)l);
    threefry(key, a, b);
    // A comparison gives -1 where it holds.
    *(R*)factor = __builtin_convertvector(a >= below, R) * -scale;
    *(R*)(factor + L) = __builtin_convertvector(b >= below, R) * -scale;
  }
};

}  // namespace fe
