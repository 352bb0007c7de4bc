// The ops that select entries of corrected gradients and update what is kept in place.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <vector>

#include "kept_variables.h"
#include "parallel.h"
#include "selection.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tem_tf {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;

constexpr int kFigures = 6;  // Of a gradient in `stats`.

tensorflow::Status Shapes(tensorflow::shape_inference::InferenceContext* context) {
  int variables, small;
  TF_RETURN_IF_ERROR(context->GetAttr("N", &variables));
  TF_RETURN_IF_ERROR(context->GetAttr("M", &small));
  context->set_output(0, context->Vector(context->UnknownDim()));
  context->set_output(1, context->Vector(context->UnknownDim()));
  context->set_output(2, context->Vector(context->UnknownDim()));
  context->set_output(3, context->Scalar());
  context->set_output(4, context->Matrix(variables, kFigures));
  context->set_output(5, context->Scalar());
  return tensorflow::OkStatus();
}

#define TEM_TF_SELECT_OP(NAME, RULE)                                                 \
  REGISTER_OP(NAME)                                                                  \
      .Attr("N: int >= 1")                                                           \
      .Attr("M: int >= 0")                                                           \
      .Attr("zero_nonfinite: bool")                                                  \
      .Attr("V: int >= 0")                                                           \
      .Attr("memory: {'feedback', 'momentum', 'estimate'} = 'feedback'")             \
      .Attr("factor: float = 1.0")                                                   \
      .Attr("threads: int = 0")                                                      \
      .Input("gradients: N * float")                                                 \
      .Input("small: M * float")                                                     \
      .Input("kept: N * resource")                                                   \
      .Input("velocity: V * resource")                                               \
      .Input(RULE)                                                                   \
      .Input("largest_norm: float")                                                  \
      .Output("values: float")                                                       \
      .Output("indices: int32")                                                      \
      .Output("block: float")                                                        \
      .Output("nonfinite: int32")                                                    \
      .Output("stats: double")                                                       \
      .Output("clip: float")                                                         \
      .SetIsStateful()                                                               \
      .SetShapeFn(Shapes)

TEM_TF_SELECT_OP("TemTfSelectThreshold", "threshold: float");
TEM_TF_SELECT_OP("TemTfSelectTopK", "counts: int64");
TEM_TF_SELECT_OP("TemTfSelectGiven", "given: int32");

// How many rows so many entries have, the last of which may be short.
int64_t Rows(int64_t size) { return (size + kRow - 1) / kRow; }

bool IsFinite(const float* x, int64_t size, const float* sums) {
  const bool sure = std::all_of(sums, sums + Rows(size),
                                [](float sum) { return std::isfinite(sum); });
  // NaN or Inf, or finite entries whose squares are too large for float32.
  return sure ||
         std::all_of(x, x + size, [](float entry) { return std::isfinite(entry); });
}

// The sum of sums, by rows of them, and so on; `fixed_sums.fixed_norm`'s twin.
float SumOfRows(std::vector<float> sums) {
  while (sums.size() > 1) {
    std::vector<float> rows(Rows(sums.size()));
    sums.resize(rows.size() * kRow);
    for (size_t r = 0; r < rows.size(); ++r) {
      rows[r] = SumByHalves(sums.data() + r * kRow, kRow);
    }
    sums = std::move(rows);
  }
  return sums.empty() ? 0.0f : sums[0];
}

