// The C interface: opens files, owns memory, and lets no exception out.
#include <fcntl.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "flsp.h"
#include "layers.h"

using namespace flsp;

namespace {

// Zeros, aligned to 64 bytes, with kSlack floats before and behind: vectors may touch a
// few. Pages that nothing uses stay the system's. Many are asked for as large ones: planes of
// all channels lie on more small ones than a processor remembers the places of (ResNet18,
// AVX-512: 3 % of its time).
class Floats {
 public:
  explicit Floats(int64_t count)
      : bytes_(static_cast<size_t>(count + 2 * kSlack + 16) * sizeof(float)), base_(zeros()) {}
  ~Floats() { large() ? static_cast<void>(munmap(base_, mapped())) : std::free(base_); }
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  float* get() const {
    const uintptr_t unit = large() ? kLargePage : 64;
    const auto at = reinterpret_cast<uintptr_t>(base_);
    return reinterpret_cast<float*>((at + unit - 1) / unit * unit) + kSlack;
  }

 private:
  static constexpr size_t kLargePage = size_t{1} << 21;
  bool large() const { return bytes_ >= kLargePage; }
  size_t mapped() const { return bytes_ + kLargePage; }
  void* zeros() const {
    void* const at = large() ? mmap(nullptr, mapped(), PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                             : std::calloc(bytes_, 1);
    if (!at || at == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    const auto first = (reinterpret_cast<uintptr_t>(at) + kLargePage - 1) & ~(kLargePage - 1);
    const size_t whole = bytes_ & ~(kLargePage - 1);
    if (large()) madvise(reinterpret_cast<void*>(first), whole, MADV_HUGEPAGE);
#endif
    return at;
  }

  const size_t bytes_;
  void* const base_;
};

// A caller's file, aligned to 64 bytes and not a byte longer: sanitizers see its end.
class Copy {
 public:
  Copy() = default;
  Copy(const void* data, size_t size) {
    if (!data && size) throw Error("there is no file at this address");
    if (posix_memalign(&data_, 64, size ? size : 1)) throw std::bad_alloc();
    if (size) std::memcpy(data_, data, size);
  }
  ~Copy() { std::free(data_); }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;
  const uint8_t* get() const { return static_cast<const uint8_t*>(data_); }

 private:
  void* data_ = nullptr;
};

void tell(char* error, size_t size, const char* text) {
  if (error && size) std::snprintf(error, size, "%s", text);
}

// Runs `make`, turning what it throws into a sentence.
template <class Make>
auto guarded(char* error, size_t size, Make make) -> decltype(make()) {
  try {
    return make();
  } catch (const std::bad_alloc&) {
    tell(error, size, "there is not enough memory");
  } catch (const std::exception& e) {
    tell(error, size, e.what());
  }
  return nullptr;
}

// A file, mapped.
struct Mapping {
  void* data = MAP_FAILED;
  size_t size = 0;
  Mapping() = default;
  explicit Mapping(const char* path) {
    // A pipe would be waited for, and cannot be mapped.
    if (!path) throw Error("there is no path");
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) throw Error(std::string(path) + " cannot be opened");
    struct stat status {};
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
      size = static_cast<size_t>(status.st_size);
      data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    }
    close(file);
    if (data == MAP_FAILED) throw Error(std::string(path) + " is empty or unreadable");
  }
  ~Mapping() {
    if (data != MAP_FAILED) munmap(data, size);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
};

// A session that the machine cannot hold is refused in words, not ended by the system.
void check_machine(const Model& m, int threads) {
  const int64_t bytes =
      (m.arena_floats + m.source_floats + (m.pack_floats + 32) * threads) * 4;
  const int64_t machine = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  if (machine > 0 && bytes > machine)
    throw Error("a session of " + std::to_string(threads) + " threads takes " +
                std::to_string(bytes) + " bytes, the machine has " +
                std::to_string(machine));
}

}  // namespace

// The model, and the file that its weights lie in: mapped, or a copy of the caller's.
struct flsp_model {
  const Mapping file;
  const Copy copy;
  Model model;

