// Adds payloads up in the places of the variables: vector n lies in pieces.
//
// Plain C++17 without TensorFlow, as wire_code.h, so that it is fuzzed with it.

#ifndef TEM_TF_NATIVE_WIRE_SUM_H_
#define TEM_TF_NATIVE_WIRE_SUM_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "wire_code.h"

namespace tem_tf {
namespace wire {

// Where each variable begins in the packed vector, the end of the last, and where each
// lies in memory.
struct Places {
  std::vector<int64_t> offsets{0};
  std::vector<float*> begins;

  void add(float* begin, int64_t size) {
    begins.push_back(begin);
    offsets.push_back(offsets.back() + size);
  }
};

// Values are decoded so many at a time; 16 KiB stay in a core's own cache.
constexpr int64_t kValuesAtOnce = 4096;

// Adds the values of a payload at `indices`, of which there are as many, all within the
// vector. In any order; ascending ones find their variable at once.
inline void add_entries(const Header& header, const uint32_t* words,
                        const int32_t* indices, const Places& places) {
  const Parts parts(header, words);
  float values[kValuesAtOnce];
  int64_t begin = 0, end = 0;  // Of the variable that `sums` is of.
  float* sums = nullptr;
  for (int64_t first = 0; first < header.count; first += kValuesAtOnce) {
    const int64_t count = std::min(kValuesAtOnce, header.count - first);
    read_values(parts.values, header.count, first, count, header.value, values);
    for (int64_t j = 0; j < count; ++j) {
      const int64_t index = indices[first + j];
      if (index < begin || index >= end) {
        const auto& offsets = places.offsets;
        const size_t variable =
            std::upper_bound(offsets.begin(), offsets.end(), index) - offsets.begin() - 1;
        begin = offsets[variable];
        end = offsets[variable + 1];
        sums = places.begins[variable];
      }
      sums[index - begin] += values[j];
    }
  }
}

// Adds values [first, first + count) of a payload in which all travel to `sums`.
inline void add_stretch(const Header& header, const uint32_t* words, int64_t first,
                        int64_t count, float* sums) {
  const Parts parts(header, words);
  float values[kValuesAtOnce];
  for (int64_t at = 0; at < count; at += kValuesAtOnce) {
    const int64_t some = std::min(kValuesAtOnce, count - at);
    read_values(parts.values, header.size, first + at, some, header.value, values);
    for (int64_t j = 0; j < some; ++j) sums[at + j] += values[j];
  }
}

}  // namespace wire
}  // namespace tem_tf

#endif  // TEM_TF_NATIVE_WIRE_SUM_H_