class SelectOp : public OpKernel {
 public:
  explicit SelectOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("zero_nonfinite", &zero_nonfinite_));
    OP_REQUIRES_OK(context, context->GetAttr("factor", &factors_.memory));
    OP_REQUIRES_OK(context, context->GetAttr("threads", &threads_));
    OP_REQUIRES_OK(context, context->GetAttr("N", &variables_));
    OP_REQUIRES_OK(context, context->GetAttr("V", &velocities_));
    std::string memory;
    OP_REQUIRES_OK(context, context->GetAttr("memory", &memory));
    if (memory == "momentum") memory_ = Memory::kMomentum;
    if (memory == "estimate") memory_ = Memory::kEstimate;
    OP_REQUIRES(context,
                velocities_ == (memory_ == Memory::kMomentum ? variables_ : 0),
                InvalidArgument("`velocity` must be as many as `kept` under momentum, "
                                "and none else."));
  }

  void Compute(OpKernelContext* context) override {
    OpInputList gradients, small;
    OP_REQUIRES_OK(context, context->input_list("gradients", &gradients));
    OP_REQUIRES_OK(context, context->input_list("small", &small));
    const int first = variables_ + small.size();  // Of what is kept.
    const int count = variables_ + velocities_;
    const Tensor& rule = context->input(first + count);
    const Tensor& largest_norm = context->input(first + count + 1);
    OP_REQUIRES(context,
                largest_norm.NumElements() == 1 && largest_norm.flat<float>()(0) > 0,
                InvalidArgument("`largest_norm` must be one number > 0."));
    KeptVariables kept;
    OP_REQUIRES_OK(context, kept.Lock(context, first, count));
    std::vector<Variable> variables;
    int64_t size = 0;
    for (int i = 0; i < variables_; ++i) {
      const int64_t entries = gradients[i].NumElements();
      for (int of_kept = i; of_kept < count; of_kept += variables_) {
        OP_REQUIRES(context, kept.size(of_kept) == entries,
                    InvalidArgument("What is kept of gradient ", i, " must have its ",
                                    entries, " entries."));
      }
      variables.push_back(
          {gradients[i].flat<float>().data(), nullptr, nullptr, entries, size});
      size += gradients[i].NumElements();
    }
    OP_REQUIRES(context, size <= std::numeric_limits<int32_t>::max(),
                InvalidArgument("A gradient of ", size, " entries is too large: ",
                                "positions are 32-bit integers."));
    OP_REQUIRES_OK(context, CheckRule(rule, gradients.size(), size));

    auto loop = [&](int64_t count, int64_t cycles,
                    const std::function<void(int64_t)>& function) {
      ForEach(context, threads_, count, cycles, function);
    };

    // Before anything that is kept is touched: NaN would stay in it for ever.
    Selection look(variables, memory_, factors_, loop);
    std::vector<std::vector<float>> sums;  // Of squares, by rows of each tensor.
    for (int i = 0; i < gradients.size(); ++i) {
      sums.emplace_back(Rows(gradients[i].NumElements()));
    }
    for (int i = 0; i < small.size(); ++i) {
      sums.emplace_back(Rows(small[i].NumElements()));
    }
    std::atomic<bool> finite{true};
    const auto sum_up = [&](const float* x, int64_t size, float* of_rows) {
      BestPasses().sums_of_squares(x, size, of_rows);
      if (!IsFinite(x, size, of_rows)) finite = false;
    };
    loop(look.tasks().size(), kTaskSize, [&](int64_t i) {
      const Task& task = look.tasks()[i];
      static_assert(kTaskSize % kRow == 0, "rows would be cut");
      sum_up(variables[task.variable].gradient + task.begin, task.end - task.begin,
             sums[task.variable].data() + task.begin / kRow);
    });
    loop(1, 1, [&](int64_t) {
      for (int i = 0; i < small.size(); ++i) {
        sum_up(small[i].flat<float>().data(), small[i].NumElements(),
               sums[gradients.size() + i].data());
      }
    });
    Factors factors = factors_;
    if (finite && std::isfinite(largest_norm.flat<float>()(0))) {
      loop(1, 1, [&](int64_t) {
        std::vector<float> of_tensors;
        for (const auto& of_rows : sums) of_tensors.push_back(SumOfRows(of_rows));
        const float limit = largest_norm.flat<float>()(0);
        factors.clip = limit / std::max(std::sqrt(SumOfRows(of_tensors)), limit);
      });
    }
    Tensor* clip;
    OP_REQUIRES_OK(context, context->allocate_output(5, TensorShape({}), &clip));
    clip->scalar<float>()() = factors.clip;
    OP_REQUIRES_OK(context, WriteBlock(context, small, finite, factors.clip));
    Tensor* nonfinite;
    OP_REQUIRES_OK(context, context->allocate_output(3, TensorShape({}), &nonfinite));
    nonfinite->scalar<int32_t>()() = finite ? 0 : 1;
    Tensor* stats;
    OP_REQUIRES_OK(context, context->allocate_output(
                                4, TensorShape({gradients.size(), kFigures}), &stats));
    auto table = stats->matrix<double>();
    table.setZero();
    if (!finite && !zero_nonfinite_) {
      OP_REQUIRES_OK(context, WriteNothing(context, rule));
      return;
    }

    if (memory_ != Memory::kEstimate) OP_REQUIRES_OK(context, kept.MakeOwn(context));
    for (int i = 0; i < variables_; ++i) {
      variables[i].kept = kept.data(i);
      if (velocities_ > 0) variables[i].velocity = kept.data(variables_ + i);
    }
    Selection selection(variables, memory_, factors, loop);
    if (!finite) selection.ZeroGradients();
    OP_REQUIRES_OK(context, Select(context, rule, &selection));

    // entries, |e|^2, |m|^2, max|m|, |g|^2, |p|^2. What was not sent and the residual,
    // e and m, are the same, but that there is none where an estimate is kept.
    for (size_t i = 0; i < selection.tasks().size(); ++i) {
      Task& task = selection.tasks()[i];
      const int v = task.variable;
      double sent = 0;
      for (int64_t j = 0; j < task.selected.size; ++j) {
        const double value = task.selected.values()[j];
        sent += value * value;
      }
      table(v, 0) += task.selected.size;
      table(v, 1) += task.left.squared;
      if (memory_ != Memory::kEstimate) {
        table(v, 2) += task.left.squared;
        table(v, 3) = std::max<double>(table(v, 3), task.left.largest);
      }
      table(v, 5) += task.left.squared + sent;
    }
    for (int v = 0; finite && v < gradients.size(); ++v) {
      double squared = 0;
      for (float sum : sums[v]) squared += sum;
      table(v, 4) = squared * factors.clip * factors.clip;
    }
  }

 protected:
  virtual tensorflow::Status CheckRule(const Tensor& rule, int64_t variables,
                                       int64_t size) = 0;
  virtual tensorflow::Status Select(OpKernelContext* context, const Tensor& rule,
                                    Selection* selection) = 0;

  // The outputs where the gradient is not finite and nothing is to be changed.
  virtual tensorflow::Status WriteNothing(OpKernelContext* context, const Tensor&) {
    Tensor* unused;
    TF_RETURN_IF_ERROR(context->allocate_output(0, TensorShape({0}), &unused));
    return context->allocate_output(1, TensorShape({0}), &unused);
  }

  static tensorflow::Status Write(OpKernelContext* context, const Selection& selection) {
    Tensor *values, *indices;
    const TensorShape shape({selection.selected()});
    TF_RETURN_IF_ERROR(context->allocate_output(0, shape, &values));
    TF_RETURN_IF_ERROR(context->allocate_output(1, shape, &indices));
    selection.Write(values->flat<float>().data(), indices->flat<int32_t>().data());
    return tensorflow::OkStatus();
  }

 private:
  // Small variables end to end, clipped, or zeros.
  static tensorflow::Status WriteBlock(OpKernelContext* context,
                                       const OpInputList& small, bool finite,
                                       float clip) {
    int64_t size = 0;
    for (const Tensor& tensor : small) size += tensor.NumElements();
    Tensor* block;
    TF_RETURN_IF_ERROR(context->allocate_output(2, TensorShape({size}), &block));
    float* out = block->flat<float>().data();
    if (!finite) std::fill_n(out, size, 0.0f);
    for (int i = 0; finite && i < small.size(); ++i) {
      const float* begin = small[i].flat<float>().data();
      const float* end = begin + small[i].NumElements();
      // A factor of 1 would flush what is subnormal.
      out = clip == 1 ? std::copy(begin, end, out)
                      : std::transform(begin, end, out, [clip](float entry) {
                          return clip * entry;
                        });
    }
    return tensorflow::OkStatus();
  }

  bool zero_nonfinite_;
  int variables_, velocities_;
  Memory memory_ = Memory::kFeedback;
  Factors factors_;
  int threads_;
};

