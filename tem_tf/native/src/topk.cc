// Exact Top-k for the price of a hard threshold.
//
// A threshold that is a little too low is guessed from a sample; entries that reach it
// are collected in the one pass over the data; the k largest of these few are the k
// largest of all, and the others go back to the residual. A guess that was too high is
// noticed, since fewer than k entries were collected, and made again. Zeros are never
// collected: they decode to 0 without being sent.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>

#include "selection.h"

namespace tem_tf {
namespace {

// Samples are lines of neighbours, as many as one cache line holds.
constexpr int64_t kLine = 16;
// Entries among the k largest that a sample should have, on average, and by how many
// standard deviations of a Poisson count the threshold is put lower. Our choice: about
// four times k entries are collected, at densities of 1 % and below, and a second pass
// is needed less than once in ten thousand steps on independent entries. Neighbours
// are not independent, hence the wide margin.
constexpr double kExpected = 8;
constexpr double kMargin = 6;
constexpr int64_t kSmallestSample = 256;
constexpr int64_t kLargestSample = 1 << 15;

// Distinct small numbers to distinct large ones (Steele et al. 2014, SplitMix64).
uint64_t Scramble(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

void Selection::TopK(const std::vector<int64_t>& counts) {
  std::vector<Group> groups;
  const int64_t tasks = tasks_.size();
  if (counts.size() == variables_.size()) {
    for (int64_t i = 0; i < tasks;) {
      const int v = tasks_[i].variable;
      Group group{i, i, variables_[v].size, std::min(counts[v], variables_[v].size)};
      while (group.last < tasks && tasks_[group.last].variable == v) ++group.last;
      i = group.last;
      groups.push_back(group);
    }
  } else if (tasks > 0) {
    int64_t size = 0;
    for (const Variable& v : variables_) size += v.size;
    groups.push_back({0, tasks, size, std::min(counts[0], size)});
  }

  const int64_t sampling = 20000;  // Cycles: 500 cache misses.
  std::vector<float> thresholds(tasks);
  loop_(groups.size(), sampling, [&](int64_t g) {
    const float guess = SampledThreshold(groups[g], kMargin, false);
    std::fill_n(thresholds.begin() + groups[g].first,
                groups[g].last - groups[g].first, guess);
  });
  const Passes& passes = BestPasses();
  loop_(tasks, kTaskSize * kCyclesPerEntry, [&](int64_t i) {
    passes.select(Whole(tasks_[i]), thresholds[i], &tasks_[i].selected,
                  &tasks_[i].left);
  });
  for (const Group& group : groups) {
    float threshold = thresholds[group.first];
    for (double margin = 4 * kMargin; Count(group) < group.k && threshold > FLT_MIN;
         margin *= 4) {
      loop_(group.last - group.first, kTaskSize,
            [&](int64_t i) { PutBack(tasks_[group.first + i]); });
      threshold = SampledThreshold(group, margin, true);
      Collect(group, threshold);
    }
  }
  loop_(groups.size(), sampling, [&](int64_t g) {
    if (Count(groups[g]) > groups[g].k) KeepLargest(groups[g]);
  });
}

int64_t Selection::Count(const Group& group) const {
  int64_t count = 0;
  for (int64_t i = group.first; i < group.last; ++i) count += tasks_[i].selected.size;
  return count;
}

// A magnitude that k entries of a group or somewhat more should reach, at least
// FLT_MIN: what is smaller is zero, since subnormals are flushed.
//
// again: whether a pass was there before.
float Selection::SampledThreshold(const Group& group, double margin, bool again) const {
  if (group.k == 0) return INFINITY;
  const double density = static_cast<double>(group.k) / group.size;
  const int64_t wanted = std::clamp<int64_t>(kExpected / density, kSmallestSample,
                                             kLargestSample);
  const int64_t lines = std::min(wanted, group.size) / kLine + 1;
  std::vector<float> sample;
  sample.reserve((lines + 1) * kLine);
  int64_t before = 0;
  for (int64_t i = group.first; i < group.last; ++i) {
    const Stretch s = again ? Again(tasks_[i]) : Whole(tasks_[i]);
    // Lines are shared out by size, and lie at random places, not at equal distances:
    // a kernel's entries repeat with the number of channels.
    const int64_t first = before * lines / group.size;
    before += s.size;
    const int64_t last = before * lines / group.size;
    for (int64_t line = first; line < last; ++line) {
      const int64_t free = std::max<int64_t>(1, s.size - kLine + 1);
      const int64_t begin = Scramble(line) % free;
      const int64_t end = std::min(begin + kLine, s.size);
      for (int64_t j = begin; j < end; ++j) {
        sample.push_back(std::fabs(Corrected(s, j)));
      }
    }
  }
  const double expected = density * sample.size();
  const int64_t rank = expected + margin * std::sqrt(expected * (1 - density)) + 4;
  if (rank >= static_cast<int64_t>(sample.size())) return FLT_MIN;
  // A heap of the largest, which few of the others enter: `rank` is small at the
  // densities for which time matters.
  std::partial_sort(sample.begin(), sample.begin() + rank + 1, sample.end(),
                    std::greater<float>());
  return std::max(FLT_MIN, sample[rank]);
}

void Selection::Collect(const Group& group, float threshold) {
  const Passes& passes = BestPasses();
  loop_(group.last - group.first, kTaskSize * kCyclesPerEntry, [&](int64_t i) {
    Task& task = tasks_[group.first + i];
    passes.select(Again(task), threshold, &task.selected, &task.left);
  });
}

// As before anything was selected, but that what is kept holds p, if it is a residual.
void Selection::PutBack(Task& task) {
  float* kept = variables_[task.variable].kept;
  for (int64_t j = 0; KeepsRest() && j < task.selected.size; ++j) {
    kept[task.selected.positions()[j]] = task.selected.values()[j];
  }
  task.selected.size = 0;
  task.left = Left();
}

// Puts back all but the k largest of a group's collected entries.
void Selection::KeepLargest(const Group& group) {
  std::vector<float> magnitudes;
  magnitudes.reserve(Count(group));
  for (int64_t i = group.first; i < group.last; ++i) {
    const float* values = tasks_[i].selected.values();
    for (int64_t j = 0; j < tasks_[i].selected.size; ++j) {
      magnitudes.push_back(std::fabs(values[j]));
    }
  }
  int64_t equal = group.k;  // How many of those at the threshold itself are kept.
  float threshold = INFINITY;
  if (group.k > 0) {
    std::nth_element(magnitudes.begin(), magnitudes.begin() + group.k - 1,
                     magnitudes.end(), std::greater<float>());
    threshold = magnitudes[group.k - 1];
    for (float magnitude : magnitudes) equal -= magnitude > threshold;
  }
  for (int64_t i = group.first; i < group.last; ++i) {
    Task& task = tasks_[i];
    float* kept = variables_[task.variable].kept;
    float* values = task.selected.values();
    int32_t* positions = task.selected.positions();
    int64_t number = 0;
    for (int64_t j = 0; j < task.selected.size; ++j) {
      const float magnitude = std::fabs(values[j]);
      if (magnitude > threshold || (magnitude == threshold && equal-- > 0)) {
        values[number] = values[j];
        positions[number++] = positions[j];
      } else {
        if (KeepsRest()) kept[positions[j]] = values[j];
        task.left.squared += double{values[j]} * values[j];
        task.left.largest = std::max(task.left.largest, magnitude);
      }
    }
    task.selected.size = number;
  }
}

}  // namespace tem_tf
