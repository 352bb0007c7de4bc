// Passes over one stretch of memory, in the widest instructions that the processor has.
//
// The processor is asked when the library runs, not when it is built, so that one
// library serves all machines that share a home directory. Every variant gives the same
// bits in entries and residuals; sums are in another order.
#ifndef TEM_TF_NATIVE_PASSES_H_
#define TEM_TF_NATIVE_PASSES_H_

#include <cstdint>
#include <cstring>
#include <memory>

namespace tem_tf {

// What is left of an entry that is sent: p - (0 + p), as TensorFlow's operations have it,
// which scatter what is sent into zeros. It is 0, but -0 for -0 and NaN for infinities.
inline float Without(float p) { return p - (p + 0.0f); }

// Entries of a stretch that were selected, in ascending order of position.
class Entries {
 public:
  // Makes room for `extra` more: a vector instruction stores whole registers.
  void Reserve(int64_t extra) {
    if (size + extra <= capacity_) return;
    int64_t capacity = 2 * (size + extra) + 64;
    std::unique_ptr<float[]> values(new float[capacity]);
    std::unique_ptr<int32_t[]> positions(new int32_t[capacity]);
    if (size > 0) {
      std::memcpy(values.get(), values_.get(), size * sizeof(float));
      std::memcpy(positions.get(), positions_.get(), size * sizeof(int32_t));
    }
    values_ = std::move(values);
    positions_ = std::move(positions);
    capacity_ = capacity;
  }

  void Append(float value, int32_t position) {
    Reserve(1);
    values_[size] = value;
    positions_[size] = position;
    ++size;
  }

  float* values() { return values_.get(); }
  int32_t* positions() { return positions_.get(); }  // Within the variable.

  int64_t size = 0;

 private:
  int64_t capacity_ = 0;
  std::unique_ptr<float[]> values_;
  std::unique_ptr<int32_t[]> positions_;
};

// What a pass leaves of p.
struct Left {
  double squared = 0;  // Sum of squares, in float32 over some thousand entries at most.
  float largest = 0;   // Greatest magnitude.
};

// What a memory adds to a gradient g, which c clips, and what it leaves of that, p:
enum class Memory {
  kFeedback,  // p = cg + fm;        m = p, but for what is selected
  kMomentum,  // p = m + (cg + fu);  u = p - m;  m likewise
  kEstimate,  // p = cg - m;         nothing changes, m is an estimate of g
};

struct Factors {
  float clip = 1;    // c
  float memory = 1;  // f
};

// What a pass over a stretch works on.
struct Stretch {
  const float* gradient;  // nullptr: `addend` in the place of every entry.
  float addend;           // 0 for a gradient of zeros, -0 to take m as it is for p.
  float* kept;            // m
  float* velocity;        // u, or nullptr.
  int64_t size;
  int32_t position;  // Of the first entry, within the variable.
  Memory memory;
  Factors factors;
};

// Numbers are added up by rows of so many, by halves: first those that lie half a row
// apart, then the sums that lie a quarter apart, and so on.
constexpr int64_t kRow = 1024;

// Of so many numbers, a power of two; overwrites them.
inline float SumByHalves(float* numbers, int64_t count) {
  for (int64_t half = count / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) numbers[i] += numbers[half + i];
  }
  return numbers[0];
}

// p of an entry.
inline float Corrected(const Stretch& s, int64_t i) {
  const float g = s.gradient != nullptr ? s.factors.clip * s.gradient[i] : s.addend;
  if (s.memory == Memory::kEstimate) return g - s.kept[i];
  if (s.memory == Memory::kFeedback) return g + s.factors.memory * s.kept[i];
  return s.kept[i] + (g + s.factors.memory * s.velocity[i]);
}

struct Passes {
  // The sum of squares of each row; zeros fill the last one.
  void (*sums_of_squares)(const float* x, int64_t size, float* sums);

  // Appends the entries with |p| >= threshold (none if it is NaN) to `selected`; says
  // what is left of p, and leaves it in `kept` unless that is an estimate.
  void (*select)(const Stretch& stretch, float threshold, Entries* selected, Left* left);
};

// Those of the widest instructions that this processor has, or of those that
// TEM_TF_NATIVE in the environment names (avx2, scalar) if they are less wide.
const Passes& BestPasses();

}  // namespace tem_tf

#endif  // TEM_TF_NATIVE_PASSES_H_
