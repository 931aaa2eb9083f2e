// What a bundle's C++ code uses of onnxruntime's C++ API (1.20), for the compiler only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

enum OrtAllocatorType { OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };

namespace Ort {
struct Env {};
struct SessionOptions {};
struct RunOptions {};
struct MemoryInfo {
  static MemoryInfo CreateCpu(OrtAllocatorType, OrtMemType);
};
struct AllocatorWithDefaultOptions {
  operator void*() const;
};
struct Freed {
  void operator()(char*) const;
};
using AllocatedStringPtr = std::unique_ptr<char, Freed>;
struct Value {
  template <class T>
  static Value CreateTensor(const MemoryInfo&, T* values, size_t count, const int64_t* shape,
                            size_t rank);
  Value(Value&&) = default;
  Value(const Value&) = delete;
};
struct Session {
  Session(const Env&, const char* path, const SessionOptions&);
  AllocatedStringPtr GetOutputNameAllocated(size_t, void* allocator) const;
  std::vector<Value> Run(const RunOptions&, const char* const* names, const Value* inputs,
                         size_t count, const char* const* outputs, size_t output_count);
};
}  // namespace Ort
