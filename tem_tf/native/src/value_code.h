// How values travel, from the attributes of an op.

#ifndef TEM_TF_NATIVE_VALUE_CODE_H_
#define TEM_TF_NATIVE_VALUE_CODE_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "wire_values.h"

namespace tem_tf {

// Reads the attributes `value_type` and `levels`; `levels` outlives `code`.
inline absl::Status value_code(tensorflow::OpKernelConstruction* context,
                               std::vector<float>* levels, wire::ValueCode* code) {
  absl::Status status = context->GetAttr("value_type", &code->type);
  if (status.ok()) status = context->GetAttr("levels", levels);
  if (!status.ok()) return status;
  const int bits = wire::few_bits(code->type);
  const size_t wanted = bits == 0 ? 0 : 1 << (bits - 1);
  if (code->type < 0 || code->type > wire::kSign || levels->size() != wanted) {
    return absl::InvalidArgumentError(absl::StrCat(
        "There is no value type ", code->type, " of ", levels->size(), " levels."));
  }
  code->levels = levels->data();
  return absl::OkStatus();
}

}  // namespace tem_tf

#endif  // TEM_TF_NATIVE_VALUE_CODE_H_
