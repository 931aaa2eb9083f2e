// Gradients of recurrent weights, and the two orders of a structure's kept values.
#pragma once
#include "recurrent.h"

namespace fe {

// Kept values from canonical order into that of the columns, and back. cursor: rows.
void into_columns(const FeStructure&, int32_t* cursor, const real* canonical, real* by_column);
void from_columns(const FeStructure&, int32_t* cursor, const real* by_column, real* canonical);

// Adds to dw_column and to db (written first unless the call accumulates): over the
// blocks and steps in order, whatever the number of threads.
template <int L>
void weight_gradients(const RecurrentArgs&);

}  // namespace fe
