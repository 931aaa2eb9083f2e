// A .flsp file as values that can be changed and written again, checksum included: the
// fuzzer's own reader and writer, which trust nothing and check nothing.
#ifndef FLSP_BYTES_H
#define FLSP_BYTES_H

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "format.h"

namespace fuzz {

using Bytes = std::vector<uint8_t>;

// One weight's record and its arrays, in the order of the record's offsets.
struct Matrix {
  flsp::WeightRecord record{};
  Bytes values, gaps, counts, scales, bias;
};

struct Network {
  flsp::Header header{};
  std::vector<flsp::BufferRecord> buffers;
  std::vector<Matrix> weights;
  std::vector<flsp::OpRecord> ops;
  Bytes meta;
};

inline uint32_t crc32(const uint8_t* data, size_t size) {
  static const auto table = [] {
    std::vector<uint32_t> made(256);
    for (uint32_t i = 0; i < 256; i++) {
      made[i] = i;
      for (int k = 0; k < 8; k++) made[i] = made[i] & 1 ? 0xEDB88320u ^ (made[i] >> 1) : made[i] >> 1;
    }
    return made;
  }();
  const uint32_t* step = table.data();
  uint32_t crc = 0xFFFFFFFFu;
  for (size_t i = 0; i < size; i++) crc = step[(crc ^ data[i]) & 255] ^ (crc >> 8);
  return ~crc;
}

inline void seal(Bytes& file) {
  if (file.size() < sizeof(flsp::Header)) return;
  const uint32_t crc = crc32(&file[80], file.size() - 80);
  std::memcpy(&file[offsetof(flsp::Header, crc)], &crc, 4);
}

// `count` bytes at an offset; none where the file does not hold them.
inline Bytes cut(const Bytes& file, uint64_t at, uint64_t count) {
  if (at > file.size() || count > file.size() - at) return {};
  return Bytes(file.begin() + static_cast<ptrdiff_t>(at),
               file.begin() + static_cast<ptrdiff_t>(at + count));
}

template <class T>
std::optional<std::vector<T>> table(const Bytes& file, uint64_t at, uint32_t count) {
  if (count > 4096) return {};
  const Bytes found = cut(file, at, uint64_t{count} * sizeof(T));
  if (found.size() != count * sizeof(T)) return {};
  std::vector<T> out(count);
  if (count) std::memcpy(out.data(), found.data(), found.size());
  return out;
}

inline std::optional<Network> read(const Bytes& file) {
  Network n;
  if (file.size() < sizeof n.header) return {};
  std::memcpy(&n.header, file.data(), sizeof n.header);
  const flsp::Header& h = n.header;
  const auto buffers = table<flsp::BufferRecord>(file, h.buffers_at, h.buffers);
  const auto weights = table<flsp::WeightRecord>(file, h.weights_at, h.weights);
  const auto ops = table<flsp::OpRecord>(file, h.ops_at, h.ops);
  if (!buffers || !weights || !ops || buffers->empty() || ops->empty()) return {};
  n.buffers = *buffers;
  n.ops = *ops;
  for (const flsp::WeightRecord& r : *weights) {
    const uint64_t entries = std::min<uint64_t>(r.entries, file.size());
    const uint64_t rows = static_cast<uint64_t>(std::clamp<int64_t>(r.rows, 0, 1 << 20));
    const bool sparse = r.encoding == flsp::kGaps, small = r.value_type == flsp::kInt8;
    n.weights.push_back({r, cut(file, r.values_at, entries * (small ? 1 : 4)),
                         sparse ? cut(file, r.gaps_at, entries) : Bytes{},
                         sparse ? cut(file, r.counts_at, rows * 4) : Bytes{},
                         small ? cut(file, r.scales_at, rows * 4) : Bytes{},
                         cut(file, r.bias_at, rows * 4)});
  }
  n.meta = cut(file, h.meta_at, h.meta_bytes);
  return n;
}

inline uint64_t append(Bytes& file, const void* data, size_t size) {
  file.resize((file.size() + 63) / 64 * 64);
  const uint64_t at = file.size();
  const auto* from = static_cast<const uint8_t*>(data);
  file.insert(file.end(), from, from + size);
  return at;
}

inline Bytes write(Network n) {
  Bytes file(sizeof(flsp::Header));
  std::vector<flsp::WeightRecord> records;
  for (Matrix& m : n.weights) {
    const auto put = [&](const Bytes& part) {
      return append(file, part.data(), part.size());
    };
    m.record.values_at = put(m.values);
    m.record.gaps_at = put(m.gaps);
    m.record.counts_at = put(m.counts);
    m.record.scales_at = put(m.scales);
    m.record.bias_at = put(m.bias);
    records.push_back(m.record);
  }
  flsp::Header& h = n.header;
  h.buffers = static_cast<uint32_t>(n.buffers.size());
  h.weights = static_cast<uint32_t>(records.size());
  h.ops = static_cast<uint32_t>(n.ops.size());
  h.buffers_at = append(file, n.buffers.data(), n.buffers.size() * sizeof n.buffers[0]);
  h.weights_at = append(file, records.data(), records.size() * sizeof records[0]);
  h.ops_at = append(file, n.ops.data(), n.ops.size() * sizeof n.ops[0]);
  h.meta_at = append(file, n.meta.data(), n.meta.size());
  h.meta_bytes = n.meta.size();
  h.file_bytes = file.size();
  std::memcpy(file.data(), &h, sizeof h);
  seal(file);
  return file;
}

}  // namespace fuzz

#endif
