// Values in 1, 2, 4 or 8 bits: a sign, and one of few magnitudes times a group's mean.
//
// Their twin is tem_tf/wire/few_bits.py; the grid is found in round_op.cc.

#ifndef TEM_TF_NATIVE_WIRE_FEW_BITS_H_
#define TEM_TF_NATIVE_WIRE_FEW_BITS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace tem_tf {
namespace wire {

constexpr int64_t kGroup = 64;  // Values that share a scale.
constexpr int kLeastSpread = 1, kGreatestSpread = 127;
// Scales as bfloat16: 2^-119 and 2^123.
constexpr uint32_t kLeastGroupScale = 0x0400, kGreatestGroupScale = 0x7d00;
constexpr int kMostLevels = 128;
// Where the search for one of many levels begins: stretches of 1/256, up to 16.
constexpr int kStarts = 4096;
constexpr float kStartsPerUnit = 256.0f;

inline int64_t scale_words(int64_t count) {
  return ((count + kGroup - 1) / kGroup + 1) / 2;
}

inline int64_t code_words(int64_t count, int bits) {
  return (count * bits + 31) / 32;
}

// The magnitudes that codes stand for, in units of their group's scale.
struct Levels {
  // `offsets` are e_i - 1, 2^(bits-1) of them. `to_write`: whether the nearest is asked
  // for, and not values alone.
  Levels(const float* offsets, int bits, int spread, bool to_write)
      : count(1 << (bits - 1)) {
    const float density = static_cast<float>(spread) * 0x1p-7f;
    for (int i = 0; i < count; ++i) {
      const float exact = 1.0f + density * offsets[i];
      magnitudes[i] = std::floor(exact * 4096.0f + 0.5f) * 0x1p-12f;
    }
    for (int i = 0; i + 1 < count; ++i) {
      const float sum = magnitudes[i] + magnitudes[i + 1];
      middles[i] = sum * 0.5f;
    }
    if (count <= 8 || !to_write) return;
    for (int j = 0; j < kStarts; ++j) {
      const float from = static_cast<float>(j) / kStartsPerUnit;
      starts[j] = std::upper_bound(middles, middles + count - 1, from) - middles;
    }
  }

  // The levels nearest to magnitudes of up to a group: how many middles do not exceed
  // each.
  void nearest(const float* of, int64_t number, int32_t* level) const {
    switch (count) {
      case 1:
        return compare<1>(of, number, level);
      case 2:
        return compare<2>(of, number, level);
      case 8:
        return compare<8>(of, number, level);
      default:
        for (int64_t i = 0; i < number; ++i) level[i] = search(of[i]);
    }
  }

  template <int kCount>
  void compare(const float* of, int64_t number, int32_t* level) const {
    for (int64_t i = 0; i < number; ++i) {
      int32_t found = 0;
      for (int j = 0; j + 1 < kCount; ++j) found += of[i] >= middles[j];
      level[i] = found;
    }
  }

  int search(float magnitude) const {
    const float at = magnitude * kStartsPerUnit;
    int level = starts[at < kStarts ? static_cast<int>(at) : kStarts - 1];
    while (level + 1 < count && magnitude >= middles[level]) ++level;
    return level;
  }