class SelectThresholdOp : public SelectOp {
 public:
  using SelectOp::SelectOp;

 protected:
  tensorflow::Status CheckRule(const Tensor& rule, int64_t, int64_t) override {
    if (rule.NumElements() != 1 || !(rule.flat<float>()(0) >= 0)) {
      return InvalidArgument("`threshold` must be one number >= 0.");
    }
    return tensorflow::OkStatus();
  }

  tensorflow::Status Select(OpKernelContext* context, const Tensor& rule,
                            Selection* selection) override {
    selection->Threshold(rule.flat<float>()(0));
    return Write(context, *selection);
  }
};

class SelectTopKOp : public SelectOp {
 public:
  using SelectOp::SelectOp;

 protected:
  tensorflow::Status CheckRule(const Tensor& rule, int64_t variables,
                               int64_t) override {
    const auto counts = rule.flat<int64_t>();
    bool valid = counts.size() == 1 || counts.size() == variables;
    for (int64_t i = 0; i < counts.size(); ++i) valid = valid && counts(i) >= 0;
    if (!valid) {
      return InvalidArgument("`counts` must be integers >= 0, one for all variables ",
                             "or one for each of ", variables, ".");
    }
    return tensorflow::OkStatus();
  }

  tensorflow::Status Select(OpKernelContext* context, const Tensor& rule,
                            Selection* selection) override {
    const auto counts = rule.flat<int64_t>();
    selection->TopK({counts.data(), counts.data() + counts.size()});
    return Write(context, *selection);
  }
};

