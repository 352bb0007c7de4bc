// The op that settles what is kept of selected entries, once they have been rounded.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kept_variables.h"
#include "parallel.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace tem_tf {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;

constexpr int kColumns = 2;  // Of `left`: sum of squares, greatest magnitude.

REGISTER_OP("TemTfSettle")
    .Attr("N: int >= 1")
    .Attr("V: int >= 0")
    .Attr("memory: {'feedback', 'momentum', 'estimate'} = 'feedback'")
    .Input("kept: N * resource")
    .Input("velocity: V * resource")
    .Input("values: float")
    .Input("rounded: float")
    .Input("indices: int32")
    .Output("left: double")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      int variables;
      TF_RETURN_IF_ERROR(context->GetAttr("N", &variables));
      context->set_output(0, context->Matrix(variables, kColumns));
      return tensorflow::OkStatus();
    });

class SettleOp : public OpKernel {
 public:
  explicit SettleOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("N", &variables_));
    OP_REQUIRES_OK(context, context->GetAttr("V", &velocities_));
    std::string memory;
    OP_REQUIRES_OK(context, context->GetAttr("memory", &memory));
    is_estimate_ = memory == "estimate";
    OP_REQUIRES(context, velocities_ == 0 || velocities_ == variables_,
                InvalidArgument("`velocity` must be none or as many as `kept`."));
  }

  void Compute(OpKernelContext* context) override {
    const int first = variables_ + velocities_;
    const Tensor& values = context->input(first);
    const Tensor& rounded = context->input(first + 1);
    const Tensor& indices = context->input(first + 2);
    const int64_t count = values.NumElements();
    OP_REQUIRES(context,
                rounded.NumElements() == count && indices.NumElements() == count,
                InvalidArgument("`values`, `rounded` and `indices` must be as many."));
    KeptVariables kept;
    OP_REQUIRES_OK(context, kept.Lock(context, 0, first));
    // Where each variable begins in the packed vector, and the end of the last.
    std::vector<int64_t> offsets{0};
    for (int i = 0; i < variables_; ++i) {
      offsets.push_back(offsets.back() + kept.size(i));
      OP_REQUIRES(context,
                  velocities_ == 0 || kept.size(variables_ + i) == kept.size(i),
                  InvalidArgument("Velocities must have the sizes of what is kept."));
    }
    const auto at = indices.flat<int32_t>();
    for (int64_t j = 0; j < count; ++j) {
      OP_REQUIRES(context, at(j) >= 0 && at(j) < offsets.back(),
                  InvalidArgument("`indices` must be positions in [0, ",
                                  offsets.back(), "). Received: ", at(j)));
    }
    OP_REQUIRES_OK(context, kept.MakeOwn(context));
    std::vector<float*> data;
    for (int i = 0; i < first; ++i) data.push_back(kept.data(i));
    Tensor* left;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, TensorShape({variables_, kColumns}), &left));
    auto table = left->matrix<double>();
    table.setZero();
    const float* value = values.flat<float>().data();
    const float* sent = rounded.flat<float>().data();
    // Few entries, as a rule: one thread, with subnormals flushed as everywhere.
    ForEach(context, 1, 1, count, [&](int64_t) {
      int64_t v = 0;
      for (int64_t j = 0; j < count; ++j) {
        if (at(j) < offsets[v] || at(j) >= offsets[v + 1]) {
          v = std::upper_bound(offsets.begin(), offsets.end(), at(j)) -
              offsets.begin() - 1;
        }
        // As TensorFlow's operations have it, which scatter into zeros.
        const float gone = 0.0f + sent[j], rest = value[j] - gone;
        const int64_t place = at(j) - offsets[v];
        data[v][place] = is_estimate_ ? data[v][place] + gone : rest;
        if (velocities_ > 0 && gone != 0) data[variables_ + v][place] = 0;
        table(v, 0) += double{rest} * rest;
        table(v, 1) = std::max<double>(table(v, 1), std::fabs(rest));
      }
    });
  }

 private:
  int variables_, velocities_;
  bool is_estimate_;
};

REGISTER_KERNEL_BUILDER(Name("TemTfSettle").Device(tensorflow::DEVICE_CPU),
                        SettleOp);

}  // namespace
}  // namespace tem_tf
