// The op that decodes the payloads of all replicas and adds them up, in their order, in
// the places of the gradients. Nothing that is as long as the gradient is made beside
// the sums.
#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "parallel.h"
#include "selection.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "value_code.h"
#include "wire_sum.h"

namespace tem_tf {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("TemTfSumPayloads")
    .Attr("N: int >= 0")
    .Attr("L: int >= 0")
    .Attr("sizes: list(int)")
    .Attr("block_size: int >= 0")
    .Attr("value_type: int")
    .Attr("levels: list(float)")
    .Attr("shared: bool")
    .Attr("threads: int = 0")
    .Input("rows: int32")
    .Input("shared_indices: int32")
    .Input("like: L * float")
    .Output("totals: N * float")
    .Output("block: float")
    .Output("nonfinite: int32")
    .Output("empty: int32")
    .Output("entries: int64")
    .SetShapeFn([](InferenceContext* context) {
      ShapeHandle rows;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 2, &rows));
      int64_t variables, likes, block_size;
      std::vector<int64_t> sizes;
      TF_RETURN_IF_ERROR(context->GetAttr("N", &variables));
      TF_RETURN_IF_ERROR(context->GetAttr("L", &likes));
      TF_RETURN_IF_ERROR(context->GetAttr("sizes", &sizes));
      TF_RETURN_IF_ERROR(context->GetAttr("block_size", &block_size));
      if (variables != static_cast<int64_t>(sizes.size()) ||
          (likes != variables && likes != 0)) {
        return absl::InvalidArgumentError(
            absl::StrCat("There are ", sizes.size(), " sizes for ", variables,
                         " totals like ", likes, " tensors."));
      }
      for (int i = 0; i < variables; ++i) {
        context->set_output(
            i, likes > 0 ? context->input(2 + i) : context->Vector(sizes[i]));
      }
      context->set_output(variables, context->Vector(block_size));
      for (int i = 1; i <= 3; ++i) {
        context->set_output(variables + i, context->Scalar());
      }
      return absl::OkStatus();
    });

class SumPayloads : public OpKernel {
 public:
  explicit SumPayloads(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("sizes", &sizes_));
    OP_REQUIRES_OK(context, context->GetAttr("block_size", &block_size_));
    OP_REQUIRES_OK(context, value_code(context, &levels_, &value_));
    OP_REQUIRES_OK(context, context->GetAttr("shared", &shared_));
    OP_REQUIRES_OK(context, context->GetAttr("threads", &threads_));
    for (int64_t size : sizes_) size_ += size;
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& rows = context->input(0);
    const int64_t replicas = rows.dim_size(0), length = rows.dim_size(1);
    const auto row = [&](int64_t r) {
      const int32_t* words = rows.flat<int32_t>().data() + r * length;
      return reinterpret_cast<const uint32_t*>(words);
    };
    // All headers first, so that scratch is as large as the largest message.
    const Tensor& shared_indices = context->input(1);
    std::vector<wire::Header> headers(replicas);
    int64_t most = 0, entries = 0;
    int32_t nonfinite = 0, empty = 0;
    for (int64_t r = 0; r < replicas; ++r) {
      wire::Header& header = headers[r];
      const int64_t shared_count = shared_ ? shared_indices.NumElements() : -1;
      if (Refused(context, wire::read_header(row(r), length, size_, block_size_,
                                             value_, shared_count, &header))) {
        return;
      }
      const bool own = header.index_code == wire::kGaps ||
                       header.index_code == wire::kBitmap;
      most = std::max(most, own ? header.count : 0);
      entries += header.count;
      nonfinite += (header.flags & wire::kNonfinite) != 0;
      empty += (header.flags & wire::kEmpty) != 0;
    }
    const int32_t* positions = shared_indices.flat<int32_t>().data();
    for (int64_t j = 0; j < shared_indices.NumElements(); ++j) {
      OP_REQUIRES(context, positions[j] >= 0 && positions[j] < size_,
                  absl::InvalidArgumentError(
                      "tem_tf cannot read the wire: shared indices are not numbers "
                      "within the gradient."));
    }

