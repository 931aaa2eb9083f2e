// Changes to a network. Some leave it consistent, so that kernels meet shapes that no
// exporter writes; others contradict what the checks hold.
#ifndef MUTATE_H
#define MUTATE_H

#include <limits>
#include <numeric>
#include <random>

#include "flsp_bytes.h"
#include "follow.h"

namespace fuzz {

using flsp::BufferRecord;
using flsp::OpRecord;

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  // A changed copy, written; some are changed once more, byte by byte.
  Bytes mutant(Network n) {
    const int count = 1 + below(4);
    for (int i = 0; i < count; i++) change(n);
    if (chance(0.75)) repair(n);
    if (chance(0.25)) contradict(n);
    Bytes file = write(std::move(n));
    if (chance(0.15)) {
      for (int i = 1 + below(4); i > 0; i--) poke(file);
      seal(file);
    }
    if (chance(0.01)) file.resize(below(static_cast<int>(file.size()) + 1));
    return file;
  }

  int below(int bound) { return static_cast<int>(random_() % static_cast<uint64_t>(bound)); }
  bool chance(double p) { return static_cast<double>(random_() >> 11) * 0x1p-53 < p; }
  float value() { return static_cast<float>(below(2001) - 1000) / 1000.0f; }

 private:
  std::mt19937_64 random_;

  template <class T>
  T& pick(std::vector<T>& from) {
    return from[static_cast<size_t>(below(static_cast<int>(from.size())))];
  }

  // Sizes that loops and vectors turn at.
  int32_t size() {
    static const int32_t edges[] = {1,  2,  3,  4,  5,  7,  8,  9,   12,  15,  16,
                                    17, 24, 31, 32, 33, 48, 63, 64,  65,  96,  127,
                                    128, 129, 255, 256, 257, 1000, 1024};
    if (chance(0.3)) return 1 << below(7);
    return chance(0.5) ? 1 + below(20) : edges[below(sizeof edges / sizeof *edges)];
  }

  int64_t extreme() {
    static const int64_t edges[] = {-1, 0, 1, 2, 16, 48, 64, 255, 256, 4095, 4096, 4097};
    if (chance(0.5)) return edges[below(sizeof edges / sizeof *edges)];
    const uint64_t power = uint64_t{1} << below(64);
    return static_cast<int64_t>(power + static_cast<uint64_t>(below(3)) - 1);
  }

  void window(OpRecord& o) {
    static const int32_t pads[] = {0, 0, 1, 1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 47, 48,
                                   63, 64, 65, 100, 255, 1000, 4096};
    switch (below(9)) {
      case 0: o.kernel_h = chance(0.9) ? 1 + below(5) : size(); break;
      case 1: o.kernel_w = chance(0.9) ? 1 + below(5) : size(); break;
      case 2: o.stride_h = chance(0.9) ? 1 + below(4) : size(); break;
      case 3: o.stride_w = chance(0.9) ? 1 + below(4) : size(); break;
      case 4: o.dilation_h = chance(0.7) ? 1 + below(3) : size(); break;
      case 5: o.dilation_w = chance(0.7) ? 1 + below(3) : size(); break;
      case 6: o.pad_top = pads[below(sizeof pads / sizeof *pads)]; break;
      case 7: o.pad_left = pads[below(sizeof pads / sizeof *pads)]; break;
      default: o.groups = chance(0.5) ? 1 : size(); break;
    }
  }

  void change(Network& n) {
    OpRecord& o = pick(n.ops);
    switch (below(13)) {
      case 12:
        o.input_scale = chance(0.2) ? 0 : 1.0f / static_cast<float>(1 + below(300));
        o.extra = chance(0.5) ? 0 : below(256);
        break;
      case 0: case 1: case 2: case 3: window(o); break;
      case 4: {
        BufferRecord& b = chance(0.5) ? n.buffers.front() : pick(n.buffers);
        (chance(0.4) ? b.channels : chance(0.5) ? b.height : b.width) = size();
        break;
      }
      case 5: insert(n); break;
      case 6:
        if (n.ops.size() > 1) n.ops.erase(n.ops.begin() + below(static_cast<int>(n.ops.size())));
        break;
      case 7: o.in2 = chance(0.5) ? -1 : below(static_cast<int>(n.buffers.size())); break;
      case 8: o.in = below(static_cast<int>(n.buffers.size())); break;
      case 9: o.extra = chance(0.7) ? below(6) : size(); break;
      case 10: {
        static const float limits[] = {0.0f, 6.0f, -1.0f, std::numeric_limits<float>::infinity(),
                                       -std::numeric_limits<float>::infinity()};
        (chance(0.5) ? o.low : o.high) = limits[below(5)];
        break;
      }
      default:
        if (n.weights.empty()) break;
        fill(pick(n.weights), true);
    }
  }

