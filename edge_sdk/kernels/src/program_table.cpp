// The table of operations: families of rows, in one numbering.
#include <cstring>

#include "program.h"

namespace fe {
namespace {

const Row* const kFamilies[] = {kEntryRows, kLayerRows, kNormRows, kPoolRows, kElementRows,
                                kLossRows, kImageRows, kDepthwiseRows, kActivationRows,
                                kSequenceRows, kCopyRows, kRecurrentRows, kMatrixRows, kNormConvRows,
                                kBatchRows};

// body(row) until it returns true; null if it never does.
template <class F>
const Row* first(F body) {
  for (const Row* family : kFamilies)
    for (const Row* row = family; row->name; row++)
      if (body(row)) return row;
  return nullptr;
}

}  // namespace

const Row* find_row(int32_t number) {
  if (number < 0) return nullptr;
  return first([&](const Row*) { return number-- == 0; });
}

}  // namespace fe

extern "C" int32_t fe_program_operation(const char* name) {
  int32_t number = -1;
  const fe::Row* found = fe::first([&](const fe::Row* row) {
    number++;
    return std::strcmp(row->name, name) == 0;
  });
  return found ? number : -1;
}
