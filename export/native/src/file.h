// The bytes of a .flsp file: what lies beyond its end is refused.
#ifndef FLSP_FILE_H
#define FLSP_FILE_H

#include <cstring>

#include "model.h"

namespace flsp {

class File {
 public:
  File(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  // `count` records of type T at an offset, where they lie.
  template <class T>
  const T* section(uint64_t at, uint64_t count, const char* what) const {
    if (at > size_ || count > (size_ - at) / sizeof(T))
      throw Error(std::string("the file ends inside its ") + what);
    if (at % kAlignment)
      throw Error(std::string("the file's ") + what + " start at no multiple of 64");
    return reinterpret_cast<const T*>(data_ + at);
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

// A weight's arrays, and its row counts if it is sparse; their contents are not checked.
Weight read_weight(const File& file, const WeightRecord& record, const uint32_t** counts);

}  // namespace flsp

#endif
