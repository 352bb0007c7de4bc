// Values in 1, 2, 4 or 8 bits: a sign, and one of few magnitudes times a group's mean.
//
// The grid comes from tem_tf/wire/few_bits.py, which is the twin of the rest.

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

inline int64_t scale_words(int64_t count) {
  return ((count + kGroup - 1) / kGroup + 1) / 2;
}

inline int64_t code_words(int64_t count, int bits) {
  return (count * bits + 31) / 32;
}

// The magnitudes that codes stand for, in units of their group's scale.
struct Levels {
  // `offsets` are e_i - 1, 2^(bits-1) of them.
  Levels(const float* offsets, int bits, int spread) : count(1 << (bits - 1)) {
    const float density = static_cast<float>(spread) * 0x1p-7f;
    for (int i = 0; i < count; ++i) {
      const float exact = 1.0f + density * offsets[i];
      magnitudes[i] = std::floor(exact * 4096.0f + 0.5f) * 0x1p-12f;
    }
    for (int i = 0; i + 1 < count; ++i) {
      const float sum = magnitudes[i] + magnitudes[i + 1];
      middles[i] = sum * 0.5f;
    }
  }

  // The level nearest to a magnitude: how many middles do not exceed it.
  int nearest(float magnitude) const {
    if (count <= 8) {
      int level = 0;
      for (int i = 0; i + 1 < count; ++i) level += magnitude >= middles[i];
      return level;
    }
    return std::upper_bound(middles, middles + count - 1, magnitude) - middles;
  }

  int count;
  float magnitudes[kMostLevels], middles[kMostLevels];
};

// Writes `count` values as the words of their groups' scales and of their codes.
inline void write_few_bits(const float* values, int64_t count, const float* scales,
                           const Levels& levels, int bits, uint32_t* words) {
  const int64_t groups = (count + kGroup - 1) / kGroup;
  uint32_t* codes = words + scale_words(count);
  std::fill(words, codes + code_words(count, bits), 0u);
  for (int64_t g = 0; g < groups; ++g) {
    uint32_t scale_bits;
    std::memcpy(&scale_bits, scales + g, sizeof(scale_bits));
    words[g / 2] |= (scale_bits >> 16) << (16 * (g % 2));
    const float divisor = scales[g] > 0 ? scales[g] : 1.0f;
    const int64_t end = std::min(count, (g + 1) * kGroup);
    for (int64_t i = g * kGroup; i < end; ++i) {
      const uint32_t sign = values[i] < 0 && scales[g] > 0 ? levels.count : 0;
      const uint32_t code = levels.nearest(std::fabs(values[i]) / divisor) | sign;
      codes[i * bits / 32] |= code << (i * bits % 32);
    }
  }
}

// Reads `count` values from the value numbered `first` on, of `all`.
inline void read_few_bits(const uint32_t* words, int64_t all, int64_t first,
                          int64_t count, const Levels& levels, int bits,
                          float* values) {
  const uint32_t* codes = words + scale_words(all);
  const uint32_t mask = (1u << bits) - 1, sign = levels.count;
  float scale = 0;
  int64_t group = -1;
  for (int64_t i = first; i < first + count; ++i) {
    if (i / kGroup != group) {
      group = i / kGroup;
      const uint32_t scale_bits = words[group / 2] >> (16 * (group % 2)) << 16;
      std::memcpy(&scale, &scale_bits, sizeof(scale));
    }
    const uint32_t code = (codes[i * bits / 32] >> (i * bits % 32)) & mask;
    const float value = levels.magnitudes[code & (sign - 1)] * scale;
    *values++ = (code & sign) != 0 ? -value : value;
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
