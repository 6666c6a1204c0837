// SPDX-License-Identifier: MIT
#include "cpu/sampled.h"

#include <algorithm>
#include <cstring>

namespace onnxloss {

#if defined(__x86_64__)
namespace v2 {
void RunSampled(const SampledProblem& problem, int64_t first, int64_t last, void* scratch);
}
namespace v3 {
void RunSampled(const SampledProblem& problem, int64_t first, int64_t last, void* scratch);
}
namespace v4 {
void RunSampled(const SampledProblem& problem, int64_t first, int64_t last, void* scratch);
}
#else
namespace baseline {
void RunSampled(const SampledProblem& problem, int64_t first, int64_t last, void* scratch);
}
#endif

SampledRun SampledKernel() {
#if defined(__x86_64__)
  const char* chosen = Kernels().instruction_set;
  if (std::strcmp(chosen, "v4") == 0) return v4::RunSampled;
  if (std::strcmp(chosen, "v3") == 0) return v3::RunSampled;
  return v2::RunSampled;
#else
  return baseline::RunSampled;
#endif
}

int64_t SampledRowsPerTask(const SampledProblem& problem) {
  constexpr int64_t kColumnsPerTask = 16384;
  // Zeros are written about this many times faster than a column is computed.
  constexpr int64_t kZerosPerColumn = 16;
  int64_t columns = problem.num_true + problem.num_samples;
  if (problem.dlogits != nullptr) columns += problem.classes / kZerosPerColumn;
  return columns < kColumnsPerTask ? kColumnsPerTask / columns : 1;
}

int64_t SampledScratchBytes(const SampledProblem& problem) {
  constexpr int64_t kVector = 16;  // the most numbers of a vector
  const int64_t columns = problem.num_true + problem.num_samples;
  const int64_t own = problem.sorted == nullptr ? problem.num_samples : 0;
  return own * static_cast<int64_t>(sizeof(SampledClass)) +
         (columns * 2 + kVector) * static_cast<int64_t>(sizeof(double)) +
         problem.num_true * static_cast<int64_t>(sizeof(int64_t));
}

void SortClasses(SampledClass* classes, int64_t count) {
  std::sort(classes, classes + count, [](const SampledClass& a, const SampledClass& b) {
    return a.value != b.value ? a.value < b.value : a.column < b.column;
  });
}

}  // namespace onnxloss
