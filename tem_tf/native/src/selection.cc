#include "selection.h"

#include <algorithm>
#include <utility>

namespace tem_tf {

Selection::Selection(std::vector<Variable> variables, Memory memory, Factors factors,
                     Loop loop)
    : variables_(std::move(variables)),
      memory_(memory),
      factors_(factors),
      loop_(std::move(loop)) {
  for (size_t v = 0; v < variables_.size(); ++v) {
    for (int64_t begin = 0; begin < variables_[v].size; begin += kTaskSize) {
      Task task;
      task.variable = static_cast<int>(v);
      task.begin = begin;
      task.end = std::min(begin + kTaskSize, variables_[v].size);
      tasks_.push_back(std::move(task));
    }
  }
}

Stretch Selection::Whole(const Task& task) const {
  const Variable& v = variables_[task.variable];
  return {zeroed_ ? nullptr : v.gradient + task.begin,
          0.0f,
          v.kept + task.begin,
          v.velocity == nullptr ? nullptr : v.velocity + task.begin,
          task.end - task.begin,
          static_cast<int32_t>(task.begin),
          memory_,
          factors_};
}

// What is kept holds p by then, unless it is an estimate, which has not changed.
Stretch Selection::Again(const Task& task) const {
  Stretch stretch = Whole(task);
  if (!KeepsRest()) return stretch;
  stretch.gradient = nullptr;
  stretch.addend = -0.0f;
  stretch.memory = Memory::kFeedback;
  stretch.factors = {};
  return stretch;
}

void Selection::Threshold(float threshold) {
  const Passes& passes = BestPasses();
  loop_(tasks_.size(), kTaskSize * kCyclesPerEntry, [&](int64_t i) {
    Task& task = tasks_[i];
    passes.select(Whole(task), threshold, &task.selected, &task.left);
  });
}

int64_t Selection::selected() const {
  int64_t count = 0;
  for (const Task& task : tasks_) count += task.selected.size;
  return count;
}

void Selection::Write(float* values, int32_t* positions) const {
  std::vector<int64_t> starts(tasks_.size());
  int64_t start = 0;
  for (size_t i = 0; i < tasks_.size(); ++i) {
    starts[i] = start;
    start += tasks_[i].selected.size;
  }
  const int64_t mean = tasks_.empty() ? 0 : start / tasks_.size();
  loop_(tasks_.size(), 16 + 2 * mean, [&](int64_t i) {
    Task& task = const_cast<Task&>(tasks_[i]);
    const int32_t offset = static_cast<int32_t>(variables_[task.variable].offset);
    const int64_t count = task.selected.size;
    std::copy_n(task.selected.values(), count, values + starts[i]);
    for (int64_t j = 0; j < count; ++j) {
      positions[starts[i] + j] = offset + task.selected.positions()[j];
    }
  });
}

void Selection::Given(const int32_t* positions, int64_t count, float* values) {
  // Entries of each task, by a counting sort. Tasks follow one another in the vector.
  std::vector<int64_t> begins;
  for (const Task& task : tasks_) {
    begins.push_back(variables_[task.variable].offset + task.begin);
  }
  auto task_of = [&](int32_t position) {
    return std::upper_bound(begins.begin(), begins.end(), position) - begins.begin() - 1;
  };
  std::vector<int32_t> owner(count);
  std::vector<int64_t> starts(tasks_.size() + 1, 0);
  for (int64_t j = 0; j < count; ++j) {
    owner[j] = static_cast<int32_t>(task_of(positions[j]));
    ++starts[owner[j] + 1];
  }
  for (size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
  std::vector<int32_t> order(count);
  std::vector<int64_t> next(starts.begin(), starts.end() - 1);
  for (int64_t j = 0; j < count; ++j) order[next[owner[j]]++] = static_cast<int32_t>(j);

  const Passes& passes = BestPasses();
  loop_(tasks_.size(), kTaskSize * kCyclesPerEntry, [&](int64_t i) {
    Task& task = tasks_[i];
    passes.select(Whole(task), kNothing, &task.selected, &task.left);
    const Variable& v = variables_[task.variable];
    const Stretch corrected = Again(task);
    double sent = 0;
    for (int64_t m = starts[i]; m < starts[i + 1]; ++m) {
      const int64_t j = order[m];
      const int64_t position = positions[j] - v.offset;
      const float p = Corrected(corrected, position - task.begin);
      values[j] = p;
      task.selected.Append(p, static_cast<int32_t>(position));
      if (KeepsRest()) v.kept[position] = Without(p);
      sent += double{p} * p;
    }
    if (!KeepsRest()) {
      task.left.squared = std::max(0.0, task.left.squared - sent);
      return;
    }
    task.left = Left();  // Of what is left only; it is still in the cache.
    passes.select(corrected, kNothing, &task.selected, &task.left);
  });
}

}  // namespace tem_tf
