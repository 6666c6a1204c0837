// SPDX-License-Identifier: MIT
#include "cpu/kernels_of_type.h"

namespace onnxloss::ONNXLOSS_TARGET {

template struct TypedKernels<Half>;

}  // namespace onnxloss::ONNXLOSS_TARGET