  explicit flsp_model(const char* path) : file(path) {
    load_model(model, static_cast<const uint8_t*>(file.data), file.size);
  }
  flsp_model(const void* data, size_t size) : copy(data, size) {
    load_model(model, copy.get(), size);
  }
};

struct flsp_session {
  const Model& model;
  Pool pool;
  const int64_t pack_step;
  const Floats arena, source, pack;

  flsp_session(const Model& m, int threads)
      : model(m),
        pool(threads),
        pack_step((m.pack_floats + 31) / 16 * 16),
        arena(m.arena_floats),
        source(m.source_floats),
        pack(pack_step * threads) {}
};

namespace {

Workspace space_of(flsp_session& s, const Caller& caller) {
  return {s.model, s.arena.get(), s.source.get(), s.pack.get(), s.pack_step, &s.pool, caller};
}

int64_t values_of(const Buffer& b) { return b.channels * b.pixels(); }

bool aligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % alignof(float) == 0; }

// Whether two arrays share a byte: an operation would write what another one still reads.
bool overlap(const float* a, int64_t a_floats, const float* b, int64_t b_floats) {
  const auto from = reinterpret_cast<uintptr_t>(a), other = reinterpret_cast<uintptr_t>(b);
  return from < other + b_floats * sizeof(float) && other < from + a_floats * sizeof(float);
}

// The model's operations on an example that is there.
void run_example(const Workspace& space, float* output) {
  const std::vector<Op>& ops = space.model.ops;
  for (size_t k = 0; k < ops.size(); k += 1 + static_cast<size_t>(ops[k].chained))
    ops[k].chained ? run_chain(space.model, k, space) : run_op(space.model, ops[k], space);
  copy_output(space, output);
}

// Where operations write the output of one example; null: they do not.
float* target_of(const Model& model, float* output) {
  return model.output_copied || !aligned(output) ? nullptr : output;
}

// Numbers of one example from place `at` of a buffer's values on; false of one that float32
// does not hold.
template <class T>
bool put_numbers(const T* from, int64_t count, const Buffer& b, int64_t at, float* to) {
  constexpr int64_t most = int64_t{1} << 24;
  for (int64_t i = 0; i < count; i++, at++) {
    if (sizeof(T) > 3 && !std::is_floating_point<T>::value &&
        (static_cast<int64_t>(from[i]) > most || static_cast<int64_t>(from[i]) < -most))
      return false;
    to[at / b.pixels() * b.plane() + at % b.pixels()] = static_cast<float>(from[i]);
  }
  return true;
}

bool put_values(const flsp_array& a, int64_t example, const Buffer& b, int64_t at, float* to) {
  const int64_t first = example * a.values;
  switch (a.type) {
    case FLSP_INT64:
      return put_numbers(static_cast<const int64_t*>(a.data) + first, a.values, b, at, to);
    case FLSP_INT32:
      return put_numbers(static_cast<const int32_t*>(a.data) + first, a.values, b, at, to);
    case FLSP_BOOL:
      return put_numbers(static_cast<const bool*>(a.data) + first, a.values, b, at, to);
    default:
      return put_numbers(static_cast<const float*>(a.data) + first, a.values, b, at, to);
  }
}

}  // namespace

