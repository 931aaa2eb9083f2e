// Walks over strided tensors: dimensions merged where they lie together, ranges of rows.
#pragma once
#include <cstdint>

#include "fe_elementwise.h"

namespace fe {

// Up to T tensors over one shape; offsets in elements.
template <int T>
struct Walk {
  int dims = 0;
  int64_t shape[FE_DIMS], stride[T][FE_DIMS];

  // A dimension of one element is left out; one that continues the last joins it.
  void add(int64_t size, const int64_t (&step)[T]) {
    if (size == 1) return;
    bool joins = dims > 0;
    for (int t = 0; t < T; t++) joins = joins && stride[t][dims - 1] == step[t] * size;
    if (!joins) dims++;
    shape[dims - 1] = joins ? shape[dims - 1] * size : size;
    for (int t = 0; t < T; t++) stride[t][dims - 1] = step[t];
  }

  int64_t count() const {
    int64_t n = 1;
    for (int d = 0; d < dims; d++) n *= shape[d];
    return n;
  }

  int64_t last(int t) const { return dims ? stride[t][dims - 1] : 0; }

  // body(offsets, n) for each run along the last dimension of the elements [from, to).
  template <class F>
  void rows(int64_t from, int64_t to, F body) const {
    int64_t at[FE_DIMS] = {}, offset[T] = {};
    int64_t rest = from;
    for (int d = dims - 1; d >= 0; d--) {
      at[d] = rest % shape[d];
      rest /= shape[d];
      for (int t = 0; t < T; t++) offset[t] += at[d] * stride[t][d];
    }
    while (from < to) {
      const int64_t left = dims ? shape[dims - 1] - at[dims - 1] : 1;
      const int64_t n = left < to - from ? left : to - from;
      body(offset, n);
      from += n;
      if (from >= to) return;
      int d = dims - 1;
      for (int t = 0; t < T; t++) offset[t] -= at[d] * stride[t][d];
      at[d] = 0;
      for (d--; d >= 0; d--) {
        at[d]++;
        for (int t = 0; t < T; t++) offset[t] += stride[t][d];
        if (at[d] < shape[d]) break;
        for (int t = 0; t < T; t++) offset[t] -= at[d] * stride[t][d];
        at[d] = 0;
      }
    }
  }
};

// Pieces that so many elements are cut into, for `threads` threads.
inline int pieces(int64_t elements, int threads) {
  if (threads <= 1) return 1;
  const int64_t most = elements / 64 + 1;
  return (int)(most < 4 * threads ? most : 4 * threads);
}

inline int64_t split64(int64_t n, int i, int parts) {
  return (int64_t)((__int128)n * i / parts);
}

}  // namespace fe