  int count;
  float magnitudes[kMostLevels], middles[kMostLevels];
  uint8_t starts[kStarts];  // The level of the least magnitude of each stretch.
};

// The codes of the values of one group.
inline void codes_of(const float* values, int64_t number, float scale,
                     const Levels& levels, int32_t* codes) {
  float relative[kGroup];
  const float divisor = scale > 0 ? scale : 1.0f;
  for (int64_t i = 0; i < number; ++i) relative[i] = std::fabs(values[i]) / divisor;
  levels.nearest(relative, number, codes);
  const int32_t sign = scale > 0 ? levels.count : 0;
  for (int64_t i = 0; i < number; ++i) codes[i] |= values[i] < 0 ? sign : 0;
}

// The values of the codes of one group.
inline void values_of(const int32_t* codes, int64_t number, float scale,
                      const Levels& levels, float* values) {
  const int32_t sign = levels.count;
  for (int64_t i = 0; i < number; ++i) {
    const float value = levels.magnitudes[codes[i] & (sign - 1)] * scale;
    values[i] = (codes[i] & sign) != 0 ? -value : value;
  }
}

// Of so many bits each, end to end; those of a group begin with a word.
template <int kBits>
inline void pack_group(const int32_t* codes, int64_t number, uint32_t* words) {
  constexpr int kAtOnce = 32 / kBits;
  for (int64_t first = 0; first < number; first += kAtOnce) {
    uint32_t word = 0;
    const int64_t end = std::min<int64_t>(number - first, kAtOnce);
    for (int64_t j = 0; j < end; ++j) {
      word |= static_cast<uint32_t>(codes[first + j]) << (j * kBits);
    }
    *words++ = word;
  }
}

template <int kBits>
inline void unpack_group(const uint32_t* words, int64_t number, int32_t* codes) {
  constexpr int kAtOnce = 32 / kBits;
  constexpr uint32_t kMask = (1u << kBits) - 1;
  for (int64_t first = 0; first < number; first += kAtOnce) {
    const uint32_t word = *words++;
    for (int j = 0; j < kAtOnce; ++j) {  // Beyond the number, too: there is room.
      codes[first + j] = (word >> (j * kBits)) & kMask;
    }
  }
}

inline void pack(const int32_t* codes, int64_t number, int bits, uint32_t* words) {
  switch (bits) {
    case 1:
      return pack_group<1>(codes, number, words);
    case 2:
      return pack_group<2>(codes, number, words);
    case 4:
      return pack_group<4>(codes, number, words);
    default:
      return pack_group<8>(codes, number, words);
  }
}

inline void unpack(const uint32_t* words, int64_t number, int bits, int32_t* codes) {
  switch (bits) {
    case 1:
      return unpack_group<1>(words, number, codes);
    case 2:
      return unpack_group<2>(words, number, codes);
    case 4:
      return unpack_group<4>(words, number, codes);
    default:
      return unpack_group<8>(words, number, codes);
  }
}

// Writes `count` values as the words of their groups' scales and of their codes.
inline void write_few_bits(const float* values, int64_t count, const float* scales,
                           const Levels& levels, int bits, uint32_t* words) {
  const int64_t groups = (count + kGroup - 1) / kGroup;
  const int64_t words_of_group = kGroup * bits / 32;
  uint32_t* codes = words + scale_words(count);
  std::fill(words, codes, 0u);
  int32_t of_group[kGroup];
  for (int64_t g = 0; g < groups; ++g) {
    uint32_t scale_bits;
    std::memcpy(&scale_bits, scales + g, sizeof(scale_bits));
    words[g / 2] |= (scale_bits >> 16) << (16 * (g % 2));
    const int64_t number = std::min(kGroup, count - g * kGroup);
    codes_of(values + g * kGroup, number, scales[g], levels, of_group);
    pack(of_group, number, bits, codes + g * words_of_group);
  }
}

// Reads `count` values from the value numbered `first` on, of `all`.
inline void read_few_bits(const uint32_t* words, int64_t all, int64_t first,
                          int64_t count, const Levels& levels, int bits,
                          float* values) {
  const uint32_t* codes = words + scale_words(all);
  const int64_t words_of_group = kGroup * bits / 32, end = first + count;
  int32_t of_group[kGroup];
  for (int64_t at = first; at < end;) {
    const int64_t g = at / kGroup, begin = at - g * kGroup;
    const int64_t number = std::min(kGroup, all - g * kGroup);
    const int64_t wanted = std::min(number - begin, end - at);
    unpack(codes + g * words_of_group, number, bits, of_group);
    const uint32_t scale_bits = words[g / 2] >> (16 * (g % 2)) << 16;
    float scale;
    std::memcpy(&scale, &scale_bits, sizeof(scale));
    values_of(of_group + begin, wanted, scale, levels, values);
    values += wanted;
    at += wanted;
  }
}

// Whether scales are such as are written, and unused bits 0.
inline bool good_few_bits(const uint32_t* words, int64_t count, int bits) {
  const int64_t groups = (count + kGroup - 1) / kGroup, ends = scale_words(count);
  bool good = true;
  for (int64_t g = 0; g < 2 * ends; ++g) {
    const uint32_t scale = (words[g / 2] >> (16 * (g % 2))) & 0xffffu;
    const bool known = scale >= kLeastGroupScale && scale <= kGreatestGroupScale;
    good &= scale == 0 || (known && g < groups);
  }
  const int64_t used = count * bits % 32;
  if (used != 0) good &= words[ends + code_words(count, bits) - 1] >> used == 0;
  return good;
}

}  // namespace wire
}  // namespace tem_tf

#endif  // TEM_TF_NATIVE_WIRE_FEW_BITS_H_
