// SPDX-License-Identifier: MIT
// What tells one registered operator from another, and the attributes of a node.
#pragma once

#include "cpu/kernels.h"
#include "ort/ort_abi.h"

namespace onnxloss::ort {

enum class Form { kLoss, kGradient, kLossAndGradient };
enum class Reduction { kNone, kMean, kSum };
// What replaces a denominator of 0: nan, 1 or infinity.
enum class EmptyMean { kNan, kSum, kZero };

// One registration: an operator for one type of logits and one of labels.
struct Operator {
  const char* name;
  Form form;
  ElementType type;
  LabelKind label_kind;

  bool has_loss() const { return form != Form::kGradient; }
  bool has_gradient() const { return form != Form::kLoss; }
  // Inputs: dloss (with a gradient), logits, labels; optional: class_weights,
  // sample_weights.
  size_t dloss() const { return 0; }
  size_t logits() const { return has_gradient() ? 1 : 0; }
  size_t labels() const { return logits() + 1; }
  size_t class_weights() const { return logits() + 2; }
  size_t sample_weights() const { return logits() + 3; }
  size_t inputs() const { return logits() + 4; }
  // Outputs: loss, dlogits, as the form has them; beside a loss, optional: lse.
  size_t loss() const { return 0; }
  size_t dlogits() const { return has_loss() ? 1 : 0; }
  size_t lse() const { return dlogits() + (has_gradient() ? 1 : 0); }
  size_t outputs() const { return lse() + (has_loss() ? 1 : 0); }

  ONNXTensorElementDataType logits_type() const {
    return static_cast<ONNXTensorElementDataType>(type);
  }
  // The type of loss, lse, dloss and the weights.
  ONNXTensorElementDataType sum_type() const {
    return type == ElementType::kFloat64 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE
                                         : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  }
  ONNXTensorElementDataType labels_type() const {
    switch (label_kind) {
      case LabelKind::kIndex32:
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
      case LabelKind::kIndex64:
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
      case LabelKind::kProbabilities:
        break;
    }
    return logits_type();
  }
};

// The attributes that a node must carry, all of them. What ranges they may have besides the shapes
// is checked when they are read; `axis` is checked against each logits.
struct Attributes {
  int64_t axis;
  int64_t ignore_index;  // SoftmaxCrossEntropyLoss only
  Reduction reduction;
  MeanOver mean_over;
  EmptyMean empty_mean;
  bool class_weights_positions;  // class_weighting "position"
  bool from_logits;
  double z_loss;
  double logit_softcap;
  double label_smoothing;  // label_smoothing + label_smoothing_low
};

OrtStatus* ReadAttributes(const OrtApi& api, const OrtKernelInfo* info, const Operator& op,
                          Attributes* attributes);

}  // namespace onnxloss::ort
