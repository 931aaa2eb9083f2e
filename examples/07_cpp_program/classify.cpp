// Says which class a model gives one example: classify MODEL INPUT.
#include <algorithm>
#include <fstream>
#include <iostream>
#include <memory>
#include <vector>

#include "flsp.h"

namespace {

size_t size_of(const flsp_model* model, void (*shape)(const flsp_model*, int64_t*)) {
  int64_t sides[3];
  shape(model, sides);
  return static_cast<size_t>(sides[0] * sides[1] * sides[2]);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::cerr << "usage: classify MODEL INPUT\n", 2;
  char error[256] = "";
  const std::unique_ptr<flsp_model, void (*)(flsp_model*)> model(
      flsp_open(argv[1], error, sizeof error), flsp_close);
  if (!model) return std::cerr << "error: " << error << "\n", 1;
  const std::unique_ptr<flsp_session, void (*)(flsp_session*)> session(
      flsp_session_new(model.get(), 1, error, sizeof error), flsp_session_free);
  if (!session) return std::cerr << "error: " << error << "\n", 1;

  std::vector<float> input(size_of(model.get(), flsp_input_shape));
  std::vector<float> output(size_of(model.get(), flsp_output_shape));
  std::ifstream file(argv[2], std::ios::binary);
  const auto bytes = static_cast<std::streamsize>(input.size() * sizeof(float));
  if (!file.read(reinterpret_cast<char*>(input.data()), bytes))
    return std::cerr << "error: " << argv[2] << " is too short\n", 1;

  flsp_run(session.get(), input.data(), output.data(), 1);
  std::cout << std::max_element(output.begin(), output.end()) - output.begin() << "\n";
}