namespace flsp {

const Kernels* best_kernels() {
  const char* limit = std::getenv("FLSP_ISA");
  const auto is = [&](const char* name) { return limit && std::strcmp(limit, name) == 0; };
  const auto allowed = [&](const Kernels* k) {
    if (!k) return false;
    if (is("base")) return false;
    const bool wide = std::strcmp(k->name, "v4") == 0;
    if (wide && (is("v3") || is("avx2") || is("avxvnni"))) return false;
#if defined(__x86_64__)
    if (std::strcmp(k->name, "v4") == 0)
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512cd");
    if (std::strcmp(k->name, "v3") == 0)
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return true;
  };
  for (const Kernels* k : {kernels_v4(), kernels_v3()})
    if (allowed(k)) return k;
  return kernels_base();
}

const ByteKernels* best_bytes() {
  // Any limit but a set's own name excludes it.
  const char* limit = std::getenv("FLSP_ISA");
  const auto allowed = [&](const char* name) {
    return !limit || !*limit || std::strcmp(limit, name) == 0;
  };
#if defined(__x86_64__)
  const int lanes = best_kernels()->lanes;
  if (allowed("vnni") && lanes == 16 && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vnni"))
    return bytes_vnni();
  if (allowed("avxvnni") && lanes == 8 && __builtin_cpu_supports("avxvnni"))
    return bytes_avxvnni();
  if (allowed("avx2") && lanes == 8) return bytes_avx2();
#elif defined(__aarch64__)
  if (allowed("dot") && getauxval(AT_HWCAP) & HWCAP_ASIMDDP) return bytes_dot();
  if (allowed("neon")) return bytes_neon();
#endif
  return nullptr;
}

}  // namespace flsp

extern "C" {

int flsp_abi(void) { return FLSP_ABI; }

flsp_model* flsp_open_memory(const void* data, size_t size, char* error,
                             size_t error_size) {
  return guarded(error, error_size, [&] { return new flsp_model(data, size); });
}

flsp_model* flsp_open(const char* path, char* error, size_t error_size) {
  return guarded(error, error_size, [&] { return new flsp_model(path); });
}

void flsp_close(flsp_model* model) { delete model; }

static void shape_of(const Buffer& b, int64_t shape[3]) {
  shape[0] = b.channels;
  shape[1] = b.height;
  shape[2] = b.width;
}

void flsp_input_shape(const flsp_model* model, int64_t shape[3]) {
  shape_of(model->model.buffers.front(), shape);
}

void flsp_output_shape(const flsp_model* model, int64_t shape[3]) {
  shape_of(model->model.buffers[model->model.output], shape);
}

const char* flsp_metadata(const flsp_model* model) {
  return model->model.metadata.c_str();
}

const char* flsp_isa(const flsp_model* model) { return model->model.kernels->name; }

int64_t flsp_model_bytes(const flsp_model* model) { return model->model.bytes(); }

flsp_session* flsp_session_new(const flsp_model* model, int threads, char* error,
                               size_t error_size) {
  return guarded(error, error_size, [&]() -> flsp_session* {
    if (!model) throw Error("there is no model");
    if (threads < 1 || threads > 256) throw Error("threads must be 1 to 256");
    check_machine(model->model, threads);
    return new flsp_session(model->model, threads);
  });
}

void flsp_session_free(flsp_session* session) { delete session; }

int flsp_run(flsp_session* s, const float* input, float* output, int64_t batch) {
  if (!s || !input || !output || batch < 0) return -1;
  const int64_t in = values_of(s->model.buffers.front());
  const int64_t out = values_of(s->model.buffers[s->model.output]);
  const bool direct = s->model.copied_piece < in && aligned(input) &&
                      !overlap(input, batch * in, output, batch * out);
  for (int64_t i = 0; i < batch; i++) {
    const float* const x = input + i * in;
    float* const y = output + i * out;
    const Workspace space = space_of(
        *s, {direct ? x : nullptr, target_of(s->model, y), i * in, (batch - 1 - i) * in});
    copy_input(space, x);
    run_example(space, y);
  }
  return 0;
}

int flsp_run_several(flsp_session* s, const flsp_array* inputs, int count, float* output,
                     int64_t batch) {
  if (!s || !inputs || !output || batch < 0 || count < 1) return -1;
  const Buffer& in = s->model.buffers.front();
  const int64_t out = values_of(s->model.buffers[s->model.output]);
  int64_t left = values_of(in);
  for (const flsp_array* a = inputs; a < inputs + count; a++) {
    if (!a->data || a->values < 0 || a->values > left || a->type > FLSP_BOOL) return -1;
    left -= a->values;
  }
  if (left) return -1;
  for (int64_t i = 0; i < batch; i++) {
    int64_t at = 0;
    for (const flsp_array* a = inputs; a < inputs + count; at += a->values, a++)
      if (!put_values(*a, i, in, at, s->arena.get() + in.offset)) return -2;
    float* const y = output + i * out;
    run_example(space_of(*s, {nullptr, target_of(s->model, y), 0, 0}), y);
  }
  return 0;
}

}  // extern "C"