class SelectGivenOp : public SelectOp {
 public:
  using SelectOp::SelectOp;

 protected:
  tensorflow::Status CheckRule(const Tensor& rule, int64_t, int64_t size) override {
    const auto given = rule.flat<int32_t>();
    for (int64_t i = 0; i < given.size(); ++i) {
      if (given(i) < 0 || given(i) >= size) {
        return InvalidArgument("`given` must be positions in [0, ", size,
                               "). Received: ", given(i));
      }
    }
    return tensorflow::OkStatus();
  }

  tensorflow::Status Select(OpKernelContext* context, const Tensor& rule,
                            Selection* selection) override {
    Tensor* values;
    TF_RETURN_IF_ERROR(context->allocate_output(0, rule.shape(), &values));
    context->set_output(1, rule);
    selection->Given(rule.flat<int32_t>().data(), rule.NumElements(),
                     values->flat<float>().data());
    return tensorflow::OkStatus();
  }

  // All replicas send as many values.
  tensorflow::Status WriteNothing(OpKernelContext* context,
                                  const Tensor& rule) override {
    Tensor* values;
    TF_RETURN_IF_ERROR(context->allocate_output(0, rule.shape(), &values));
    values->flat<float>().setZero();
    context->set_output(1, rule);
    return tensorflow::OkStatus();
  }
};

#define TEM_TF_CPU(NAME, KERNEL) \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(tensorflow::DEVICE_CPU), KERNEL)

TEM_TF_CPU("TemTfSelectThreshold", SelectThresholdOp);
TEM_TF_CPU("TemTfSelectTopK", SelectTopKOp);
TEM_TF_CPU("TemTfSelectGiven", SelectGivenOp);

}  // namespace
}  // namespace tem_tf
