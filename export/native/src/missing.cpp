// Stands in for the instruction sets that a build does not have.
#include "kernels.h"

namespace flsp {
#ifndef FLSP_HAVE_V4
const Kernels* kernels_v4() { return nullptr; }
#endif
#ifndef FLSP_HAVE_V3
const Kernels* kernels_v3() { return nullptr; }
#endif
#ifndef FLSP_HAVE_AVXVNNI
const ByteKernels* bytes_avxvnni() { return nullptr; }
#endif
#ifndef FLSP_HAVE_AVX2
const ByteKernels* bytes_avx2() { return nullptr; }
#endif
#ifndef FLSP_HAVE_DOT
const ByteKernels* bytes_dot() { return nullptr; }
#endif
#ifndef FLSP_HAVE_NEON
const ByteKernels* bytes_neon() { return nullptr; }
#endif
}  // namespace flsp
