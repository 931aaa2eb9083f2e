// Opens and runs mutants of .flsp files on every kernel set of this machine, guided by the
// basic blocks they reach (g++ -fsanitize-coverage=trace-pc), under the sanitizers.
//
//   fuzz FOLDER SECONDS SEED FINDING           mutants of FOLDER's files; the bytes of a
//                                              finding are in FINDING; figures as JSON on
//                                              stdout
//   fuzz FOLDER SECONDS SEED FINDING MUTANTS   so many, or until the time is over: short
//                                              runs, most of them on one kernel set
//   fuzz FILE                                  opens and runs one file
//
// Every 100,000 mutants a line on stderr says how far it is.
//
// Findings: whatever a sanitizer ends the process for; an opening that takes more blocks
// or memory than its file's size allows; kernel sets that differ; an input that a run changes,
// or that gives other bits where it is copied.
#include <sanitizer/common_interface_defs.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "flsp.h"
#include "mutate.h"

// Of sanitizer/allocator_interface.h, which g++ does not bring.
extern "C" int __sanitizer_install_malloc_and_free_hooks(
    void (*allocated)(const volatile void*, size_t), void (*freed)(const volatile void*));

namespace {

// What opening may cost, whatever a file says: a few times what the corpus takes.
constexpr uint64_t kFreeBlocks = 40'000'000, kBlocksPerByte = 2000;
constexpr uint64_t kFreeBytes = 160 << 20, kBytesPerByte = 400;

uint8_t reached[1 << 20];
uint64_t blocks, edges, allocated;

void count_allocation(const volatile void*, size_t size) { allocated += size; }
void ignore_free(const volatile void*) {}

const fuzz::Bytes* current;
std::string finding;

void save() {
  if (current && !finding.empty())
    std::ofstream(finding, std::ios::binary)
        .write(reinterpret_cast<const char*>(current->data()),
               static_cast<std::streamsize>(current->size()));
}

[[noreturn]] void found(const std::string& what) {
  std::fprintf(stderr, "FINDING: %s\n", what.c_str());
  save();
  std::_Exit(99);
}

const char* const kKernelSets[] = {"vnni", "v4", "avxvnni", "avx2", "v3", "base"};
// Multiply-adds of the longest run, where every mutant meets all kernel sets, and else.
constexpr double kMostWork = 3e6, kShortWork = 3e5;
constexpr uint64_t kReported = 100'000;

struct Figures {
  uint64_t inputs = 0, opened = 0, runs = 0, kept = 0, too_long = 0;
  double slowest = 0;  // seconds of the process for one mutant
  std::map<std::string, uint64_t> refusals;
};

// Multiply-adds of a run, roughly: the slowest mutants say nothing new.
double work(const fuzz::Network& n) {
  double total = 0;
  for (const auto& o : n.ops) {
    const auto known = [&](int32_t b) { return b >= 0 && static_cast<size_t>(b) < n.buffers.size(); };
    if (!known(o.in) || !known(o.out)) continue;
    const auto& in = n.buffers[static_cast<size_t>(o.in)];
    const auto& out = n.buffers[static_cast<size_t>(o.out)];
    const double area = double(out.height) * out.width;
    if (o.weight >= 0 && static_cast<size_t>(o.weight) < n.weights.size())
      total += area * double(n.weights[static_cast<size_t>(o.weight)].record.entries);
    total += area * out.channels * (o.kind == flsp::kMaxPool || o.kind == flsp::kAveragePool ? double(o.kernel_h) * o.kernel_w : 1.0);
    // Planes of a strided layer's copies, and packed rows of every channel.
    if (o.kind == flsp::kConv)
      total += (double(out.height) + double(o.kernel_h) * o.dilation_h) * (out.width + 16.0) *
               in.channels * o.kernel_w * std::min(o.kernel_h, o.stride_h);
  }
  return total;
}

bool differ(const std::vector<float>& a, const std::vector<float>& b, size_t floats) {
  return std::memcmp(a.data(), b.data(), floats * sizeof(float)) != 0;
}

struct Output {
  std::vector<float> values;
  bool tame = true;  // finite and of ordinary size
};

// Whether a view may take what lies between planes, which is anything.
bool takes_gaps(const fuzz::Bytes& file) {
  const auto network = fuzz::read(file);
  return network && std::any_of(network->ops.begin(), network->ops.end(),
                                [](const auto& o) { return o.kind == flsp::kView; });
}

// The outputs on one kernel set; none where the file is refused or not run.
std::optional<Output> open_and_run(const fuzz::Bytes& file, const char* isa, int threads,
                                   bool run, Figures& figures) {
  setenv("FLSP_ISA", isa, 1);
  char error[256] = "";
  blocks = allocated = 0;
  flsp_model* model = flsp_open_memory(file.data(), file.size(), error, sizeof error);
  if (blocks > kFreeBlocks + kBlocksPerByte * file.size())
    found("opening " + std::to_string(file.size()) + " bytes took " + std::to_string(blocks) + " blocks");
  if (allocated > kFreeBytes + kBytesPerByte * file.size())
    found("opening " + std::to_string(file.size()) + " bytes took " + std::to_string(allocated) + " bytes");
  if (!model) {
    if (!*error) found("a file was refused without a word");
    std::string kind;  // without its numbers
    for (const char* c = error; *c; c++)
      if (*c < '0' || *c > '9') kind += *c;
      else if (kind.empty() || kind.back() != '#') kind += '#';
    figures.refusals[kind]++;
    return {};
  }
  figures.opened++;
  std::optional<Output> output;
  if (flsp_session* session = run ? flsp_session_new(model, threads, error, sizeof error) : nullptr) {
    int64_t in[3], out[3];
    flsp_input_shape(model, in);
    flsp_output_shape(model, out);
    std::vector<float> x(static_cast<size_t>(in[0] * in[1] * in[2]) * 2);
    output.emplace();
    output->values.resize(static_cast<size_t>(out[0] * out[1] * out[2]) * 2);
    for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i * 7 % 13) / 6.0f - 1.0f;
    const std::vector<float> given = x;
    if (flsp_run(session, x.data(), output->values.data(), 2)) found("a run failed");
    if (differ(x, given, x.size())) found("a run changed its input");
    // In one array the input is copied: the same bits.
    std::vector<float> both(std::max(x.size(), output->values.size()) / 2);
    std::copy_n(given.begin(), x.size() / 2, both.begin());
    if (flsp_run(session, both.data(), both.data(), 1)) found("a run failed");
    if (!takes_gaps(file) && differ(both, output->values, output->values.size() / 2))
      found("a copied input gives other bits");
    for (const float v : output->values) output->tame &= std::fabs(v) < 1e6f;
    figures.runs++;
    flsp_session_free(session);
  } else if (run) {
    figures.refusals[error]++;
  }
  flsp_close(model);
  return output;
}