  // An operation more, on a buffer of its own, and whoever read its input reads it.
  void insert(Network& n) {
    if (n.ops.size() >= 12) return;
    const size_t at = static_cast<size_t>(below(static_cast<int>(n.ops.size())));
    OpRecord o = n.ops[at];
    o.in2 = -1;
    o.kind = 1 + below(10);  // not a view: it reads what lies between planes, too
    o.input_scale = 0;
    o.extra = chance(0.7) ? 0 : below(5);
    o.weight = -1;
    if (o.kind == flsp::kConv || o.kind == flsp::kLinear || o.kind == flsp::kAffine ||
        flsp::element_weighted(o.kind)) {
      o.weight = static_cast<int32_t>(n.weights.size());
      n.weights.push_back({});
      n.weights.back().record.encoding = below(3);
      n.weights.back().record.value_type = below(2);
    }
    if (o.in < 0 || static_cast<size_t>(o.in) >= n.buffers.size()) return;
    BufferRecord made = n.buffers[static_cast<size_t>(o.in)];
    if (chance(0.5)) made.channels = size();
    // Before the last buffer, which is the output.
    const auto place = static_cast<int32_t>(n.buffers.size()) - 1;
    for (OpRecord& other : n.ops)
      for (int32_t* buffer : {&other.in, &other.in2, &other.out})
        if (*buffer == place) ++*buffer;
    if (o.in == place) o.in++;
    n.buffers.insert(n.buffers.end() - 1, made);
    o.out = place;
    n.ops[at].in = place;
    n.ops.insert(n.ops.begin() + static_cast<ptrdiff_t>(at), o);
  }

