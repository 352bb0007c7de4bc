// The ops that select entries of corrected gradients and update residuals in place.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "selection.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tem_tf {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;
using tensorflow::errors::InvalidArgument;

constexpr int kColumns = 6;  // Of `stats`.

tensorflow::Status Shapes(tensorflow::shape_inference::InferenceContext* context) {
  int variables, small;
  TF_RETURN_IF_ERROR(context->GetAttr("N", &variables));
  TF_RETURN_IF_ERROR(context->GetAttr("M", &small));
  context->set_output(0, context->Vector(context->UnknownDim()));
  context->set_output(1, context->Vector(context->UnknownDim()));
  context->set_output(2, context->Vector(context->UnknownDim()));
  context->set_output(3, context->Scalar());
  context->set_output(4, context->Matrix(variables, kColumns));
  return tensorflow::OkStatus();
}

#define TEM_TF_SELECT_OP(NAME, RULE)                                                 \
  REGISTER_OP(NAME)                                                                  \
      .Attr("N: int >= 1")                                                           \
      .Attr("M: int >= 0")                                                           \
      .Attr("zero_nonfinite: bool")                                                  \
      .Attr("threads: int = 0")                                                      \
      .Input("gradients: N * float")                                                 \
      .Input("small: M * float")                                                     \
      .Input("residuals: N * resource")                                              \
      .Input(RULE)                                                                   \
      .Output("values: float")                                                       \
      .Output("indices: int32")                                                      \
      .Output("block: float")                                                        \
      .Output("nonfinite: int32")                                                    \
      .Output("stats: double")                                                       \
      .SetIsStateful()                                                               \
      .SetShapeFn(Shapes)

TEM_TF_SELECT_OP("TemTfSelectThreshold", "threshold: float");
TEM_TF_SELECT_OP("TemTfSelectTopK", "counts: int64");
TEM_TF_SELECT_OP("TemTfSelectGiven", "given: int32");

// Holds the variables of the residuals, locked, until it is destroyed.
class Residuals {
 public:
  ~Residuals() {
    for (auto& variable : locked_) variable->mu()->unlock();
  }

  tensorflow::Status Lock(OpKernelContext* context, const OpInputList& gradients,
                          int first_input) {
    for (int i = 0; i < gradients.size(); ++i) {
      tensorflow::core::RefCountPtr<Var> variable;
      TF_RETURN_IF_ERROR(tensorflow::LookupResource(
          context, tensorflow::HandleFromInput(context, first_input + i), &variable));
      variables_.push_back(std::move(variable));
    }
    for (auto& variable : variables_) locked_.push_back(variable.get());
    std::sort(locked_.begin(), locked_.end());
    if (std::adjacent_find(locked_.begin(), locked_.end()) != locked_.end()) {
      locked_.clear();
      return InvalidArgument("`residuals` must be distinct variables.");
    }
    for (Var* variable : locked_) variable->mu()->lock();
    for (int i = 0; i < gradients.size(); ++i) {
      const Tensor& value = *variables_[i]->tensor();
      if (!variables_[i]->is_initialized || value.dtype() != tensorflow::DT_FLOAT ||
          value.NumElements() != gradients[i].NumElements()) {
        return InvalidArgument("Residual ", i, " must be float32 with the ",
                               gradients[i].NumElements(), " entries of its gradient.");
      }
    }
    return tensorflow::OkStatus();
  }

  // TensorFlow shares buffers between variables and tensors: what is changed in place
  // must first be nobody else's.
  tensorflow::Status MakeOwn(OpKernelContext* context) {
    for (auto& variable : variables_) {
      Tensor* value = variable->tensor();
      if (value->NumElements() == 0 || value->RefCountIsOne()) continue;
      Tensor own;
      TF_RETURN_IF_ERROR(
          context->allocate_temp(tensorflow::DT_FLOAT, value->shape(), &own));
      std::copy_n(value->flat<float>().data(), value->NumElements(),
                  own.flat<float>().data());
      *value = own;
    }
    return tensorflow::OkStatus();
  }

  float* data(int i) { return variables_[i]->tensor()->flat<float>().data(); }

