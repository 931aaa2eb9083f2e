// Work space, threads and cache sizes: what the kernels ask of the machine.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fe {

// One growing buffer per purpose and calling thread: a training step allocates nothing.
enum Slot { kPadded, kOffsets, kWeights, kGradients, kTable, kCursor, kPointer, kSums, kPart, kPartToo, kUntrained, kUnread, kSlots };

struct Scratch {
  void* memory[kSlots] = {};
  size_t bytes[kSlots] = {};
  ~Scratch() { release(); }
  void release() {
    for (int s = 0; s < kSlots; s++) {
      std::free(memory[s]);
      memory[s] = nullptr;
      bytes[s] = 0;
    }
  }
};

inline Scratch& scratch_pool() {
  static thread_local Scratch pool;
  return pool;
}

// Null when memory is short. The content is undefined.
template <class T>
T* scratch(Slot slot, size_t count) {
  Scratch& pool = scratch_pool();
  const size_t need = (count * sizeof(T) / 64 + 1) * 64;
  if (pool.bytes[slot] < need) {
    std::free(pool.memory[slot]);
    pool.memory[slot] = std::aligned_alloc(64, need);
    pool.bytes[slot] = pool.memory[slot] ? need : 0;
  }
  return (T*)pool.memory[slot];
}

template <class F>
void parallel_for(int count, int threads, F body) {
#ifdef _OPENMP
  if (threads > 1 && count > 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int i = 0; i < count; i++) body(i);
    return;
  }
#endif
  (void)threads;
  for (int i = 0; i < count; i++) body(i);
}

// Bytes of first-level data cache; 32 KiB where the kernel does not say (most ARM boards).
inline size_t l1_bytes() {
#ifdef _SC_LEVEL1_DCACHE_SIZE
  static const long found = sysconf(_SC_LEVEL1_DCACHE_SIZE);
  if (found > 0) return (size_t)found;
#endif
  return 32 * 1024;
}

// Bytes of a core's second-level cache; 512 KiB where the kernel does not say.
inline size_t l2_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (found > 0) return (size_t)found;
#endif
  return 512 * 1024;
}

// i * n / parts without overflow: where part i of n things begins.
inline int split(int n, int i, int parts) { return (int)((int64_t)n * i / parts); }

// Which of so many near-equal parts thing i of n is in.
inline int part_of(int n, int i, int parts) { return (int)((int64_t)i * parts / n); }

}  // namespace fe
