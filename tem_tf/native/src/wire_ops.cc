// The wire format as TensorFlow ops. Single-threaded: a message is small, or a copy.

#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "value_code.h"
#include "wire_code.h"

namespace tem_tf {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::InferenceContext;

template <typename... Parts>
absl::Status InvalidArgument(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

const uint32_t* words_of(const Tensor& payload) {
  return reinterpret_cast<const uint32_t*>(payload.flat<int32_t>().data());
}

class Encode : public OpKernel {
 public:
  explicit Encode(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("size", &size_));
    OP_REQUIRES_OK(context, value_code(context, &levels_, &value_));
    OP_REQUIRES_OK(context, context->GetAttr("shared", &shared_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& values = context->input(0);
    const Tensor& indices = context->input(1);
    const Tensor& block = context->input(2);
    const int64_t count = values.NumElements();
    const int32_t* positions = indices.flat<int32_t>().data();
    OP_REQUIRES(context, indices.NumElements() == count && count <= size_,
                InvalidArgument("tem_tf cannot write the wire: a message has ", count,
                                " values and ", indices.NumElements(),
                                " indices of a gradient of ", size_, "."));
    OP_REQUIRES(
        context, shared_ || wire::ascending(positions, count, size_),
        InvalidArgument("tem_tf cannot write the wire: the indices of a message are "
                        "not ascending numbers within the gradient."));
    const int flags = context->input(3).flat<int32_t>()(0);
    OP_REQUIRES(context, (flags & ~wire::kAllFlags) == 0,
                InvalidArgument("tem_tf cannot write the wire: a message has flags that "
                                "do not exist."));
    const float* floats = values.flat<float>().data();
    wire::ValueCode value = value_;
    if (wire::few_bits(value.type) != 0) {
      value.scale = context->input(5).flat<int32_t>()(0);
      const int64_t groups = (count + wire::kGroup - 1) / wire::kGroup;
      OP_REQUIRES(context,
                  context->input(4).NumElements() == groups &&
                      value.scale >= wire::kLeastSpread &&
                      value.scale <= wire::kGreatestSpread,
                  InvalidArgument("tem_tf cannot write the wire: a message of ", count,
                                  " values has ", context->input(4).NumElements(),
                                  " scales and the spread ", value.scale, "."));
    }
    const wire::Header header = wire::plan(floats, positions, shared_, count, size_,
                                           block.NumElements(), value, flags);
    OP_REQUIRES(context, header.words <= std::numeric_limits<int32_t>::max(),
                InvalidArgument("tem_tf cannot write the wire: a message takes ",
                                header.words, " words, and 2^31 - 1 is the most."));
    Tensor dense;
    if (header.values() > count) {
      OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_FLOAT,
                                                     TensorShape({size_}), &dense));
    }
    Tensor* payload = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(
                                0, TensorShape({header.words}), &payload));
    wire::write(header, floats, context->input(4).flat<float>().data(), positions,
                count, block.flat<float>().data(),
                header.values() > count ? dense.flat<float>().data() : nullptr,
                reinterpret_cast<uint32_t*>(payload->flat<int32_t>().data()));
  }

 private:
  int64_t size_;
  std::vector<float> levels_;
  wire::ValueCode value_;
  bool shared_;
};

class Decode : public OpKernel {
 public:
  explicit Decode(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("size", &size_));
    OP_REQUIRES_OK(context, context->GetAttr("block_size", &block_size_));
    OP_REQUIRES_OK(context, value_code(context, &levels_, &value_));
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& payload = context->input(0);
    const uint32_t* words = words_of(payload);
    wire::Header header;
    refuse(context,
           wire::read_header(words, payload.NumElements(), size_, block_size_, value_,
                             context->input(1).flat<int32_t>()(0), &header));
    if (!context->status().ok()) return;
    // No allocation is larger than the payload allows: its header has been checked.
    const bool shared = header.index_code == wire::kShared;
    Tensor *values, *indices, *block, *entries, *length, *flags;
    const int64_t count = header.values();
    const auto output = [context](int i, TensorShape shape, Tensor** tensor) {
      return context->allocate_output(i, shape, tensor);
    };
    OP_REQUIRES_OK(context, output(0, TensorShape({count}), &values));
    OP_REQUIRES_OK(context, output(1, TensorShape({shared ? 0 : count}), &indices));
    OP_REQUIRES_OK(context, output(2, TensorShape({block_size_}), &block));
    OP_REQUIRES_OK(context, output(3, TensorShape({}), &entries));
    OP_REQUIRES_OK(context, output(4, TensorShape({}), &length));
    OP_REQUIRES_OK(context, output(5, TensorShape({}), &flags));
    refuse(context, wire::read_body(header, words, values->flat<float>().data(),
                                    indices->flat<int32_t>().data(),
                                    block->flat<float>().data()));
    entries->scalar<int32_t>()() = static_cast<int32_t>(header.count);
    length->scalar<int32_t>()() = static_cast<int32_t>(header.words);
    flags->scalar<int32_t>()() = header.flags;
  }

 private:
  static void refuse(OpKernelContext* context, const wire::Refusal& why) {
    if (why.empty()) return;
    context->CtxFailure(InvalidArgument("tem_tf cannot read the wire: ", why));
  }

  int64_t size_;
  int64_t block_size_;
  std::vector<float> levels_;
  wire::ValueCode value_;
};

REGISTER_OP("TemTfEncode")
    .Input("values: float")
    .Input("indices: int32")
    .Input("block: float")
    .Input("flags: int32")
    .Input("scales: float")
    .Input("spread: int32")
    .Output("payload: int32")
    .Attr("size: int")
    .Attr("value_type: int")
    .Attr("levels: list(float)")
    .Attr("shared: bool")
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Vector(InferenceContext::kUnknownDim));
      return absl::OkStatus();
    });

REGISTER_OP("TemTfDecode")
    .Input("payload: int32")
    .Input("shared_count: int32")
    .Output("values: float")
    .Output("indices: int32")
    .Output("block: float")
    .Output("entries: int32")
    .Output("words: int32")
    .Output("flags: int32")
    .Attr("size: int")
    .Attr("block_size: int")
    .Attr("value_type: int")
    .Attr("levels: list(float)")
    .SetShapeFn([](InferenceContext* c) {
      int64_t block_size;
      TF_RETURN_IF_ERROR(c->GetAttr("block_size", &block_size));
      c->set_output(0, c->Vector(InferenceContext::kUnknownDim));
      c->set_output(1, c->Vector(InferenceContext::kUnknownDim));
      c->set_output(2, c->Vector(block_size));
      for (int i = 3; i < 6; ++i) c->set_output(i, c->Scalar());
      return absl::OkStatus();
    });

REGISTER_KERNEL_BUILDER(Name("TemTfEncode").Device(tensorflow::DEVICE_CPU), Encode);
REGISTER_KERNEL_BUILDER(Name("TemTfDecode").Device(tensorflow::DEVICE_CPU), Decode);

}  // namespace
}  // namespace tem_tf
