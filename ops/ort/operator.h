// SPDX-License-Identifier: MIT
// What tells one registered operator from another, and the attributes of a node.
#pragma once

#include "cpu/kernels.h"
#include "ort/ort_abi.h"
#include "ort/reader.h"

namespace onnxloss::ort {

enum class Form { kLoss, kGradient, kLossAndGradient };
// Of a mean whose denominator is 0: nan, the sum or 0.
enum class EmptyMean { kNan, kSum, kZero };

// What every registration is: an operator for one type of logits and one of labels. Where there is
// a gradient, the first input is dloss.
struct OperatorBase {
  const char* name;
  Form form;
  ElementType type;
  LabelKind label_kind;

  bool has_loss() const { return form != Form::kGradient; }
  bool has_gradient() const { return form != Form::kLoss; }
  size_t dloss() const { return 0; }
  size_t logits() const { return has_gradient() ? 1 : 0; }
  size_t labels() const { return logits() + 1; }
  size_t loss() const { return 0; }
  size_t dlogits() const { return has_loss() ? 1 : 0; }

  ONNXTensorElementDataType logits_type() const {
    return static_cast<ONNXTensorElementDataType>(type);
  }
  // The type of the sums: of loss, lse, dloss and the weights.
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

struct Operator : OperatorBase {
  // Inputs: logits, labels; optional: class_weights, sample_weights.
  size_t class_weights() const { return logits() + 2; }
  size_t sample_weights() const { return logits() + 3; }
  size_t inputs() const { return logits() + 4; }
  // Outputs: loss, dlogits, as the form has them; optional: lse beside a loss, dlabels beside a
  // gradient where the labels are probabilities.
  size_t lse() const { return dlogits() + (has_gradient() ? 1 : 0); }
  size_t dlabels() const { return lse() + (has_loss() ? 1 : 0); }
  bool has_label_gradient() const {
    return has_gradient() && label_kind == LabelKind::kProbabilities;
  }
  size_t outputs() const { return dlabels() + (has_label_gradient() ? 1 : 0); }

  ONNXTensorElementDataType input_type(size_t index) const {
    if (index == logits()) return logits_type();
    return index == labels() ? labels_type() : sum_type();
  }
  ONNXTensorElementDataType output_type(size_t index) const {
    const bool is_gradient = (has_gradient() && index == dlogits()) || index == dlabels();
    return is_gradient ? logits_type() : sum_type();
  }
  bool input_is_optional(size_t index) const { return index >= class_weights(); }
  bool output_is_optional(size_t index) const { return index >= lse(); }
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
  Normalize normalize;
  double epsilon;
  double z_loss;
  double logit_softcap;
  double label_smoothing;  // label_smoothing + label_smoothing_low
};

// What replaces a denominator of 0.
double EmptyDenominator(EmptyMean empty_mean);

OrtStatus* ReadAttributes(const OrtApi& api, const OrtKernelInfo* info, const Operator& op,
                          Attributes* attributes);

}  // namespace onnxloss::ort
