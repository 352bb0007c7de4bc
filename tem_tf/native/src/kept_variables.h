// Variables of what is kept from step to step, which ops change in place.
#ifndef TEM_TF_NATIVE_KEPT_VARIABLES_H_
#define TEM_TF_NATIVE_KEPT_VARIABLES_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"

namespace tem_tf {

// Holds them, locked, until it is destroyed.
class KeptVariables {
 public:
  ~KeptVariables() {
    for (auto& variable : locked_) variable->mu()->unlock();
  }

  // Of inputs [first, first + count).
  tensorflow::Status Lock(tensorflow::OpKernelContext* context, int first, int count) {
    for (int i = first; i < first + count; ++i) {
      tensorflow::core::RefCountPtr<tensorflow::Var> variable;
      TF_RETURN_IF_ERROR(tensorflow::LookupResource(
          context, tensorflow::HandleFromInput(context, i), &variable));
      variables_.push_back(std::move(variable));
    }
    for (auto& variable : variables_) locked_.push_back(variable.get());
    std::sort(locked_.begin(), locked_.end());
    if (std::adjacent_find(locked_.begin(), locked_.end()) != locked_.end()) {
      locked_.clear();
      return tensorflow::errors::InvalidArgument(
          "What is kept must be in distinct variables.");
    }
    for (tensorflow::Var* variable : locked_) variable->mu()->lock();
    for (int i = 0; i < count; ++i) {
      const tensorflow::Tensor& value = *variables_[i]->tensor();
      if (!variables_[i]->is_initialized || value.dtype() != tensorflow::DT_FLOAT) {
        return tensorflow::errors::InvalidArgument(
            "What is kept must be in float32 variables. Received at ", i, ": another");
      }
    }
    return tensorflow::OkStatus();
  }

  // TensorFlow shares buffers between variables and tensors: what is changed in place
  // must first be nobody else's.
  tensorflow::Status MakeOwn(tensorflow::OpKernelContext* context) {
    for (auto& variable : variables_) {
      tensorflow::Tensor* value = variable->tensor();
      if (value->NumElements() == 0 || value->RefCountIsOne()) continue;
      tensorflow::Tensor own;
      TF_RETURN_IF_ERROR(
          context->allocate_temp(tensorflow::DT_FLOAT, value->shape(), &own));
      std::copy_n(value->flat<float>().data(), value->NumElements(),
                  own.flat<float>().data());
      *value = own;
    }
    return tensorflow::OkStatus();
  }

  int64_t size(int i) const { return variables_[i]->tensor()->NumElements(); }
  float* data(int i) { return variables_[i]->tensor()->flat<float>().data(); }

 private:
  std::vector<tensorflow::core::RefCountPtr<tensorflow::Var>> variables_;
  std::vector<tensorflow::Var*> locked_;
};

}  // namespace tem_tf

#endif  // TEM_TF_NATIVE_KEPT_VARIABLES_H_
