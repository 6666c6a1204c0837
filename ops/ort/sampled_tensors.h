// SPDX-License-Identifier: MIT
// Tensors of a sampled loss's call, and whether they fit together.
#pragma once

#include "ort/sampled_kernel.h"
#include "ort/tensors.h"

namespace onnxloss::ort {

struct SampledInputs {
  Tensor dloss;
  Tensor logits;
  Tensor labels;
  Tensor samples;
  Tensor probabilities;

  int64_t rows() const { return logits.shape[0]; }
  int64_t classes() const { return logits.shape[1]; }
  bool row_samples() const { return samples.present && samples.shape.size() == 2; }
};

OrtStatus* ReadSampledInputs(const SampledLossKernel& kernel, const OrtKernelContext* context,
                             SampledInputs* inputs);
// Shapes, and that samples come with their probabilities.
OrtStatus* CheckSampledShapes(const SampledLossKernel& kernel, const SampledInputs& inputs);
// The same; then labels, and samples where they are given, which must be in the host's memory.
OrtStatus* CheckSampledInputs(const SampledLossKernel& kernel, const SampledInputs& inputs);

}  // namespace onnxloss::ort