// A last bit decides now and then to which whole number an int8 layer's input is rounded: one
// such step was 1.04 % of the largest output.
constexpr float kStep = 5e-2f;

// What differs between two kernel sets; empty if nothing does.
std::string difference(const Output& a, const Output& b, const char* isa) {
  if (!a.tame || !b.tame) return {};
  float most = 1.0f;
  for (const float v : a.values) most = std::max(most, std::fabs(v));
  for (size_t i = 0; i < a.values.size(); i++)
    if (std::fabs(a.values[i] - b.values[i]) > kStep * most)
      return std::string(isa) + " gives " + std::to_string(b.values[i]) + " at " + std::to_string(i) +
             ", the first kernels " + std::to_string(a.values[i]);
  return {};
}

// Whether what an operation gives is not finite, or huge: later ones may make it small
// again, but say nothing (softmax of infinities is 1/24 on one kernel set, 1e-38 on another).
bool overflows(const fuzz::Bytes& file, int threads, Figures& figures) {
  const auto network = fuzz::read(file);
  for (size_t count = network ? network->ops.size() - 1 : 0; count > 0; count--) {
    fuzz::Network first = *network;
    first.ops.resize(count);
    const int32_t given = first.ops.back().out;
    if (given < 0 || static_cast<size_t>(given) >= first.buffers.size()) continue;
    const auto last = static_cast<int32_t>(first.buffers.size()) - 1;  // the file's output
    std::swap(first.buffers[static_cast<size_t>(given)], first.buffers.back());
    for (auto& o : first.ops)
      for (int32_t* b : {&o.in, &o.in2, &o.out}) *b = *b == given ? last : *b == last ? given : *b;
    const auto output = open_and_run(fuzz::write(first), "base", threads, true, figures);
    if (output && !output->tame) return true;
  }
  return false;
}

// Whether it reached a block that no file before has; `lone` is the only kernel set it
// meets, null for all of them.
bool try_file(const fuzz::Bytes& file, int threads, bool run, const char* lone,
              Figures& figures) {
  current = &file;
  const uint64_t before = edges;
  std::optional<Output> first;
  for (const char* isa : kKernelSets) {
    if (lone && isa != lone) continue;
    const auto output = open_and_run(file, isa, threads, run, figures);
    if (!output) continue;
    if (first) {
      const std::string what = difference(*first, *output, isa);
      if (!what.empty() && !overflows(file, threads, figures)) found(what);
    }
    if (!first) first = output;
  }
  current = nullptr;
  return edges > before;
}

