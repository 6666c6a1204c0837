// SPDX-License-Identifier: MIT
#include <cmath>
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

OrtStatus* ReadReduction(const Reader& read, Reduction* reduction) {
  std::string name;
  if (OrtStatus* status = read.String("reduction", &name)) return status;
  if (name == "none") {
    *reduction = Reduction::kNone;
  } else if (name == "mean") {
    *reduction = Reduction::kMean;
  } else if (name == "sum") {
    *reduction = Reduction::kSum;
  } else {
    return InvalidArgument(read.api, read.op, "reduction", Quoted(name),
                           "\"none\" or \"mean\" or \"sum\"");
  }
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
  if (OrtStatus* status = ReadReduction(read, &attributes->reduction)) return status;
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
