// SPDX-License-Identifier: MIT
#pragma once

#include "cpu/kernels.h"
#include "rows/math.h"

namespace onnxloss::ONNXLOSS_TARGET {

// As in CpuKernels, for logits of type T.
template <class T>
struct TypedKernels {
  static void ScanLabels(const LossProblem& problem, int64_t first, int64_t last, LabelScan* scan);
  static void Run(const LossProblem& problem, int64_t first, int64_t last);
};

}  // namespace onnxloss::ONNXLOSS_TARGET
