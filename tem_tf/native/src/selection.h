// One selection: gradients of all variables and what is kept of them, cut into tasks.
//
// A task is at most kTaskSize entries of one variable, so that what it touches stays in
// a core's own cache. Everything that is computed depends on the tasks and not on which
// thread ran them: one thread and many give the same bits, sums included.
#ifndef TEM_TF_NATIVE_SELECTION_H_
#define TEM_TF_NATIVE_SELECTION_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "passes.h"

namespace tem_tf {

// 64 Ki entries of gradient and residual are 512 KiB. Our choice: a quarter of the
// second-level cache of current server cores, and work for about 30 microseconds.
constexpr int64_t kTaskSize = int64_t{1} << 16;
// What one entry takes, in cycles, when the data comes from memory.
constexpr int64_t kCyclesPerEntry = 2;

constexpr float kNothing = std::numeric_limits<float>::quiet_NaN();  // |p| >= NaN: no.

struct Variable {
  const float* gradient;
  float* kept;
  float* velocity;  // nullptr unless there is momentum.
  int64_t size;
  int64_t offset;  // In the packed vector.
};

struct Task {
  int variable;
  int64_t begin, end;  // Within the variable.
  Entries selected;
  Left left;
};

// Tasks that one k is for: those of a variable, or all.
struct Group {
  int64_t first, last;  // Tasks [first, last).
  int64_t size;
  int64_t k;
};

// Runs function(i) for i in [0, count), each about `cycles` long, on several threads.
using Loop = std::function<void(int64_t count, int64_t cycles,
                                const std::function<void(int64_t)>& function)>;

class Selection {
 public:
  Selection(std::vector<Variable> variables, Memory memory, Factors factors, Loop loop);

  // Takes a gradient of zeros in the place of each.
  void ZeroGradients() { zeroed_ = true; }

  // Gradients are corrected, and what is kept changes as `Memory` says, by one of these:
  void Threshold(float threshold);
  // One k for all, or one for each variable. Of equals the lower positions are taken,
  // of zeros none.
  void TopK(const std::vector<int64_t>& counts);
  // Distinct positions in the packed vector. Fills `values` in their order.
  void Given(const int32_t* positions, int64_t count, float* values);

  std::vector<Task>& tasks() { return tasks_; }
  int64_t selected() const;
  // In ascending order of position in the packed vector.
  void Write(float* values, int32_t* positions) const;

 private:
  // What p of a task's entries is made of, before a pass over them and after it.
  Stretch Whole(const Task& task) const;
  Stretch Again(const Task& task) const;
  bool KeepsRest() const { return memory_ != Memory::kEstimate; }

  float SampledThreshold(const Group& group, double margin, bool again) const;
  void Collect(const Group& group, float threshold);
  void PutBack(Task& task);
  void KeepLargest(const Group& group);
  int64_t Count(const Group& group) const;

  std::vector<Variable> variables_;
  std::vector<Task> tasks_;
  Memory memory_;
  Factors factors_;
  Loop loop_;
  bool zeroed_ = false;
};

}  // namespace tem_tf

#endif  // TEM_TF_NATIVE_SELECTION_H_
