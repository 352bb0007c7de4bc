// The wire format of docs/wire-format.md: exact, self-describing, never trusting.
//
// Plain C++17 without TensorFlow, so that it can be fuzzed and reused alone. The pure
// TensorFlow twin is tem_tf/wire; both give the same words, and refuse the same payloads.
// Only messages of entries are written and read here, those of kind 0.

#ifndef TEM_TF_NATIVE_WIRE_CODE_H_
#define TEM_TF_NATIVE_WIRE_CODE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "wire_indices.h"
#include "wire_values.h"

namespace tem_tf {
namespace wire {

constexpr uint32_t kVersion = 3;
constexpr uint32_t kMagic = 0x54454D00 + kVersion;  // "TEM", then the version.
constexpr int64_t kHeaderWords = 6;

// Flags: "my gradient was not finite", "my batch was empty".
enum Flag { kNonfinite = 1, kEmpty = 2 };
constexpr int kAllFlags = kNonfinite | kEmpty;

// Why a payload is refused, or nothing; the same words as in tem_tf/wire.
using Refusal = std::string;

constexpr char kTooShort[] = "a payload is shorter than its header.";
constexpr char kNotOurs[] =
    "a payload is not of the wire format of tem_tf: do all workers run the same "
    "tem_tf?";
constexpr char kOtherSizes[] =
    "a payload is for a gradient of another size: do all workers train the same "
    "model?";
constexpr char kOtherValues[] =
    "the values of a payload are of another type: do all workers have the same "
    "value_dtype?";
constexpr char kBadCodes[] = "the header of a payload has codes that do not exist.";
constexpr char kBadLengths[] = "the lengths in the header of a payload do not agree.";
constexpr char kBadIndices[] =
    "the indices in a payload are not ascending numbers within the gradient, as many "
    "as its header says.";
constexpr char kBadValues[] =
    "unused bits of the values of a payload are not zero, or no scale is so.";

inline Refusal other_version(uint32_t version) {
  return "a payload is of wire format " + std::to_string(version) +
         "; this tem_tf reads " + std::to_string(kVersion) +
         ": do all workers run the same tem_tf?";
}

inline Refusal other_kind(uint32_t kind) {
  return "a payload has a message of kind " + std::to_string(kind) +
         " where one of kind 0 is read: do all workers have the same compressor?";
}

struct Header {
  int64_t words = 0;    // Length of the payload, padding excluded.
  int64_t size = 0;     // n
  int64_t count = 0;    // k
  int64_t block = 0;    // m
  int index_code = kGaps;
  int low_bits = 0;
  int flags = 0;
  ValueCode value;

