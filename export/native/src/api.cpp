// The C interface: opens files, owns memory, and lets no exception out.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "flsp.h"
#include "layers.h"

using namespace flsp;

namespace {

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Floats = std::unique_ptr<float, Free>;

constexpr int64_t kSlack = 64;  // floats before and behind: packing may touch a few

// Zeros, aligned to 64 bytes.
Floats floats(int64_t count) {
  const size_t bytes = static_cast<size_t>((count + 2 * kSlack + 15) / 16 * 16) * 4;
  float* p = static_cast<float*>(std::aligned_alloc(64, bytes));
  if (!p) throw std::bad_alloc();
  std::memset(p, 0, bytes);
  return Floats(p);
}

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
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) throw Error(std::string(path) + " cannot be opened");
    struct stat status {};
    if (fstat(file, &status) == 0 && status.st_size > 0) {
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

}  // namespace

// The model, and the file that its weights lie in: mapped, or a copy of the caller's.
struct flsp_model {
  const Mapping file;
  const Floats copy;
  Model model;

  explicit flsp_model(const char* path) : file(path) {
    load_model(model, static_cast<const uint8_t*>(file.data), file.size);
  }
  flsp_model(const void* data, size_t size) : copy(floats(size / sizeof(float) + 1)) {
    std::memcpy(copy.get(), data, size);
    load_model(model, reinterpret_cast<const uint8_t*>(copy.get()), size);
  }
};

struct flsp_session {
  const Model& model;
  Pool pool;
  int64_t pack_step;
  Floats arena, source, pack;

  flsp_session(const Model& m, int threads)
      : model(m),
        pool(threads),
        pack_step((m.pack_floats + 31) / 16 * 16),
        arena(floats(m.arena_floats)),
        source(floats(m.source_floats)),
        pack(floats(pack_step * threads)) {}
};

namespace flsp {

const Kernels* best_kernels() {
  const char* limit = std::getenv("FLSP_ISA");
  const auto allowed = [&](const Kernels* k) {
    if (!k) return false;
    const bool older = limit && ((std::strcmp(limit, "base") == 0) ||
                                 (std::strcmp(limit, "v3") == 0 &&
                                  std::strcmp(k->name, "v4") == 0));
    if (older && std::strcmp(limit, k->name) != 0) return false;
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
  shape_of(model->model.buffers.back(), shape);
}

const char* flsp_metadata(const flsp_model* model) {
  return model->model.metadata.c_str();
}

const char* flsp_isa(const flsp_model* model) { return model->model.kernels->name; }

int64_t flsp_model_bytes(const flsp_model* model) { return model->model.bytes(); }

flsp_session* flsp_session_new(const flsp_model* model, int threads, char* error,
                               size_t error_size) {
  return guarded(error, error_size, [&]() -> flsp_session* {
    if (threads < 1 || threads > 256) throw Error("threads must be 1 to 256");
    return new flsp_session(model->model, threads);
  });
}

void flsp_session_free(flsp_session* session) { delete session; }

int flsp_run(flsp_session* s, const float* input, float* output, int64_t batch) {
  if (!s || !input || !output || batch < 0) return -1;
  const Buffer& in = s->model.buffers.front();
  const Buffer& out = s->model.buffers.back();
  const Workspace space{s->arena.get() + kSlack, s->source.get() + kSlack,
                        s->pack.get() + kSlack, s->pack_step, &s->pool};
  const auto copy = [](const Buffer& b, const float* from, int64_t from_step, float* to,
                       int64_t to_step) {
    for (int32_t c = 0; c < b.channels; c++)
      std::memcpy(to + c * to_step, from + c * from_step, b.pixels() * sizeof(float));
  };
  for (int64_t i = 0; i < batch; i++) {
    copy(in, input + i * in.channels * in.pixels(), in.pixels(),
         space.arena + in.offset, in.plane());
    for (const Op& op : s->model.ops) run_op(s->model, op, space);
    copy(out, space.arena + out.offset, out.plane(),
         output + i * out.channels * out.pixels(), out.pixels());
  }
  return 0;
}

}  // extern "C"
