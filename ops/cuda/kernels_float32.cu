// SPDX-License-Identifier: MIT
#include "cuda/kernels.h"

namespace onnxloss::cuda {

const KernelTable& Float32Kernels(Formula formula) { return TableFor<float>(formula); }

}  // namespace onnxloss::cuda