  int64_t values() const { return index_code == kAll ? size : count; }
};

// The code of a message, from k and n alone: everything if that is no longer than any
// other, else a bitmap if it is no longer than gaps can be. In few bits there is no zero
// for what lies between the entries.
inline int choose_index_code(int64_t count, int64_t size, int value_type) {
  const int64_t gaps =
      count == 0 ? 0
                 : words_of_bits(gap_bits_at_most(count, size,
                                                  first_low_bits(count, size)));
  const int64_t bitmap = words_of_bits(size);
  if (value_words(size, value_type) <=
      value_words(count, value_type) + std::min(gaps, bitmap)) {
    return few_bits(value_type) != 0 && count < size ? kBitmap : kAll;
  }
  return bitmap <= gaps ? kBitmap : kGaps;
}

// Whether a message can be encoded: strictly ascending indices in [0, size).
inline bool ascending(const int32_t* indices, int64_t count, int64_t size) {
  int64_t previous = -1;
  bool good = true;
  for (int64_t i = 0; i < count; ++i) {
    good &= indices[i] > previous;
    previous = indices[i];
  }
  return good && previous < size;
}

// The header of a message whose indices are `ascending`, or shared. `value.scale` is the
// spread of few bits, and otherwise found here.
inline Header plan(const float* values, const int32_t* indices, bool shared,
                   int64_t count, int64_t size, int64_t block, const ValueCode& value,
                   int flags) {
  Header header;
  header.size = size;
  header.block = block;
  header.value = value;
  header.flags = flags;
  header.count = count;
  header.index_code =
      shared ? kShared : choose_index_code(count, size, value.type);
  int64_t index_bits = 0;
  if (header.index_code == kGaps && count > 0) {
    header.low_bits = choose_low_bits(indices, count, size, &index_bits);
  } else if (header.index_code == kBitmap) {
    index_bits = size;
  }
  if (value.type == kFloat16) header.value.scale = half_scale(values, count);
  header.words = kHeaderWords + words_of_bits(index_bits) +
                 value_words(header.values(), value.type) + block;
  return header;
}

inline uint32_t pack_codes(const Header& header) {
  return static_cast<uint32_t>(header.index_code | (header.value.type << 4) |
                               (header.low_bits << 8) | (header.flags << 16)) |
         (static_cast<uint32_t>(header.value.scale) << 24);
}

// Writes `header.words` words. `scales` are those of groups in few bits; `dense` is room
// for n floats, needed for kAll alone.
inline void write(const Header& header, const float* values, const float* scales,
                  const int32_t* indices, int64_t count, const float* block,
                  float* dense, uint32_t* words) {
  const uint32_t start[kHeaderWords] = {kMagic,
                                        static_cast<uint32_t>(header.words),
                                        static_cast<uint32_t>(header.size),
                                        static_cast<uint32_t>(header.count),
                                        static_cast<uint32_t>(header.block),
                                        pack_codes(header)};
  std::copy_n(start, kHeaderWords, words);
  uint32_t* tail = words + header.words - header.block;
  uint32_t* body = tail - value_words(header.values(), header.value.type);
  if (header.index_code == kGaps) {
    write_gaps(indices, count, header.low_bits, words + kHeaderWords);
  } else if (header.index_code == kBitmap) {
    write_bitmap(indices, count, header.size, words + kHeaderWords);
  } else if (header.index_code == kAll && count < header.size) {
    std::fill_n(dense, header.size, 0.0f);
    for (int64_t i = 0; i < count; ++i) dense[indices[i]] = values[i];
    values = dense;
  }
  write_values(values, header.values(), header.value, scales, body);
  if (header.block > 0) std::memcpy(tail, block, header.block * sizeof(float));
}

// Reads and checks the header of a payload of `length` words, padding included.
// `shared_count` is the number of shared indices, or -1 where the payload must bring
// its own.
inline Refusal read_header(const uint32_t* words, int64_t length, int64_t size,
                           int64_t block, const ValueCode& expected,
                           int64_t shared_count, Header* header) {
  if (length < kHeaderWords) return kTooShort;
  if ((words[0] ^ kMagic) > 255) return kNotOurs;
  if (words[0] != kMagic) return other_version(words[0] & 255);
  header->words = static_cast<int32_t>(words[1]);
  header->size = static_cast<int32_t>(words[2]);
  header->count = static_cast<int32_t>(words[3]);
  header->block = static_cast<int32_t>(words[4]);
  header->index_code = words[5] & 15;
  header->value = expected;
  const int value_type = (words[5] >> 4) & 15;
  header->low_bits = (words[5] >> 8) & 255;
  header->flags = (words[5] >> 16) & 15;
  const uint32_t kind = (words[5] >> 20) & 15;
  const int scale = header->value.scale = static_cast<int32_t>(words[5]) >> 24;
  if (kind != 0) return other_kind(kind);
  if (header->size != size || header->block != block) return kOtherSizes;
  if (value_type != expected.type) return kOtherValues;
  const bool half = value_type == kFloat16, few = few_bits(value_type) != 0;
  if (header->index_code > kShared || header->flags > kAllFlags ||
      header->low_bits > (header->index_code == kGaps ? kMaximalLowBits : 0) ||
      scale < (half ? kLeastScale : few ? kLeastSpread : 0) ||
      scale > (half ? kGreatestScale : few ? kGreatestSpread : 0) ||
      (header->index_code == kShared) != (shared_count >= 0)) {
    return kBadCodes;
  }
  const int64_t count = header->count;
  if (count < 0 || count > size || header->words > length ||
      (few && header->index_code == kAll && count < size) ||
      (shared_count >= 0 && count != shared_count)) {
    return kBadLengths;
  }
  const int64_t index_words =
      header->words - kHeaderWords - value_words(header->values(), value_type) - block;
  const bool fits =
      header->index_code == kGaps
          ? index_words >= 0 &&
                index_words <= words_of_bits(gap_bits_at_most(count, size,
                                                              header->low_bits))
          : index_words == (header->index_code == kBitmap ? words_of_bits(size) : 0);
  return fits ? Refusal() : kBadLengths;
}

// Where the words of a payload lie whose header `read_header` accepted.
struct Parts {
  Parts(const Header& header, const uint32_t* words)
      : indices(words + kHeaderWords),
        values(words + header.words - header.block -
               value_words(header.values(), header.value.type)),
        block(words + header.words - header.block) {}

  const uint32_t *indices, *values, *block;
};

// Reads the indices of such a payload, `header.count` of them with kGaps and kBitmap and
// none else, and checks what is left to be checked: values and block are then good.
inline Refusal read_indices(const Header& header, const uint32_t* words,
                            int32_t* indices) {
  const Parts parts(header, words);
  bool good = true;
  if (header.index_code == kGaps) {
    good = read_gaps(parts.indices, parts.values - parts.indices, header.count,
                     header.size, header.low_bits, indices);
  } else if (header.index_code == kBitmap) {
    good = read_bitmap(parts.indices, header.count, header.size, indices);
  }
  if (!good) return kBadIndices;
  good = good_values(parts.values, header.values(), header.value.type);
  return good ? Refusal() : kBadValues;
}

// Reads all that follows such a header: `header.values()` values, as many indices unless
// they are shared, m floats.
inline Refusal read_body(const Header& header, const uint32_t* words, float* values,
                         int32_t* indices, float* block) {
  Refusal why = read_indices(header, words, indices);
  if (!why.empty()) return why;
  if (header.index_code == kAll) {
    for (int64_t i = 0; i < header.size; ++i) indices[i] = static_cast<int32_t>(i);
  }
  const Parts parts(header, words);
  read_values(parts.values, header.values(), 0, header.values(), header.value, values);
  if (header.block > 0) std::memcpy(block, parts.block, header.block * sizeof(float));
  return why;
}

}  // namespace wire
}  // namespace tem_tf

#endif  // TEM_TF_NATIVE_WIRE_CODE_H_
