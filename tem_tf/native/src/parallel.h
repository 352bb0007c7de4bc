// Loops over TensorFlow's own threads, with subnormals flushed as its kernels do.
#ifndef TEM_TF_NATIVE_PARALLEL_H_
#define TEM_TF_NATIVE_PARALLEL_H_

#include <algorithm>
#include <cstdint>

#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/denormal.h"
#include "tensorflow/core/util/work_sharder.h"

namespace tem_tf {

// Calls function(i) for each i in [0, count).
//
// threads: how many at most; 0 for all that TensorFlow has.
// cycles: what one call takes, roughly; few calls of little work stay on one thread.
template <typename Function>
void ForEach(tensorflow::OpKernelContext* context, int threads, int64_t count,
             int64_t cycles, const Function& function) {
  const auto& workers = *context->device()->tensorflow_cpu_worker_threads();
  const int most = threads > 0 ? std::min(threads, workers.num_threads)
                               : workers.num_threads;
  tensorflow::Shard(most, workers.workers, count, cycles,
                    [&function](int64_t begin, int64_t end) {
                      tensorflow::port::ScopedFlushDenormal flush;
                      for (int64_t i = begin; i < end; ++i) function(i);
                    });
}

}  // namespace tem_tf

#endif  // TEM_TF_NATIVE_PARALLEL_H_
