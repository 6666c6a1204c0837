// SPDX-License-Identifier: MIT
// The same operators for CUDAExecutionProvider.
#pragma once

#include "ort/operator.h"
#include "ort/registration.h"
#include "ort/sampled_kernel.h"

namespace onnxloss::ort {

// Labels and samples are in the GPU's memory: a bad one cannot stop the call, it makes its row nan.
Registration<Operator> RegisterOnCuda(const Operator& op);
// Samples that are not given are drawn by the host, the same as on the CPU.
Registration<SampledOperator> RegisterOnCuda(const SampledOperator& op);

}  // namespace onnxloss::ort
