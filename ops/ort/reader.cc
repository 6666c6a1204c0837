// SPDX-License-Identifier: MIT
#include "ort/reader.h"

#include <limits>

namespace onnxloss::ort {

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

// ONNX Runtime's own status says neither which operator nor what was expected.
OrtStatus* AttributeReader::MissingIf(OrtStatus* failure, const char* name,
                                      const char* expected) const {
  if (failure == nullptr) return nullptr;
  api.ReleaseStatus(failure);
  return InvalidArgument(api, op, std::string("attribute ") + name, "missing or of another type",
                         expected);
}

OrtStatus* AttributeReader::Int(const char* name, int64_t* value) const {
  return MissingIf(api.KernelInfoGetAttribute_int64(info, name, value), name, "an integer");
}

OrtStatus* AttributeReader::IntIn(const char* name, int64_t least, int64_t most,
                                  int64_t* value) const {
  if (OrtStatus* status = Int(name, value)) return status;
  if (*value >= least && *value <= most) return nullptr;
  const std::string bounds[] = {std::to_string(least), std::to_string(most)};
  return InvalidArgument(api, op, name, std::to_string(*value),
                         most == least + 1
                             ? bounds[0] + " or " + bounds[1]
                             : "an integer in [" + bounds[0] + ", " + bounds[1] + "]");
}

OrtStatus* AttributeReader::Float(const char* name, float* value) const {
  return MissingIf(api.KernelInfoGetAttribute_float(info, name, value), name, "a number");
}

OrtStatus* AttributeReader::Factor(const char* name, double* value) const {
  float given = 0;
  if (OrtStatus* status = Float(name, &given)) return status;
  if (!(given >= 0 && given <= std::numeric_limits<float>::max())) {
    return InvalidArgument(api, op, name, ToString(given), "a number in [0, 3.40282e+38]");
  }
  *value = static_cast<double>(given);
  return nullptr;
}

OrtStatus* AttributeReader::String(const char* name, std::string* value) const {
  size_t size = 0;
  OrtStatus* status = api.KernelInfoGetAttribute_string(info, name, nullptr, &size);
  if (status == nullptr) {
    value->resize(size);
    status = api.KernelInfoGetAttribute_string(info, name, value->data(), &size);
    value->resize(size > 0 ? size - 1 : 0);
  }
  return MissingIf(status, name, "a string");
}

OrtStatus* AttributeReader::IndexOf(const char* name, const char* const* names, size_t count,
                                    size_t* index) const {
  std::string given;
  if (OrtStatus* status = String(name, &given)) return status;
  std::string allowed;
  for (size_t i = 0; i < count; ++i) {
    if (given == names[i]) {
      *index = i;
      return nullptr;
    }
    allowed += (i > 0 ? " or " : "") + Quoted(names[i]);
  }
  return InvalidArgument(api, op, name, Quoted(given), allowed);
}

OrtStatus* AttributeReader::ReductionOf(Reduction* reduction) const {
  static const char* const kNames[] = {"none", "mean", "sum"};
  return OneOf("reduction", kNames, reduction);
}

OrtStatus* AttributeReader::StashType(ElementType logits) const {
  int64_t given = 0;
  if (OrtStatus* status = Int("stash_type", &given)) return status;
  const ElementType sums =
      logits == ElementType::kFloat64 ? ElementType::kFloat64 : ElementType::kFloat32;
  if (given == static_cast<int64_t>(sums)) return nullptr;
  return InvalidArgument(
      api, op, "stash_type", std::to_string(given),
      std::to_string(static_cast<int>(sums)) + " for " + NameOf(logits) + " logits");
}

}  // namespace onnxloss::ort