    wire::Places places;
    std::vector<Piece> pieces;
    Allocate(context, &places, &pieces);
    if (!context->status().ok()) return;
    Tensor scratch, *block, *number;
    OP_REQUIRES_OK(context, context->allocate_temp(tensorflow::DT_INT32,
                                                   TensorShape({most}), &scratch));
    const int variables = sizes_.size();
    OP_REQUIRES_OK(context, context->allocate_output(
                                variables, TensorShape({block_size_}), &block));
    float* sum_of_blocks = block->flat<float>().data();
    std::fill_n(sum_of_blocks, block_size_, 0.0f);
    ForEach(context, threads_, pieces.size(), kTaskSize / 2, [&](int64_t i) {
      std::fill_n(pieces[i].sums, pieces[i].size, 0.0f);
    });

    // In the order of replicas: the same floating-point sum everywhere. Messages are
    // short: one thread takes those that do not have all entries.
    tensorflow::port::ScopedFlushDenormal flush;
    int32_t* indices = scratch.flat<int32_t>().data();
    for (int64_t r = 0; r < replicas; ++r) {
      const wire::Header& header = headers[r];
      if (Refused(context, wire::read_indices(header, row(r), indices))) return;
      if (header.index_code == wire::kAll) {
        ForEach(context, threads_, pieces.size(), kTaskSize, [&](int64_t i) {
          const Piece& piece = pieces[i];
          wire::add_stretch(header, row(r), piece.offset, piece.size, piece.sums);
        });
      } else {
        wire::add_entries(header, row(r), shared_ ? positions : indices, places);
      }
      const wire::Parts parts(header, row(r));
      for (int64_t j = 0; j < block_size_; ++j) {
        sum_of_blocks[j] += wire::float_of(parts.block[j]);
      }
    }
    OP_REQUIRES_OK(context, context->allocate_output(variables + 1, {}, &number));
    number->scalar<int32_t>()() = nonfinite;
    OP_REQUIRES_OK(context, context->allocate_output(variables + 2, {}, &number));
    number->scalar<int32_t>()() = empty;
    OP_REQUIRES_OK(context, context->allocate_output(variables + 3, {}, &number));
    number->scalar<int64_t>()() = entries;
  }

 private:
  // At most kTaskSize entries of one variable.
  struct Piece {
    float* sums;
    int64_t offset;  // In the packed vector.
    int64_t size;
  };

  static bool Refused(OpKernelContext* context, const wire::Refusal& why) {
    if (why.empty()) return false;
    context->CtxFailure(absl::InvalidArgumentError(
        absl::StrCat("tem_tf cannot read the wire: ", why)));
    return true;
  }

  // The gradients' own buffers, where nobody else needs them any more.
  void Allocate(OpKernelContext* context, wire::Places* places,
                std::vector<Piece>* pieces) {
    OpInputList like;
    OP_REQUIRES_OK(context, context->input_list("like", &like));
    for (int i = 0; i < static_cast<int>(sizes_.size()); ++i) {
      Tensor* total;
      if (like.size() > 0) {
        OP_REQUIRES(context, like[i].NumElements() == sizes_[i],
                    absl::InvalidArgumentError(
                        absl::StrCat("A total of ", sizes_[i], " entries is to be like ",
                                     like[i].NumElements(), ".")));
        OP_REQUIRES_OK(context, context->forward_input_or_allocate_output(
                                    {2 + i}, i, like[i].shape(), &total));
      } else {
        OP_REQUIRES_OK(context,
                       context->allocate_output(i, TensorShape({sizes_[i]}), &total));
      }
      float* sums = total->flat<float>().data();
      const int64_t offset = places->offsets.back();
      places->add(sums, sizes_[i]);
      for (int64_t at = 0; at < sizes_[i]; at += kTaskSize) {
        pieces->push_back(
            {sums + at, offset + at, std::min(kTaskSize, sizes_[i] - at)});
      }
    }
  }

  std::vector<int64_t> sizes_;
  int64_t size_ = 0;
  int64_t block_size_;
  std::vector<float> levels_;
  wire::ValueCode value_;
  bool shared_;
  int threads_;
};

REGISTER_KERNEL_BUILDER(Name("TemTfSumPayloads").Device(tensorflow::DEVICE_CPU),
                        SumPayloads);

}  // namespace
}  // namespace tem_tf