fuzz::Bytes contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return fuzz::Bytes(std::istreambuf_iterator<char>(file), {});
}

}  // namespace

extern "C" __attribute__((no_sanitize("address", "undefined"))) void
__sanitizer_cov_trace_pc() {
  const auto pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  uint8_t& seen = reached[(pc * 0x9E3779B97F4A7C15u) >> 44];
  blocks++;
  if (!seen) edges += seen = 1;
}

int main(int argc, char** argv) {
  Figures figures;
  __sanitizer_install_malloc_and_free_hooks(count_allocation, ignore_free);
  if (argc == 2) {
    const fuzz::Bytes file = contents(argv[1]);
    try_file(file, 1, true, nullptr, figures);
    try_file(file, 2, true, nullptr, figures);
    for (const auto& [text, count] : figures.refusals) std::printf("%s\n", text.c_str());
    return 0;
  }
  if (argc != 5 && argc != 6)
    return std::fprintf(stderr, "usage: fuzz FOLDER SECONDS SEED FINDING [MUTANTS]\n"), 2;
  finding = argv[4];
  __sanitizer_set_death_callback(save);
  std::vector<fuzz::Network> corpus;
  std::set<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) paths.insert(entry.path());
  for (const auto& path : paths) {
    const fuzz::Bytes file = contents(path);
    const auto network = fuzz::read(file);
    if (!network) return std::fprintf(stderr, "%s is no .flsp file\n", path.c_str()), 2;
    try_file(file, 1, true, nullptr, figures);
    corpus.push_back(*network);
  }
  if (!figures.refusals.empty()) return std::fprintf(stderr, "a seed was refused: %s\n", figures.refusals.begin()->first.c_str()), 2;
  const size_t seeds = corpus.size();
  const uint64_t seed_edges = edges;
  fuzz::Mutator mutator(std::strtoull(argv[3], nullptr, 10));
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::atof(argv[2]));
  const bool quick = argc == 6;
  const uint64_t mutants = quick ? std::strtoull(argv[5], nullptr, 10) : UINT64_MAX;
  while (figures.inputs < mutants && std::chrono::steady_clock::now() < end) {
    // Half of the mutants come from what was kept last.
    const auto size = static_cast<int>(corpus.size());
    const int from = mutator.chance(0.5) ? mutator.below(size) : size - 1 - mutator.below(std::min(size, 32));
    const fuzz::Bytes file = mutator.mutant(corpus[static_cast<size_t>(from)]);
    if (file.size() > 1 << 20) continue;
    const auto network = fuzz::read(file);
    const bool run = !network || work(*network) < (quick ? kShortWork : kMostWork);
    figures.inputs++;
    figures.too_long += !run;
    const char* lone = quick && !mutator.chance(1.0 / 16) ? kKernelSets[mutator.below(std::size(kKernelSets))] : nullptr;
    const std::clock_t before = std::clock();  // the process's own time: machines are shared
    const bool further = try_file(file, mutator.chance(quick ? 0.02 : 0.1) ? 2 : 1, run, lone, figures);
    figures.slowest = std::max(figures.slowest, double(std::clock() - before) / CLOCKS_PER_SEC);
    if (figures.inputs % kReported == 0)
      std::fprintf(stderr, "progress: %llu mutants, %llu runs, %llu kept, %zu refusals, slowest %.2f s\n",
                   (unsigned long long)figures.inputs, (unsigned long long)figures.runs,
                   (unsigned long long)figures.kept, figures.refusals.size(), figures.slowest);
    if (!further || !network || !run) continue;
    corpus.push_back(*network);
    figures.kept++;
  }
  std::printf("{\"inputs\": %llu, \"opened\": %llu, \"runs\": %llu, \"too_long\": %llu, \"seeds\": %zu, "
              "\"kept\": %llu, \"seed_blocks\": %llu, \"blocks\": %llu, \"slowest_s\": %.3f, "
              "\"refusals\": {",
              (unsigned long long)figures.inputs, (unsigned long long)figures.opened,
              (unsigned long long)figures.runs, (unsigned long long)figures.too_long, seeds,
              (unsigned long long)figures.kept, (unsigned long long)seed_edges,
              (unsigned long long)edges, figures.slowest);
  const char* comma = "";
  for (const auto& [text, count] : figures.refusals) {
    std::printf("%s\"%s\": %llu", comma, text.c_str(), (unsigned long long)count);
    comma = ", ";
  }
  std::printf("}}\n");
  return 0;
}
