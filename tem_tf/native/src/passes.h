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

// What a pass leaves in the residual.
struct Left {
  double squared = 0;  // Sum of squares, in float32 over some thousand entries at most.
  float largest = 0;   // Greatest magnitude.
};

// What a pass over a stretch works on.
struct Stretch {
  const float* gradient;  // nullptr: `addend` in the place of every entry.
  float addend;           // 0 for a gradient of zeros, -0 to leave the residual as it is.
  float* residual;
  int64_t size;
  int32_t position;  // Of the first entry, within the variable.
};

struct Passes {
  double (*sum_of_squares)(const float* x, int64_t size);

  // p = gradient + residual. Appends the entries with |p| >= threshold (none if it is
  // NaN) to `selected`, and leaves residual = p - what was selected.
  void (*select)(const Stretch& stretch, float threshold, Entries* selected, Left* left);
};

// Those of the widest instructions that this processor has, or of those that
// TEM_TF_NATIVE in the environment names (avx2, scalar) if they are less wide.
const Passes& BestPasses();

}  // namespace tem_tf

#endif  // TEM_TF_NATIVE_PASSES_H_
