// SPDX-License-Identifier: MIT
// What every registered operator tells ONNX Runtime in the same way.
#pragma once

#include "ort/ort_abi.h"

namespace onnxloss::ort {

// An OrtCustomOp with its description behind it. `Op` has: name, inputs(), outputs(), and for each
// port input_type, output_type, input_is_optional and output_is_optional.
template <class Op>
struct Registration : OrtCustomOp {
  Op op;
};

template <class Op>
const Op& DescriptionOf(const OrtCustomOp* op) {
  return static_cast<const Registration<Op>*>(op)->op;
}

inline OrtCustomOpInputOutputCharacteristic CharacteristicOf(bool is_optional) {
  return is_optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
}

// All but the kernel: CreateKernelV2, KernelComputeV2 and KernelDestroy are the caller's.
template <class Op>
Registration<Op> Describe(const Op& op) {
  Registration<Op> made = {};
  made.version = kApiVersion;
  made.GetName = [](const OrtCustomOp* self) { return DescriptionOf<Op>(self).name; };
  made.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* {
    return "CPUExecutionProvider";
  };
  made.GetInputType = [](const OrtCustomOp* self, size_t index) {
    return DescriptionOf<Op>(self).input_type(index);
  };
  made.GetInputTypeCount = [](const OrtCustomOp* self) { return DescriptionOf<Op>(self).inputs(); };
  made.GetOutputType = [](const OrtCustomOp* self, size_t index) {
    return DescriptionOf<Op>(self).output_type(index);
  };
  made.GetOutputTypeCount = [](const OrtCustomOp* self) {
    return DescriptionOf<Op>(self).outputs();
  };
  made.GetInputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    return CharacteristicOf(DescriptionOf<Op>(self).input_is_optional(index));
  };
  made.GetOutputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    return CharacteristicOf(DescriptionOf<Op>(self).output_is_optional(index));
  };
  made.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  made.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  made.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  made.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  made.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  // No InferOutputShapeFn: ONNX Runtime cannot tell it a tensor of unknown rank from a scalar.
  made.op = op;
  return made;
}

// The domain must live no longer than the registrations.
template <class Registrations>
OrtStatus* AddAll(const OrtApi& api, OrtCustomOpDomain* domain,
                  const Registrations& registrations) {
  for (const auto& registration : registrations) {
    if (OrtStatus* status = api.CustomOpDomain_Add(domain, &registration)) return status;
  }
  return nullptr;
}

}  // namespace onnxloss::ort
