// Values on the wire: float32, bfloat16, float16 with a shared power of two, few bits.
//
// Integer arithmetic, so that the compiler's and the processor's ideas of rounding,
// subnormals and NaN do not matter. tem_tf/wire/value_types.py is the twin.

#ifndef TEM_TF_NATIVE_WIRE_VALUES_H_
#define TEM_TF_NATIVE_WIRE_VALUES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "wire_few_bits.h"

namespace tem_tf {
namespace wire {

enum ValueType {
  kFloat32 = 0,
  kBfloat16 = 1,
  kFloat16 = 2,
  kInt8 = 3,
  kInt4 = 4,
  kInt2 = 5,
  kSign = 6,
};

// Bits of a value in few bits; 0 of the others.
inline int few_bits(int value_type) {
  return value_type >= kInt8 ? 8 >> (value_type - kInt8) : 0;
}

// How the values of a message are written and read.
struct ValueCode {
  int type = kFloat32;
  int scale = 0;                   // s of float16, the spread of few bits, else 0.
  const float* levels = nullptr;  // e_i - 1, of few bits.
};

// Exponents of the power of two that float16 values share: the least for which every
// float16 decodes to a normal float32 or zero, and that of the largest float32.
constexpr int kLeastScale = -101;
constexpr int kGreatestScale = 113;

inline int64_t value_words(int64_t count, int value_type) {
  const int bits = few_bits(value_type);
  if (bits != 0) return scale_words(count) + code_words(count, bits);
  return value_type == kFloat32 ? count : (count + 1) / 2;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float power_of_two(int exponent) {
  return float_of(static_cast<uint32_t>(exponent + 127) << 23);
}

// Finite values beyond the largest of the type become that one.
inline uint32_t saturated(uint32_t magnitude, uint32_t largest) {
  return magnitude < 0x7f800000u ? std::min(magnitude, largest) : magnitude;
}

inline uint32_t to_bfloat16(float value) {
  const uint32_t bits = bits_of(value);
  uint32_t magnitude = saturated(bits & 0x7fffffffu, 0x7f7f0000u);
  const uint32_t nan = magnitude > 0x7f800000u;
  magnitude = magnitude < 0x00800000u ? 0 : magnitude;  // Subnormals count as zero.
  const uint32_t rounded = (magnitude + 0x7fffu + ((magnitude >> 16) & 1u)) >> 16;
  return (nan ? 0x7fc0u : rounded) | ((bits >> 16) & 0x8000u);
}

inline float from_bfloat16(uint32_t code) { return float_of(code << 16); }

constexpr uint32_t kLargestScaledHalf = 0x7f7fe000u;  // (2 - 2^-10)·2^127

// From the exponent of the largest magnitude, after rounding to 11 bits, so that
// rounding twice is rounding once. The largest then lies in [2^14, 2^15).
inline int half_scale(const float* values, int64_t count) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    largest = std::max(largest, bits_of(values[i]) & 0x7fffffffu);
  }
  largest = std::min(saturated(largest, kLargestScaledHalf), 0x7f800000u);
  const uint32_t rounded = largest + 0xfffu + ((largest >> 13) & 1u);
  const int exponent = static_cast<int>(rounded >> 23) - 127;
  return std::min(std::max(exponent - 14, kLeastScale), kGreatestScale);
}

inline uint32_t to_half(float value, float inverse_scale) {
  const uint32_t bits = bits_of(value);
  const uint32_t magnitude = saturated(bits & 0x7fffffffu, kLargestScaledHalf);
  const float scaled = float_of(magnitude) * inverse_scale;
  const uint32_t s = bits_of(scaled) & 0x7fffffffu;
  // Below 2^-14 a half is a multiple of 2^-24, as is a float in [0.5, 1).
  const uint32_t small =
      bits_of(float_of(std::min(s, 0x38800000u)) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (s + 0xfffu + ((s >> 13) & 1u) - 0x38000000u) >> 13;
  const uint32_t finite = s < 0x38800000u ? small : normal;
  const uint32_t half =
      s > 0x7f800000u ? 0x7e00u : std::min(finite, 0x7c00u);
  return half | ((bits >> 16) & 0x8000u);
}

inline float from_half(uint32_t code, float scale) {
  const uint32_t magnitude = code & 0x7fffu;
  const float small = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  const uint32_t offset = magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u;
  const float normal = float_of((magnitude << 13) + offset);
  const float value = (magnitude < 0x0400u ? small : normal) * scale;
  return float_of(bits_of(value) | ((code & 0x8000u) << 16));
}

// Writes `count` values as words; `scales` are those of groups in few bits.
inline void write_values(const float* values, int64_t count, const ValueCode& how,
                         const float* scales, uint32_t* words) {
  if (how.type == kFloat32) {
    if (count > 0) std::memcpy(words, values, count * sizeof(float));
    return;
  }
  const int bits = few_bits(how.type);
  if (bits != 0) {
    const Levels levels(how.levels, bits, how.scale, true);
    return write_few_bits(values, count, scales, levels, bits, words);
  }
  const float inverse = power_of_two(-how.scale);
  const auto code = [&](float value) {
    return how.type == kBfloat16 ? to_bfloat16(value) : to_half(value, inverse);
  };
  for (int64_t i = 0; i + 1 < count; i += 2) {
    words[i / 2] = code(values[i]) | (code(values[i + 1]) << 16);
  }
  if (count % 2 != 0) words[count / 2] = code(values[count - 1]);
}

// Reads `count` values from the value numbered `first` on, of `all`.
inline void read_values(const uint32_t* words, int64_t all, int64_t first,
                        int64_t count, const ValueCode& how, float* values) {
  if (how.type == kFloat32) {
    if (count > 0) std::memcpy(values, words + first, count * sizeof(float));
    return;
  }
  const int bits = few_bits(how.type);
  if (bits != 0) {
    const Levels levels(how.levels, bits, how.scale, false);
    return read_few_bits(words, all, first, count, levels, bits, values);
  }
  const float factor = power_of_two(how.scale);
  for (int64_t i = first; i < first + count; ++i) {
    const uint32_t code = (words[i / 2] >> (16 * (i % 2))) & 0xffffu;
    *values++ = how.type == kBfloat16 ? from_bfloat16(code) : from_half(code, factor);
  }
}

// Whether `write_values` can have written the words of so many values.
inline bool good_values(const uint32_t* words, int64_t count, int value_type) {
  const int bits = few_bits(value_type);
  if (bits != 0) return good_few_bits(words, count, bits);
  return value_type == kFloat32 || count % 2 == 0 || words[count / 2] >> 16 == 0;
}

}  // namespace wire
}  // namespace tem_tf

#endif  // TEM_TF_NATIVE_WIRE_VALUES_H_
