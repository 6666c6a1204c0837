// SPDX-License-Identifier: MIT
#include <limits>
#include <string>

#include "ort/operator.h"
#include "ort/reader.h"

namespace onnxloss::ort {
namespace {

OrtStatus* ReadMean(const AttributeReader& read, bool probabilities, Attributes* attributes) {
  MeanOver* over = &attributes->mean_over;
  if (!probabilities) {
    static const char* const kNames[] = {"weights", "positions", "valid", "nonzero"};
    if (OrtStatus* status = read.OneOf("mean_over", kNames, over)) return status;
  } else {
    // In the order of the operator's own reference.
    static const char* const kNames[] = {"positions", "weights", "nonzero"};
    static const MeanOver kChoices[] = {MeanOver::kPositions, MeanOver::kWeights,
                                        MeanOver::kNonzero};
    size_t index = 0;
    if (OrtStatus* status = read.OneOf("mean_over", kNames, &index)) return status;
    *over = kChoices[index];
  }
  static const char* const kEmpty[] = {"nan", "sum", "zero"};
  return read.OneOf("empty_mean", kEmpty, &attributes->empty_mean);
}

OrtStatus* ReadSmoothing(const AttributeReader& read, ElementType type, double* smoothing) {
  float high = 0;
  float low = 0;
  if (OrtStatus* status = read.Float("label_smoothing", &high)) return status;
  if (OrtStatus* status = read.Float("label_smoothing_low", &low)) return status;
  if (!(low == 0 || type == ElementType::kFloat64)) {
    return InvalidArgument(read.api, read.op, "label_smoothing_low", ToString(low),
                           std::string("0 for ") + NameOf(type) + " logits");
  }
  *smoothing = static_cast<double>(high) + static_cast<double>(low);
  if (!(*smoothing >= 0 && *smoothing <= 1)) {
    return InvalidArgument(read.api, read.op, "label_smoothing",
                           low == 0 ? ToString(high) : ToString(*smoothing), "a number in [0, 1]");
  }
  return nullptr;
}

// What is made of probabilities. After from_logits and logit_softcap.
OrtStatus* ReadNormalization(const AttributeReader& read, Attributes* attributes) {
  static const char* const kNames[] = {"none", "before_clip", "after_clip"};
  float high = 0;
  float low = 0;
  if (OrtStatus* status = read.OneOf("normalize", kNames, &attributes->normalize)) return status;
  if (OrtStatus* status = read.Float("epsilon", &high)) return status;
  if (OrtStatus* status = read.Float("epsilon_low", &low)) return status;
  const double epsilon = static_cast<double>(high) + static_cast<double>(low);
  const std::string shown = low == 0 ? ToString(high) : ToString(epsilon);
  attributes->epsilon = epsilon;
  if (attributes->normalize == Normalize::kNone) {
    if (epsilon == 0) return nullptr;
    return InvalidArgument(read.api, read.op, "epsilon", shown, "0 where normalize is \"none\"");
  }
  if (!(epsilon >= 0 && epsilon <= 0.5)) {
    return InvalidArgument(read.api, read.op, "epsilon", shown, "a number in [0, 0.5]");
  }
  if (attributes->from_logits) {
    return InvalidArgument(read.api, read.op, "normalize",
                           Quoted(kNames[static_cast<int>(attributes->normalize)]),
                           "\"none\" where from_logits is 1");
  }
  if (attributes->logit_softcap != 0) {
    return InvalidArgument(read.api, read.op, "logit_softcap",
                           ToString(static_cast<float>(attributes->logit_softcap)),
                           "0 beside normalize");
  }
  return nullptr;
}

}  // namespace

double EmptyDenominator(EmptyMean empty_mean) {
  switch (empty_mean) {
    case EmptyMean::kNan:
      return std::numeric_limits<double>::quiet_NaN();
    case EmptyMean::kSum:
      return 1;
    case EmptyMean::kZero:
      break;
  }
  return std::numeric_limits<double>::infinity();
}

OrtStatus* ReadAttributes(const OrtApi& api, const OrtKernelInfo* info, const Operator& op,
                          Attributes* attributes) {
  const AttributeReader read = {api, info, op.name};
  if (OrtStatus* status = read.Int("axis", &attributes->axis)) return status;
  attributes->ignore_index = 0;
  if (op.label_kind != LabelKind::kProbabilities) {
    if (OrtStatus* status = read.Int("ignore_index", &attributes->ignore_index)) return status;
  }
  if (OrtStatus* status = read.ReductionOf(&attributes->reduction)) return status;
  const bool probabilities = op.label_kind == LabelKind::kProbabilities;
  if (OrtStatus* status = ReadMean(read, probabilities, attributes)) return status;
  static const char* const kWeightings[] = {"class", "position"};
  size_t weighting = 0;
  if (OrtStatus* status = read.OneOf("class_weighting", kWeightings, &weighting)) {
    return status;
  }
  attributes->class_weights_positions = weighting == 1;
  int64_t from_logits = 0;
  if (OrtStatus* status = read.IntIn("from_logits", 0, 1, &from_logits)) return status;
  attributes->from_logits = from_logits == 1;
  if (OrtStatus* status = read.Factor("z_loss", &attributes->z_loss)) return status;
  if (OrtStatus* status = read.Factor("logit_softcap", &attributes->logit_softcap)) {
    return status;
  }
  if (OrtStatus* status = ReadNormalization(read, attributes)) return status;
  if (OrtStatus* status = ReadSmoothing(read, op.type, &attributes->label_smoothing)) return status;
  return read.StashType(op.type);
}

}  // namespace onnxloss::ort
