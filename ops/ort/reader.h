// SPDX-License-Identifier: MIT
// Reads a node's attributes: all must be there, and each error names the operator, the attribute
// and what is allowed.
#pragma once

#include <string>

#include "cpu/kernels.h"
#include "ort/status.h"

namespace onnxloss::ort {

enum class Reduction { kNone, kMean, kSum };

struct AttributeReader {
  const OrtApi& api;
  const OrtKernelInfo* info;
  const char* op;

  OrtStatus* Int(const char* name, int64_t* value) const;
  OrtStatus* IntIn(const char* name, int64_t least, int64_t most, int64_t* value) const;
  OrtStatus* Float(const char* name, float* value) const;
  // A finite number that is not negative.
  OrtStatus* Factor(const char* name, double* value) const;
  OrtStatus* String(const char* name, std::string* value) const;
  // 1 or 11: the element type of the sums of logits of this type.
  OrtStatus* StashType(ElementType logits) const;

  // The names' order is that of the enumeration.
  template <class Choice, size_t kCount>
  OrtStatus* OneOf(const char* name, const char* const (&names)[kCount], Choice* choice) const {
    size_t index = 0;
    OrtStatus* status = IndexOf(name, names, kCount, &index);
    if (status == nullptr) *choice = static_cast<Choice>(index);
    return status;
  }
  OrtStatus* ReductionOf(Reduction* reduction) const;

 private:
  OrtStatus* MissingIf(OrtStatus* failure, const char* name, const char* expected) const;
  OrtStatus* IndexOf(const char* name, const char* const* names, size_t count, size_t* index) const;
};

const char* NameOf(ElementType type);

}  // namespace onnxloss::ort