 private:
  std::vector<tensorflow::core::RefCountPtr<Var>> variables_;
  std::vector<Var*> locked_;
};

// Whether all entries are finite; adds up their squares on the way.
bool SumUp(const float* x, int64_t size, double* squares) {
  const double sum = BestPasses().sum_of_squares(x, size);
  *squares = sum;
  if (std::isfinite(sum)) return true;
  // NaN or Inf, or finite entries whose squares are too large for float32.
  return std::all_of(x, x + size, [](float entry) { return std::isfinite(entry); });
}

class SelectOp : public OpKernel {
 public:
  explicit SelectOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("zero_nonfinite", &zero_nonfinite_));
    OP_REQUIRES_OK(context, context->GetAttr("threads", &threads_));
  }

  void Compute(OpKernelContext* context) override {
    OpInputList gradients, small;
    OP_REQUIRES_OK(context, context->input_list("gradients", &gradients));
    OP_REQUIRES_OK(context, context->input_list("small", &small));
    const Tensor& rule = context->input(2 * gradients.size() + small.size());
    Residuals residuals;
    OP_REQUIRES_OK(context, residuals.Lock(context, gradients,
                                           gradients.size() + small.size()));
    std::vector<Variable> variables;
    int64_t size = 0;
    for (int i = 0; i < gradients.size(); ++i) {
      variables.push_back({gradients[i].flat<float>().data(), nullptr,
                           gradients[i].NumElements(), size});
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

    // Before any residual is touched: NaN would stay in it for ever.
    Selection look(variables, loop);
    std::vector<double> squares(look.tasks().size());
    std::atomic<bool> finite{true};
    loop(look.tasks().size(), kTaskSize, [&](int64_t i) {
      const Task& task = look.tasks()[i];
      const float* begin = variables[task.variable].gradient + task.begin;
      if (!SumUp(begin, task.end - task.begin, &squares[i])) finite = false;
    });
    double unused;
    for (int i = 0; i < small.size(); ++i) {
      if (!SumUp(small[i].flat<float>().data(), small[i].NumElements(), &unused)) {
        finite = false;
      }
    }
    OP_REQUIRES_OK(context, WriteBlock(context, small, finite));
    Tensor* nonfinite;
    OP_REQUIRES_OK(context, context->allocate_output(3, TensorShape({}), &nonfinite));
    nonfinite->scalar<int32_t>()() = finite ? 0 : 1;
    Tensor* stats;
    OP_REQUIRES_OK(context, context->allocate_output(
                                4, TensorShape({gradients.size(), kColumns}), &stats));
    auto table = stats->matrix<double>();
    table.setZero();
    if (!finite && !zero_nonfinite_) {
      OP_REQUIRES_OK(context, WriteNothing(context, rule));
      return;
    }

    OP_REQUIRES_OK(context, residuals.MakeOwn(context));
    for (int i = 0; i < gradients.size(); ++i) {
      variables[i].residual = residuals.data(i);
    }
    Selection selection(variables, loop);
    if (!finite) selection.ZeroGradients();
    OP_REQUIRES_OK(context, Select(context, rule, &selection));

    // entries, |e|^2, |m|^2, max|m|, |g|^2, |p|^2. With error feedback what was not
    // sent and what is left, e and m, are the same.
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
      table(v, 2) += task.left.squared;
      table(v, 3) = std::max<double>(table(v, 3), task.left.largest);
      table(v, 4) += finite ? squares[i] : 0;
      table(v, 5) += task.left.squared + sent;
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
  // Small variables end to end, or zeros.
  static tensorflow::Status WriteBlock(OpKernelContext* context,
                                       const OpInputList& small, bool finite) {
    int64_t size = 0;
    for (const Tensor& tensor : small) size += tensor.NumElements();
    Tensor* block;
    TF_RETURN_IF_ERROR(context->allocate_output(2, TensorShape({size}), &block));
    float* out = block->flat<float>().data();
    if (!finite) std::fill_n(out, size, 0.0f);
    for (int i = 0; finite && i < small.size(); ++i) {
      out = std::copy_n(small[i].flat<float>().data(), small[i].NumElements(), out);
    }
    return tensorflow::OkStatus();
  }

  bool zero_nonfinite_;
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
