// Values from computed places of a plane, and values to computed places.
#include <algorithm>
#include <cmath>
#include <limits>

#include "elements.h"

namespace flsp {
namespace {

// The place that a number names among n, from the end where it is below 0; -1 for none.
int64_t place(float given, int64_t n) {
  if (!(given >= -static_cast<float>(n) && given < static_cast<float>(n))) return -1;
  const auto at = static_cast<int64_t>(given);
  return at < 0 ? at + n : at;
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

}  // namespace

// A place that a plane has not is a mistake of the inputs: what it gives is not a number.
void run_pick(const Buffer& in, const Buffer& places, const Buffer& out, float* arena) {
  for (int32_t c = 0; c < out.channels; c++) {
    const float* x = arena + in.offset + c * in.plane();
    const float* at = arena + places.offset + (places.channels == 1 ? 0 : c * places.plane());
    float* y = arena + out.offset + c * out.plane();
    for (int64_t i = 0; i < out.pixels(); i++) {
      const int64_t from = place(at[i], in.pixels());
      y[i] = from < 0 ? kNaN : x[from];
    }
  }
}

void run_put(const Buffer& in, const Buffer& places, const Buffer& out, bool adds, float* arena) {
  for (int32_t c = 0; c < out.channels; c++) {
    const float* x = arena + in.offset + c * in.plane();
    const float* at = arena + places.offset + (places.channels == 1 ? 0 : c * places.plane());
    float* y = arena + out.offset + c * out.plane();
    std::fill_n(y, out.pixels(), 0.0f);
    bool right = true;
    for (int64_t i = 0; i < in.pixels(); i++) {
      const int64_t to = place(at[i], out.pixels());
      right &= to >= 0;
      if (to >= 0) y[to] = adds ? y[to] + x[i] : x[i];
    }
    if (!right) std::fill_n(y, out.pixels(), kNaN);
  }
}

}  // namespace flsp
