// Stands in for the instruction sets that a build does not have.
#include "kernels.h"

namespace flsp {
#ifndef FLSP_HAVE_V4
const Kernels* kernels_v4() { return nullptr; }
#endif
#ifndef FLSP_HAVE_V3
const Kernels* kernels_v3() { return nullptr; }
#endif
}  // namespace flsp
