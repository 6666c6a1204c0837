// SPDX-License-Identifier: MIT
#include "cuda/kernels.h"

namespace onnxloss::cuda {

const KernelTable& BFloat16Kernels(Formula formula) { return TableFor<BFloat16>(formula); }

}  // namespace onnxloss::cuda
