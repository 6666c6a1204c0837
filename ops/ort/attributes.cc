// SPDX-License-Identifier: MIT
#include <limits>
#include <string>

#include "ort/operator.h"
#include "ort/status.h"

namespace onnxloss::ort {
namespace {

struct Reader {
  const OrtApi& api;
  const OrtKernelInfo* info;
  const char* op;

  // ONNX Runtime's own status says neither which operator nor what was expected.
  OrtStatus* MissingIf(OrtStatus* failure, const char* name, const char* expected) const {
    if (failure == nullptr) return nullptr;
    api.ReleaseStatus(failure);
    return InvalidArgument(api, op, std::string("attribute ") + name, "missing or of another type",
                           expected);
  }
  OrtStatus* Int(const char* name, int64_t* value) const {
    return MissingIf(api.KernelInfoGetAttribute_int64(info, name, value), name, "an integer");
  }
  OrtStatus* Float(const char* name, float* value) const {
    return MissingIf(api.KernelInfoGetAttribute_float(info, name, value), name, "a number");
  }
  OrtStatus* String(const char* name, std::string* value) const {
    size_t size = 0;
    OrtStatus* status = api.KernelInfoGetAttribute_string(info, name, nullptr, &size);
    if (status == nullptr) {
      value->resize(size);
      status = api.KernelInfoGetAttribute_string(info, name, value->data(), &size);
      value->resize(size > 0 ? size - 1 : 0);
    }
    return MissingIf(status, name, "a string");
  }
};

const char* NameOf(ElementType type) {
  switch (type) {
    case ElementType::kFloat16:
      return "float16";
    case ElementType::kBFloat16:
      return "bfloat16";
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kFloat64:
      return "float64";
  }
  return "unknown";
}

// The names' order is that of the enumeration.
template <class Choice, size_t kCount>
OrtStatus* ReadChoice(const Reader& read, const char* attribute, const char* const (&names)[kCount],
                      Choice* choice) {
  std::string given;
  if (OrtStatus* status = read.String(attribute, &given)) return status;
  std::string allowed;
  for (size_t i = 0; i < kCount; ++i) {
    if (given == names[i]) {
      *choice = static_cast<Choice>(i);
      return nullptr;
    }
    allowed += (i > 0 ? " or " : "") + Quoted(names[i]);
  }
  return InvalidArgument(read.api, read.op, attribute, Quoted(given), allowed);
}

OrtStatus* ReadMean(const Reader& read, bool probabilities, Attributes* attributes) {
  MeanOver* over = &attributes->mean_over;
  if (!probabilities) {
    static const char* const kNames[] = {"weights", "positions", "valid", "nonzero"};
    if (OrtStatus* status = ReadChoice(read, "mean_over", kNames, over)) return status;
  } else {
    // In the order of the operator's own reference.
    static const char* const kNames[] = {"positions", "weights", "nonzero"};
    static const MeanOver kChoices[] = {MeanOver::kPositions, MeanOver::kWeights,
                                        MeanOver::kNonzero};
    size_t index = 0;
    if (OrtStatus* status = ReadChoice(read, "mean_over", kNames, &index)) return status;
    *over = kChoices[index];
  }
  static const char* const kEmpty[] = {"nan", "sum", "zero"};
  return ReadChoice(read, "empty_mean", kEmpty, &attributes->empty_mean);
}

OrtStatus* ReadFactor(const Reader& read, const char* name, double* factor) {
  float value = 0;
  if (OrtStatus* status = read.Float(name, &value)) return status;
  if (!(value >= 0 && value <= std::numeric_limits<float>::max())) {
    return InvalidArgument(read.api, read.op, name, ToString(value),
                           "a number in [0, 3.40282e+38]");
  }
  *factor = static_cast<double>(value);
  return nullptr;
}

OrtStatus* ReadSmoothing(const Reader& read, ElementType type, double* smoothing) {
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

}  // namespace

OrtStatus* ReadAttributes(const OrtApi& api, const OrtKernelInfo* info, const Operator& op,
                          Attributes* attributes) {
  const Reader read = {api, info, op.name};
  if (OrtStatus* status = read.Int("axis", &attributes->axis)) return status;
  attributes->ignore_index = 0;
  if (op.label_kind != LabelKind::kProbabilities) {
    if (OrtStatus* status = read.Int("ignore_index", &attributes->ignore_index)) return status;
  }
  static const char* const kReductions[] = {"none", "mean", "sum"};
  if (OrtStatus* status = ReadChoice(read, "reduction", kReductions, &attributes->reduction)) {
    return status;
  }
  const bool probabilities = op.label_kind == LabelKind::kProbabilities;
  if (OrtStatus* status = ReadMean(read, probabilities, attributes)) return status;
  static const char* const kWeightings[] = {"class", "position"};
  size_t weighting = 0;
  if (OrtStatus* status = ReadChoice(read, "class_weighting", kWeightings, &weighting)) {
    return status;
  }
  attributes->class_weights_positions = weighting == 1;
  int64_t from_logits = 0;
  if (OrtStatus* status = read.Int("from_logits", &from_logits)) return status;
  if (from_logits != 0 && from_logits != 1) {
    return InvalidArgument(api, op.name, "from_logits", std::to_string(from_logits), "0 or 1");
  }
  attributes->from_logits = from_logits == 1;
  if (OrtStatus* status = ReadFactor(read, "z_loss", &attributes->z_loss)) return status;
  if (OrtStatus* status = ReadFactor(read, "logit_softcap", &attributes->logit_softcap)) {
    return status;
  }
  if (OrtStatus* status = ReadSmoothing(read, op.type, &attributes->label_smoothing)) return status;
  int64_t stash_type = 0;
  if (OrtStatus* status = read.Int("stash_type", &stash_type)) return status;
  const int64_t expected = op.sum_type();
  if (stash_type != expected) {
    return InvalidArgument(api, op.name, "stash_type", std::to_string(stash_type),
                           std::to_string(expected) + " for " + NameOf(op.type) + " logits");
  }
  return nullptr;
}

}  // namespace onnxloss::ort
