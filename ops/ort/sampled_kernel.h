// SPDX-License-Identifier: MIT
// SampledSoftmaxCrossEntropyLoss and its gradients: a node's attributes, and what runs it.
#pragma once

#include "cpu/sampled.h"
#include "ort/operator.h"

namespace onnxloss::ort {

struct SampledOperator : OperatorBase {
  // Inputs: logits, labels, samples, probabilities; the last two are optional but in the gradient
  // alone, which must get those of the loss.
  size_t samples() const { return logits() + 2; }
  size_t probabilities() const { return logits() + 3; }
  size_t inputs() const { return logits() + 4; }
  // Outputs: loss, dlogits, then the optional lse, drawn_samples and drawn_probabilities, which
  // the gradient alone has not.
  size_t lse() const { return has_gradient() ? 2 : 1; }
  size_t drawn_samples() const { return lse() + 1; }
  size_t drawn_probabilities() const { return drawn_samples() + 1; }
  size_t outputs() const { return has_loss() ? drawn_probabilities() + 1 : 1; }

  ONNXTensorElementDataType input_type(size_t index) const {
    if (index == logits()) return logits_type();
    if (index == labels()) return labels_type();
    return index == samples() ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : sum_type();
  }
  ONNXTensorElementDataType output_type(size_t index) const {
    if (has_gradient() && index == dlogits()) return logits_type();
    return index == drawn_samples() ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : sum_type();
  }
  bool input_is_optional(size_t index) const { return has_loss() && index >= samples(); }
  bool output_is_optional(size_t index) const { return has_loss() && index >= lse(); }
};

struct SampledAttributes {
  int64_t num_samples;
  int64_t num_true;
  bool remove_accidental_hits;
  uint32_t seed;
  Reduction reduction;
  double z_loss;
  double logit_softcap;
};

struct SampledLossKernel {
  const OrtApi& api;
  SampledOperator op;
  SampledAttributes attributes;
};

OrtStatus* ReadAttributes(const OrtApi& api, const OrtKernelInfo* info, const SampledOperator& op,
                          SampledAttributes* attributes);
OrtStatus* CreateSampledLossKernel(const OrtApi& api, const SampledOperator& op,
                                   const OrtKernelInfo* info, SampledLossKernel** kernel);
void DestroySampledLossKernel(SampledLossKernel* kernel);

// Checks every shape, label and given sample before it asks for an output.
OrtStatus* ComputeSampledLoss(const SampledLossKernel& kernel, OrtKernelContext* context);

// Adds the operators to a domain that lives no longer than this library.
OrtStatus* AddSampledOperators(const OrtApi& api, OrtCustomOpDomain* domain);

}  // namespace onnxloss::ort
