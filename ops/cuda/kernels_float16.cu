// SPDX-License-Identifier: MIT
#include "cuda/kernels.h"

namespace onnxloss::cuda {

const KernelTable& Float16Kernels(Formula formula) { return TableFor<Half>(formula); }

}  // namespace onnxloss::cuda
