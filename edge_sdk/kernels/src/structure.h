// A frozen pattern: compressed rows, and for linear layers compressed columns too.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "fe.h"
#include "support.h"

// Columns are 16 bits wide wherever they fit (they do in every layer up to 65,536
// inputs per row), so a kept conv weight costs 2 bytes of index and a linear one 4.
struct FeIndex {
  std::vector<uint16_t> narrow;
  std::vector<uint32_t> wide;
  size_t bytes() const { return narrow.size() * 2 + wide.size() * 4; }
};

struct FeStructure {
  int32_t rows, in_per_group, groups, kernel_h, kernel_w;
  int32_t cols;  // in_per_group * kernel_h * kernel_w
  bool full;     // every weight kept: column i of a row is i, nothing is stored
  int64_t nnz;
  std::vector<int32_t> row_start;     // (rows + 1)
  FeIndex column;                     // (nnz), canonical order
  // Linear layers only: the same weights by (run of rows, column), rows ascending. A run
  // is short enough for its part of the gradients to stay in the first-level cache.
  int32_t runs;                       // 0: not indexed by column
  std::vector<int32_t> column_start;  // (runs * cols + 1)
  FeIndex column_row;                 // (nnz)

  int32_t taps() const { return kernel_h * kernel_w; }
  int32_t rows_per_group() const { return rows / groups; }
  int32_t run_of(int32_t row) const { return fe::part_of(rows, row, runs); }
};

namespace fe {

struct FullColumns {
  int32_t cols;
  int32_t operator[](int64_t i) const { return (int32_t)(i % cols); }
};

// Calls body(columns) where columns[i] is the column of kept weight i.
template <class F>
void with_columns(const FeStructure& s, F body) {
  if (s.full) body(FullColumns{s.cols});
  else if (s.column.wide.empty()) body(s.column.narrow.data());
  else body(s.column.wide.data());
}

}  // namespace fe
