// The op that adds the messages of all replicas up in the places of the gradients.
#include <algorithm>
#include <vector>

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
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::errors::InvalidArgument;

REGISTER_OP("TemTfSumMessages")
    .Attr("R: int >= 1")
    .Attr("N: int >= 1")
    .Attr("threads: int = 0")
    .Input("values: R * float")
    .Input("indices: R * int32")
    .Input("like: N * float")
    .Output("sums: N * float")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* context) {
      int replicas, variables;
      TF_RETURN_IF_ERROR(context->GetAttr("R", &replicas));
      TF_RETURN_IF_ERROR(context->GetAttr("N", &variables));
      for (int i = 0; i < variables; ++i) {
        context->set_output(i, context->input(2 * replicas + i));
      }
      return tensorflow::OkStatus();
    });

class SumMessagesOp : public OpKernel {
 public:
  explicit SumMessagesOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("threads", &threads_));
  }

  void Compute(OpKernelContext* context) override {
    OpInputList values, indices, like;
    OpOutputList sums;
    OP_REQUIRES_OK(context, context->input_list("values", &values));
    OP_REQUIRES_OK(context, context->input_list("indices", &indices));
    OP_REQUIRES_OK(context, context->input_list("like", &like));
    OP_REQUIRES_OK(context, context->output_list("sums", &sums));

    // Where each variable begins in the packed vector, and the end of the last.
    std::vector<int64_t> offsets{0};
    for (const Tensor& tensor : like) {
      offsets.push_back(offsets.back() + tensor.NumElements());
    }
    for (int r = 0; r < values.size(); ++r) {
      OP_REQUIRES(context, values[r].NumElements() == indices[r].NumElements(),
                  InvalidArgument("Message ", r, " has ", values[r].NumElements(),
                                  " values and ", indices[r].NumElements(),
                                  " indices."));
      const auto positions = indices[r].flat<int32_t>();
      for (int64_t j = 0; j < positions.size(); ++j) {
        OP_REQUIRES(context, positions(j) >= 0 && positions(j) < offsets.back(),
                    InvalidArgument("Message ", r, " names the entry ", positions(j),
                                    " of a gradient of ", offsets.back(), "."));
      }
    }

    struct Place {
      float* begin;
      int64_t size;
    };
    std::vector<float*> places;
    std::vector<Place> pieces;
    for (int i = 0; i < like.size(); ++i) {
      // The gradient's own buffer, if nobody else needs it any more.
      Tensor* sum;
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output(
                                  {2 * values.size() + i}, i, like[i].shape(),
                                  &sum));
      float* data = sum->flat<float>().data();
      places.push_back(data);
      for (int64_t at = 0; at < sum->NumElements(); at += kTaskSize) {
        pieces.push_back({data + at, std::min(kTaskSize, sum->NumElements() - at)});
      }
    }
    ForEach(context, threads_, pieces.size(), kTaskSize / 2, [&](int64_t i) {
      std::fill_n(pieces[i].begin, pieces[i].size, 0.0f);
    });

    // In the order of replicas: the same floating-point sum everywhere. On one thread:
    // messages are short.
    tensorflow::port::ScopedFlushDenormal flush;
    for (int r = 0; r < values.size(); ++r) {
      const auto numbers = values[r].flat<float>();
      const auto positions = indices[r].flat<int32_t>();
      size_t v = 0;
      for (int64_t j = 0; j < positions.size(); ++j) {
        const int64_t position = positions(j);
        if (position < offsets[v] || position >= offsets[v + 1]) {
          v = std::upper_bound(offsets.begin(), offsets.end(), position) -
              offsets.begin() - 1;
        }
        places[v][position - offsets[v]] += numbers(j);
      }
    }
  }

 private:
  int threads_;
};

REGISTER_KERNEL_BUILDER(Name("TemTfSumMessages").Device(tensorflow::DEVICE_CPU),
                        SumMessagesOp);

}  // namespace
}  // namespace tem_tf
