// Rounding to few bits: the grid of a message's values, and what others decode of them.
//
// The twin of `grid_of` and `round_to` in tem_tf/wire/few_bits.py, same bits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "value_code.h"
#include "wire_few_bits.h"

namespace tem_tf {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::InferenceContext;

constexpr int64_t kGroupsAtOnce = 256;
constexpr int64_t kCyclesOfAGroup = 400;

// What the groups that one call looks at say of the spread.
struct Deviations {
  int64_t total = 0;  // Of magnitudes from their mean, in units of 2^-12.
  int64_t count = 0;
};

// Sums 64 numbers by halves; they are overwritten.
inline float tree_sum(float* numbers) {
  for (int half = wire::kGroup / 2; half != 0; half /= 2) {
    for (int i = 0; i < half; ++i) numbers[i] += numbers[half + i];
  }
  return numbers[0];
}

// The nearest bfloat16 of a mean, ties to even, within the bounds or 0.
inline float to_scale(float mean) {
  uint32_t bits;
  std::memcpy(&bits, &mean, sizeof(bits));
  bits = std::min(bits, wire::kGreatestGroupScale << 16);
  uint32_t code = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  if (code < wire::kLeastGroupScale) code = 0;
  code <<= 16;
  float scale;
  std::memcpy(&scale, &code, sizeof(scale));
  return scale;
}

inline float scale_of(const float* values, int64_t size, Deviations* deviations) {
  float numbers[wire::kGroup] = {};
  for (int64_t i = 0; i < size; ++i) numbers[i] = std::fabs(values[i]);
  const float share = 1.0f / static_cast<float>(size);
  const float scale = to_scale(tree_sum(numbers) * share);
  if (!(scale > 0)) return scale;
  std::fill(numbers, numbers + wire::kGroup, 0.0f);
  for (int64_t i = 0; i < size; ++i) {
    numbers[i] = std::fabs(std::fabs(values[i]) / scale - 1.0f);
  }
  const float most = 2.0f * wire::kGroup, found = tree_sum(numbers);
  const float sum = found < most ? found : most;
  deviations->total += static_cast<int64_t>(std::nearbyint(sum * 4096.0f));
  deviations->count += size;
  return scale;
}

int spread_of(const std::vector<Deviations>& parts) {
  constexpr int64_t kFactor = 44536;  // 128·e/2 in units of 2^-8.
  Deviations all;
  for (const Deviations& part : parts) {
    all.total += part.total;
    all.count += part.count;
  }
  const int64_t unit = std::max<int64_t>(all.count, 1) << 20;
  const int64_t spread = (all.total * kFactor + unit / 2) / unit;
  return static_cast<int>(std::min<int64_t>(
      std::max<int64_t>(spread, wire::kLeastSpread), wire::kGreatestSpread));
}

class RoundFewBits : public OpKernel {
 public:
  explicit RoundFewBits(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, value_code(context, &levels_, &value_));
    OP_REQUIRES(context, wire::few_bits(value_.type) != 0,
                absl::InvalidArgumentError("These values are not of few bits."));
    OP_REQUIRES_OK(context, context->GetAttr("threads", &threads_));
  }

  void Compute(OpKernelContext* context) override {
    const int64_t count = context->input(0).NumElements();
    const int64_t groups = (count + wire::kGroup - 1) / wire::kGroup;
    const int64_t parts = (groups + kGroupsAtOnce - 1) / kGroupsAtOnce;
    const float* values = context->input(0).flat<float>().data();
    Tensor *rounded_out, *scales_out, *spread_out;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({count}),
                                                     &rounded_out));
    OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({groups}),
                                                     &scales_out));
    OP_REQUIRES_OK(context, context->allocate_output(2, TensorShape({}), &spread_out));
    float* rounded = rounded_out->flat<float>().data();
    float* scales = scales_out->flat<float>().data();
    const auto of_groups = [&](int64_t part, const auto& function) {
      const int64_t end = std::min(groups, (part + 1) * kGroupsAtOnce);
      for (int64_t g = part * kGroupsAtOnce; g < end; ++g) {
        const int64_t first = g * wire::kGroup;
        function(g, first, std::min(wire::kGroup, count - first));
      }
    };
    const int64_t cycles = kGroupsAtOnce * kCyclesOfAGroup;
    std::vector<Deviations> deviations(parts);
    ForEach(context, threads_, parts, cycles, [&](int64_t part) {
      of_groups(part, [&](int64_t g, int64_t first, int64_t size) {
        scales[g] = scale_of(values + first, size, &deviations[part]);
      });
    });
    const int spread = spread_of(deviations);
    spread_out->scalar<int32_t>()() = spread;
    const int bits = wire::few_bits(value_.type);
    const wire::Levels levels(value_.levels, bits, spread, true);
    ForEach(context, threads_, parts, cycles, [&](int64_t part) {
      of_groups(part, [&](int64_t g, int64_t first, int64_t size) {
        int32_t codes[wire::kGroup];
        wire::codes_of(values + first, size, scales[g], levels, codes);
        wire::values_of(codes, size, scales[g], levels, rounded + first);
      });
    });
  }

 private:
  std::vector<float> levels_;
  wire::ValueCode value_;
  int threads_;
};

REGISTER_OP("TemTfRoundFewBits")
    .Input("values: float")
    .Output("rounded: float")
    .Output("scales: float")
    .Output("spread: int32")
    .Attr("value_type: int")
    .Attr("levels: list(float)")
    .Attr("threads: int = 0")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->input(0));
      c->set_output(1, c->Vector(InferenceContext::kUnknownDim));
      c->set_output(2, c->Scalar());
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("TemTfRoundFewBits").Device(tensorflow::DEVICE_CPU),
                        RoundFewBits);

}  // namespace
}  // namespace tem_tf