  // Makes shapes, weights and the arena follow from the input and the operations.
  void repair(Network& n) {
    const auto count = static_cast<int32_t>(n.buffers.size());
    const auto known = [&](int32_t b) { return b >= 0 && b < count; };
    int64_t most = 1 << 18;  // floats of all buffers: a run stays short
    for (OpRecord& o : n.ops) {
      if (!known(o.in) || !known(o.out)) continue;
      const BufferRecord in = n.buffers[static_cast<size_t>(o.in)];
      BufferRecord& out = n.buffers[static_cast<size_t>(o.out)];
      const BufferRecord second = n.buffers[static_cast<size_t>(known(o.in2) ? o.in2 : o.in)];
      follow(n, o, in, second, out);
      if (!known(o.in2) || !takes_second(o.kind)) {
        o.in2 = o.kind == flsp::kAdd || flsp::element_paired(o.kind) ? o.in : -1;
      } else if (!flsp::element_kind(o.kind)) {
        const BufferRecord& second = n.buffers[static_cast<size_t>(o.in2)];
        if (second.channels != out.channels || second.height != out.height ||
            second.width != out.width)
          o.in2 = o.kind == flsp::kAdd ? o.in : -1;
      }
    }
    uint64_t at = 0;
    const uint64_t guard = chance(0.5) ? 32 : 0;
    std::vector<size_t> order(n.buffers.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::shuffle(order.begin(), order.end(), random_);
    for (const size_t i : order) {
      BufferRecord& b = n.buffers[i];
      const int64_t pixels = int64_t{b.height} * b.width;
      const int64_t plane = pixels == 1 ? 1 : (pixels + 15) / 16 * 16;
      if (plane <= 0 || b.channels <= 0 || b.channels > most / plane) return;
      b.offset = at;
      b.reserved = 0;
      at += static_cast<uint64_t>((b.channels * plane + 15) / 16 * 16) + guard;
    }
    n.header.arena_floats = at;
  }

  static bool along(int32_t in, int32_t& out, int32_t kernel, int32_t stride,
                    int32_t dilation, int32_t pad, int32_t far) {
    if (kernel < 1 || stride < 1 || dilation < 1) return false;
    const int64_t room = int64_t{in} + pad + far - (int64_t{kernel} - 1) * dilation - 1;
    if (room < 0 || room / stride >= 65536) return false;
    out = static_cast<int32_t>(room / stride) + 1;
    return true;
  }

  void follow(Network& n, OpRecord& o, const BufferRecord& in, const BufferRecord& second,
              BufferRecord& out) {
    const bool wide = chance(0.5);  // as wide as the input: kernels take rows together
    const auto far = [&](int32_t kernel, int32_t dilation, int32_t pad) {
      const int64_t same = (int64_t{kernel} - 1) * dilation - pad;
      if (wide && same >= 0 && same <= 4096) return static_cast<int32_t>(same);
      return chance(0.5) ? 0 : chance(0.5) ? std::clamp(pad, 0, 4096) : below(8);
    };
    Matrix* w = o.weight >= 0 && static_cast<size_t>(o.weight) < n.weights.size()
                    ? &n.weights[static_cast<size_t>(o.weight)]
                    : nullptr;
    const int64_t pixels = int64_t{in.height} * in.width;
    const int64_t all = std::abs(pixels) < 1 << 20 ? in.channels * pixels : 0;
    switch (o.kind) {
      case flsp::kConv:
      case flsp::kMaxPool:
      case flsp::kAveragePool: {
        if (o.kind == flsp::kMaxPool) o.dilation_w = 1;
        const bool fits =
            along(in.height, out.height, o.kernel_h, o.stride_h, o.dilation_h, o.pad_top,
                  far(o.kernel_h, o.dilation_h, o.pad_top)) &&
            along(in.width, out.width, o.kernel_w, o.stride_w, o.dilation_w, o.pad_left,
                  far(o.kernel_w, o.dilation_w, o.pad_left));
        if (!fits) {
          out.height = in.height;
          out.width = in.width;
          o.kernel_h = o.kernel_w = o.stride_h = o.stride_w = 1;
          o.dilation_h = o.dilation_w = 1;
          o.pad_top = o.pad_left = 0;
        }
        if (o.kind != flsp::kConv) out.channels = in.channels;
        if (o.kind != flsp::kConv || !w) return;
        o.groups = std::max(1, std::gcd(std::gcd(in.channels, out.channels), o.groups));
        if (w->record.encoding == flsp::kRows) w->record.encoding = flsp::kGaps;
        if (o.groups > 1) w->record.encoding = flsp::kGaps;
        if (o.groups > 1 || w->record.value_type != flsp::kInt8) o.input_scale = 0;
        return shape(*w, out.channels,
                     int64_t{in.channels / o.groups} * o.kernel_h * o.kernel_w);
      }
      case flsp::kLinear:
        out.height = out.width = 1;
        if (!w) return;
        if (w->record.encoding == flsp::kGroups) w->record.encoding = flsp::kRows;
        return shape(*w, out.channels, all);
      case flsp::kGlobalAverage:
        out = in;
        out.height = out.width = 1;
        return;
      case flsp::kPlace:
        out.height = in.height;
        out.width = in.width;
        o.extra = std::max(0, std::min(o.extra, 64));
        out.channels = std::max(out.channels, in.channels + o.extra);
        return;
      case flsp::kFlatten:
        if (all < 1 << 20) out.channels = static_cast<int32_t>(all);
        out.height = out.width = 1;
        return;
      case flsp::kAffine:
        out = in;
        if (!w) return;
        w->record.encoding = flsp::kRows;
        w->record.value_type = flsp::kFloat;
        return shape(*w, in.channels, 1);
      default:
        if (!follow_element(o, in, second, out)) out = in;
        if (w) fit(o, in, *w);
    }
  }

  // The weight of an operation on values, in the shape that it needs.
  void fit(const OpRecord& o, const BufferRecord& in, Matrix& w) {
    if (w.record.encoding == flsp::kGroups) w.record.encoding = flsp::kRows;
    if (o.kind == flsp::kSlope || o.kind == flsp::kColumnAffine) {
      w.record.encoding = flsp::kRows;
      w.record.value_type = flsp::kFloat;
      shape(w, o.kind == flsp::kSlope ? in.channels : in.width, 1);
    }
    if (o.kind == flsp::kRecurrent && o.extra >= 0 && o.extra % 16 < 4)
      shape(w, in.width, in.width / flsp::kGates[o.extra % 16]);
  }

  void shape(Matrix& m, int64_t rows, int64_t columns) {
    if (rows < 1 || columns < 1 || rows * columns > 1 << 17) return;
    const bool same = m.record.rows == rows && m.record.columns == columns &&
                      m.bias.size() == static_cast<size_t>(rows) * 4;
    m.record.rows = static_cast<int32_t>(rows);
    m.record.columns = static_cast<int32_t>(columns);
    if (!same || m.values.empty()) fill(m, false);
  }

  // Values for the record's shape, at a density of chance.
  void fill(Matrix& m, bool another) {
    if (another) {
      m.record.encoding = below(3);
      m.record.value_type = below(2);
    }
    const int64_t rows = m.record.rows, columns = m.record.columns;
    if (rows < 1 || columns < 1 || rows > (1 << 17) / columns) return;
    static const double densities[] = {0.0, 0.02, 0.1, 0.3, 0.6, 1.0};
    const double density = densities[below(6)];
    std::vector<float> values;
    m.gaps.clear();
    m.counts.clear();
    if (m.record.encoding == flsp::kGaps) {
      for (int64_t r = 0; r < rows; r++) {
        uint32_t stored = 0;
        int64_t last = 0;
        for (int64_t c = 0; c < columns; c++) {
          if (!chance(density)) continue;
          for (; c - last > 254; last += 255, stored++) {
            m.gaps.push_back(255);
            values.push_back(0.0f);
          }
          m.gaps.push_back(static_cast<uint8_t>(c - last));
          values.push_back(value());
          last = c;
          stored++;
        }
        const auto* bytes = reinterpret_cast<const uint8_t*>(&stored);
        m.counts.insert(m.counts.end(), bytes, bytes + 4);
      }
    } else {
      const int64_t padded = m.record.encoding == flsp::kGroups ? (rows + 3) / 4 * 4 : rows;
      for (int64_t i = 0; i < padded * columns; i++) values.push_back(value());
    }
    m.record.entries = values.size();
    if (m.record.value_type == flsp::kInt8) {
      m.values.clear();
      for (const float v : values) m.values.push_back(static_cast<uint8_t>(v * 127));
    } else {
      floats(m.values, values);
    }
    floats(m.scales, std::vector<float>(m.record.value_type ? rows : 0, 1.0f / 127));
    floats(m.bias, std::vector<float>(static_cast<size_t>(rows), value()));
  }

  static void floats(Bytes& to, const std::vector<float>& from) {
    to.resize(from.size() * 4);
    if (!from.empty()) std::memcpy(to.data(), from.data(), to.size());
  }

  // One number that the rest of the file does not bear out.
  void contradict(Network& n) {
    const auto word = [&](auto& record, size_t size_of) {
      auto* fields = reinterpret_cast<uint8_t*>(&record);
      const auto at = static_cast<size_t>(below(static_cast<int>(size_of / 4))) * 4;
      int32_t old;
      std::memcpy(&old, fields + at, 4);
      const auto now = static_cast<int32_t>(
          chance(0.3) ? int64_t{old} + below(5) - 2 : extreme());
      std::memcpy(fields + at, &now, 4);
    };
    switch (below(8)) {
      case 0: case 1: word(pick(n.ops), sizeof(OpRecord)); break;
      case 2: word(pick(n.buffers), sizeof(BufferRecord)); break;
      case 3:
        if (!n.weights.empty()) word(pick(n.weights).record, 24);
        break;
      case 4: {
        BufferRecord& b = pick(n.buffers);
        b.offset = static_cast<uint64_t>(below(64)) * 16;
        break;
      }
      case 5: n.header.arena_floats = static_cast<uint64_t>(extreme()); break;
      case 6: {
        if (n.weights.empty()) break;
        Matrix& m = pick(n.weights);
        Bytes& part = chance(0.5) ? m.gaps : m.counts;
        if (!part.empty()) pick(part) = static_cast<uint8_t>(extreme());
        break;
      }
      default:
        if (!n.weights.empty() && chance(0.5)) pick(n.ops).weight = below(static_cast<int>(n.weights.size()));
        else if (!n.meta.empty()) pick(n.meta) = static_cast<uint8_t>(below(256));
    }
  }

  void poke(Bytes& file) {
    if (file.size() < 88) return;
    const int room = static_cast<int>(file.size()) - 8;
    const bool head = chance(0.3);
    const auto at = static_cast<size_t>(head ? 4 + below(76) : below(room));
    const int64_t now = extreme();
    std::memcpy(&file[at], &now, chance(0.5) ? 1 : chance(0.5) ? 4 : 8);
  }
};

}  // namespace fuzz

#endif
