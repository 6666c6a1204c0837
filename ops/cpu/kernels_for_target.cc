// SPDX-License-Identifier: MIT
// The CPU kernels for one instruction set: compiled once for each, with ONNXLOSS_TARGET its name.
#include "cpu/typed_kernels.h"

#define ONNXLOSS_QUOTED(text) #text
#define ONNXLOSS_NAME_OF(target) ONNXLOSS_QUOTED(target)

namespace onnxloss::ONNXLOSS_TARGET {
namespace {

// Calls visit with the kernels for the problem's type.
template <class Visitor>
void WithKernels(const LossProblem& problem, Visitor visit) {
  switch (problem.type) {
    case ElementType::kFloat16:
      return visit(TypedKernels<Half>());
    case ElementType::kBFloat16:
      return visit(TypedKernels<BFloat16>());
    case ElementType::kFloat32:
      return visit(TypedKernels<float>());
    case ElementType::kFloat64:
      return visit(TypedKernels<double>());
  }
}

void ScanLabels(const LossProblem& problem, int64_t first, int64_t last, LabelScan* scan) {
  WithKernels(problem, [&](auto kernels) { kernels.ScanLabels(problem, first, last, scan); });
}

void Run(const LossProblem& problem, int64_t first, int64_t last) {
  WithKernels(problem, [&](auto kernels) { kernels.Run(problem, first, last); });
}

}  // namespace

extern const CpuKernels kKernels;
const CpuKernels kKernels = {ONNXLOSS_NAME_OF(ONNXLOSS_TARGET), ScanLabels, Run};

}  // namespace onnxloss::ONNXLOSS_TARGET
