// SPDX-License-Identifier: MIT
#include "cuda/kernels.h"

namespace onnxloss::cuda {

const KernelTable& Float64Kernels(Formula formula) { return TableFor<double>(formula); }

}  // namespace onnxloss::cuda
