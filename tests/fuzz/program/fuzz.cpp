// Mutates plans of training programs, opens them as a stranger's and runs what opens.
//
//   fuzz SEEDS MUTANTS SEED    folder of seed files; prints figures as JSON, and every
//                              100,000 mutants a line on stderr
//   fuzz FILE                  opens and runs one seed file as it is
//
// A seed file is words: parameters (count, trained, structure?, rows, columns per group,
// groups, kernel h, w, by columns?), outside arrays (per sample, type), samples, plan.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "fe_program.h"

namespace {

typedef std::vector<int64_t> Words;
constexpr int64_t kMostBytes = 1 << 26;

struct Seed {
  std::vector<FeParameter> parameters;
  std::vector<FeExternal> externals;
  std::vector<std::vector<float>> memory;  // exactly as long as told: sanitizers watch
  int32_t samples = 0;
  Words plan;
};

float* values(Seed& seed, int64_t count) {
  seed.memory.emplace_back(count);
  for (int64_t i = 0; i < count; i++) seed.memory.back()[i] = (float)((i * 37 % 19) - 9) / 9;
  return seed.memory.back().data();
}

FeParameter parameter(Seed& seed, const int64_t* w) {
  FeParameter p{nullptr, nullptr, w[0], nullptr};
  if (w[2]) {
    std::vector<uint8_t> pattern(w[3] * w[4] * w[6] * w[7]);
    for (size_t i = 0; i < pattern.size(); i++) pattern[i] = i * 7 % 5 < 2;
    FeStructure* made = nullptr;
    if (fe_structure_create(pattern.data(), w[3], w[4], w[5], w[6], w[7], w[8], &made)) std::abort();
    p.structure = made;
    p.count = fe_structure_nnz(made);
  }
  p.value = values(seed, p.count);
  if (w[1]) p.gradient = values(seed, p.count);
  return p;
}

Seed read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(file)), {});
  Words words(bytes.size() / 8);
  std::memcpy(words.data(), bytes.data(), words.size() * 8);
  Seed seed;
  const int64_t* at = words.data();
  const int64_t parameters = *at++;
  for (int64_t i = 0; i < parameters; i++, at += 9) seed.parameters.push_back(parameter(seed, at));
  const int64_t externals = *at++;
  const int64_t* sizes = at;
  at += 2 * externals;
  seed.samples = (int32_t)*at++;
  for (int64_t i = 0; i < externals; i++) {
    const int64_t size = sizes[2 * i], type = sizes[2 * i + 1];
    // Whole numbers are labels: 0 and 1 are in every range.
    float* data = values(seed, size * seed.samples * (type ? 2 : 1));
    for (int64_t k = 0; type && k < size * seed.samples; k++) ((int64_t*)data)[k] = k % 2;
    seed.externals.push_back({data, size, (int32_t)type});
  }
  seed.plan.assign(at, (const int64_t*)words.data() + words.size());
  return seed;
}

void release(Seed& seed) {
  for (FeParameter& p : seed.parameters) fe_structure_free((FeStructure*)p.structure);
  fe_release_scratch();
}

// What became of a plan: 0 refused, 1 opened, 2 ran.
int attempt(Seed& seed, const Words& plan) {
  FeProgram* program = nullptr;
  int32_t stopped = -1;
  if (fe_program_open(plan.data(), (int64_t)plan.size(), seed.parameters.data(),
                      (int32_t)seed.parameters.size(), kMostBytes, &stopped, &program))
    return 0;
  double loss = 0;
  const int code = fe_program_run(program, seed.samples, 1, seed.externals.data(),
                                  (int32_t)seed.externals.size(), &loss);
  fe_program_close(program);
  return code ? 1 : 2;
}

template <class Random>
int64_t odd(Random& random, int64_t now) {
  static const int64_t kOdd[] = {-1, 0, 1, 2, 3, 4, 8, 15, 16, 17, 64, 255, 4096, 65536,
                                 1 << 20, (1LL << 31) - 1, 1LL << 31, 1LL << 40, INT64_MAX, INT64_MIN};
  switch (random() % 4) {
    case 0: return kOdd[random() % (sizeof kOdd / 8)];
    case 1: return (int64_t)((uint64_t)now + random() % 5 - 2);
    case 2: return (int64_t)(random() % 40);
    default: return now ^ ((int64_t)1 << random() % 64);
  }
}

template <class Random>
Words mutant(Random& random, Words plan) {
  for (int edits = 1 + random() % 4; edits--;) {
    const size_t at = random() % plan.size();
    switch (random() % 8) {
      case 0: plan[at] = plan[random() % plan.size()]; break;
      case 1: std::swap(plan[at], plan[random() % plan.size()]); break;
      case 2: if (random() % 8 == 0) plan.resize(at + 1); break;
      case 3: if (random() % 8 == 0 && plan.size() > 1) plan.erase(plan.begin() + at); break;
      default: plan[at] = odd(random, plan[at]);
    }
  }
  return plan;
}

}  // namespace

int main(int count, char** words) {
  if (count == 2) {
    Seed seed = read(words[1]);
    const bool ran = attempt(seed, seed.plan) == 2;
    release(seed);
    return ran ? 0 : 1;
  }
  std::mt19937_64 random(std::atoll(words[3]));
  std::vector<Seed> seeds;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(words[1])) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) seeds.push_back(read(path));
  long outcomes[3] = {};
  double slowest = 0;
  const long mutants = std::atol(words[2]);
  for (long i = 0; i < mutants; i++) {
    Seed& seed = seeds[i % seeds.size()];
    const Words plan = mutant(random, seed.plan);
    const std::clock_t start = std::clock();  // the process's own time: machines are shared
    outcomes[attempt(seed, plan)]++;
    slowest = std::max(slowest, double(std::clock() - start) / CLOCKS_PER_SEC);
    if ((i + 1) % 100'000 == 0)
      std::fprintf(stderr, "progress: %ld of %ld mutants, %ld refused, %ld ran, slowest %.2f s\n",
                   i + 1, mutants, outcomes[0], outcomes[2], slowest);
    // A run may have left NaN and infinities in parameters: they are data like any other.
  }
  for (Seed& seed : seeds) release(seed);
  std::printf("{\"mutants\": %ld, \"refused\": %ld, \"opened\": %ld, \"ran\": %ld, \"slowest_s\": %.3f}\n",
              mutants, outcomes[0], outcomes[1], outcomes[2], slowest);
}
