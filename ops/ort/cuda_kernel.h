// SPDX-License-Identifier: MIT
// The same operators for CUDAExecutionProvider.
#pragma once

#include "ort/operator.h"
#include "ort/registration.h"

namespace onnxloss::ort {

// Labels are in the GPU's memory: a bad one cannot stop the call, it makes its row nan.
Registration<Operator> RegisterOnCuda(const Operator& op);

}  // namespace onnxloss::ort
