// Ascending indices on the wire: gaps in a Rice code, or a bitmap.
//
// A gap g is its l low bits, and g >> l in unary. That is never longer than Elias-Fano
// with the same l, since whole 2^l are counted gap by gap and not in the last index.
// tem_tf/wire/index_codes.py is the twin.

#ifndef TEM_TF_NATIVE_WIRE_INDICES_H_
#define TEM_TF_NATIVE_WIRE_INDICES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace tem_tf {
namespace wire {

// The code of the indices: ascending numbers in [0, n).
enum IndexCode { kGaps = 0, kBitmap = 1, kAll = 2, kShared = 3 };

constexpr int kMaximalLowBits = 30;

inline int64_t words_of_bits(int64_t bits) { return (bits + 31) / 32; }

// The l of Elias-Fano: the largest with k·2^l <= n - k, 0 if there is none.
inline int first_low_bits(int64_t count, int64_t size) {
  int low_bits = 0;
  while (low_bits < kMaximalLowBits && count > 0 &&
         (count << (low_bits + 1)) <= size - count) {
    ++low_bits;
  }
  return low_bits;
}

// Bits that k gaps can take at most: k·l low bits, k ones, and one zero for each whole
// 2^l in the sum of the gaps, which is n - k at most.
inline int64_t gap_bits_at_most(int64_t count, int64_t size, int low_bits) {
  return count * (low_bits + 1) + ((size - count) >> low_bits);
}

inline int64_t gap_bits(const int32_t* indices, int64_t count, int low_bits) {
  int64_t bits = count * (low_bits + 1);
  int32_t previous = -1;
  for (int64_t i = 0; i < count; ++i) {
    bits += (indices[i] - previous - 1) >> low_bits;
    previous = indices[i];
  }
  return bits;
}

// The l that takes the fewest bits for these gaps, the smaller one of two. The number
// of bits is convex in l, so going down from one above Elias-Fano's finds it.
inline int choose_low_bits(const int32_t* indices, int64_t count, int64_t size,
                           int64_t* bits) {
  int low_bits = std::min(first_low_bits(count, size) + 1, kMaximalLowBits);
  *bits = gap_bits(indices, count, low_bits);
  while (low_bits > 0) {
    const int64_t fewer = gap_bits(indices, count, low_bits - 1);
    if (fewer > *bits) break;
    *bits = fewer;
    --low_bits;
  }
  return low_bits;
}

// Appends bits to words, from the least significant on.
class BitWriter {
 public:
  explicit BitWriter(uint32_t* words) : words_(words) {}

  void put(uint64_t value, int width) {  // width <= 31
    pending_ |= value << filled_;
    filled_ += width;
    if (filled_ >= 32) flush();
  }

  void zeros(int64_t count) {
    for (; count >= 32; count -= 31) put(0, 31);
    put(0, static_cast<int>(std::min<int64_t>(count, 31)));
  }

  void finish() {
    if (filled_ > 0) flush();
  }

 private:
  void flush() {
    *words_++ = static_cast<uint32_t>(pending_);
    pending_ >>= 32;
    filled_ = std::max(filled_ - 32, 0);
  }

  uint32_t* words_;
  uint64_t pending_ = 0;
  int filled_ = 0;
};

inline void write_gaps(const int32_t* indices, int64_t count, int low_bits,
                       uint32_t* words) {
  BitWriter writer(words);
  const uint32_t mask = (1u << low_bits) - 1u;
  int32_t previous = -1;
  for (int64_t i = 0; i < count; ++i) {
    writer.put(static_cast<uint32_t>(indices[i] - previous - 1) & mask, low_bits);
    previous = indices[i];
  }
  previous = -1;
  for (int64_t i = 0; i < count; ++i) {
    writer.zeros((indices[i] - previous - 1) >> low_bits);
    writer.put(1, 1);
    previous = indices[i];
  }
  writer.finish();
}

// Reads k gaps from exactly `length` words; false if they are not canonical.
inline bool read_gaps(const uint32_t* words, int64_t length, int64_t count,
                      int64_t size, int low_bits, int32_t* indices) {
  if (count == 0) return length == 0;
  const int64_t start = count * low_bits;
  if (words_of_bits(start + count) > length) return false;
  const uint32_t mask = (1u << low_bits) - 1u;
  int64_t at = start / 32;  // The word that `current` is what is left of.
  uint32_t current = words[at] & (~0u << (start % 32));
  int64_t before = start - 1;  // Position of the last one.
  int64_t index = -1;
  for (int64_t i = 0; i < count; ++i) {
    while (current == 0) {
      if (++at == length) return false;
      current = words[at];
    }
    const int64_t position = at * 32 + __builtin_ctz(current);
    current &= current - 1;
    const int64_t bit = i * low_bits;
    const int shift = static_cast<int>(bit % 32);
    uint64_t low = words[bit / 32];
    // Low bits lie before the last one of the stream, so the next word exists.
    if (shift + low_bits > 32) low |= static_cast<uint64_t>(words[bit / 32 + 1]) << 32;
    // No overflow: the header bounds the length, hence the quotients' sum.
    index += 1 + ((position - before - 1) << low_bits) +
             static_cast<int64_t>((low >> shift) & mask);
    if (index >= size) return false;
    indices[i] = static_cast<int32_t>(index);
    before = position;
  }
  return current == 0 && at + 1 == length;
}

inline void write_bitmap(const int32_t* indices, int64_t count, int64_t size,
                         uint32_t* words) {
  std::fill_n(words, words_of_bits(size), 0u);
  for (int64_t i = 0; i < count; ++i) words[indices[i] / 32] |= 1u << (indices[i] % 32);
}

inline bool read_bitmap(const uint32_t* words, int64_t count, int64_t size,
                        int32_t* indices) {
  int64_t found = 0;
  for (int64_t w = 0; w < words_of_bits(size); ++w) {
    for (uint32_t left = words[w]; left != 0; left &= left - 1) {
      const int64_t index = w * 32 + __builtin_ctz(left);
      if (index >= size || found == count) return false;
      indices[found++] = static_cast<int32_t>(index);
    }
  }
  return found == count;
}

}  // namespace wire
}  // namespace tem_tf

#endif  // TEM_TF_NATIVE_WIRE_INDICES_H_
