// SPDX-License-Identifier: MIT
// The sampled operators as ONNX Runtime sees them, and the attributes of their nodes.
#include <array>
#include <string>

#include "ort/sampled_kernel.h"
#include "ort/status.h"

namespace onnxloss::ort {

ONNXTensorElementDataType SampledOperator::input_type(size_t index) const {
  if (index == logits()) return static_cast<ONNXTensorElementDataType>(type);
  if (index == labels()) {
    return label_kind == LabelKind::kIndex64 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64
                                             : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  }
  return index == samples() ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : sum_type();
}

ONNXTensorElementDataType SampledOperator::output_type(size_t index) const {
  if (has_gradient() && index == dlogits()) return static_cast<ONNXTensorElementDataType>(type);
  return index == drawn_samples() ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : sum_type();
}

namespace {

constexpr int64_t kLargestCount = 2147483647;
constexpr int64_t kLargestSeed = 4294967295;

struct Registration : OrtCustomOp {
  SampledOperator op;
};

const SampledOperator& OperatorOf(const OrtCustomOp* op) {
  return static_cast<const Registration*>(op)->op;
}

OrtStatus* ReadInt(const OrtApi& api, const OrtKernelInfo* info, const char* op, const char* name,
                   int64_t least, int64_t most, int64_t* value) {
  if (OrtStatus* failure = api.KernelInfoGetAttribute_int64(info, name, value)) {
    api.ReleaseStatus(failure);
    return InvalidArgument(api, op, std::string("attribute ") + name, "missing or of another type",
                           "an integer");
  }
  if (*value >= least && *value <= most) return nullptr;
  const std::string range =
      most == least + 1
          ? std::to_string(least) + " or " + std::to_string(most)
          : "an integer in [" + std::to_string(least) + ", " + std::to_string(most) + "]";
  return InvalidArgument(api, op, name, std::to_string(*value), range);
}

OrtStatus* ReadReduction(const OrtApi& api, const OrtKernelInfo* info, const char* op,
                         Reduction* reduction) {
  char name[64] = {};
  size_t size = sizeof(name);
  constexpr const char* kAllowed = "\"none\" or \"mean\" or \"sum\"";
  if (OrtStatus* failure = api.KernelInfoGetAttribute_string(info, "reduction", name, &size)) {
    api.ReleaseStatus(failure);
    return InvalidArgument(api, op, "attribute reduction", "missing or of another type", kAllowed);
  }
  const std::string given(name);
  if (given != "none" && given != "mean" && given != "sum") {
    return InvalidArgument(api, op, "reduction", Quoted(given), kAllowed);
  }
  *reduction = given == "none"   ? Reduction::kNone
               : given == "mean" ? Reduction::kMean
                                 : Reduction::kSum;
  return nullptr;
}

OrtStatus* ReadSampledAttributes(const OrtApi& api, const OrtKernelInfo* info,
                                 const SampledOperator& op, SampledAttributes* attributes) {
  int64_t remove_accidental_hits = 0;
  int64_t seed = 0;
  int64_t stash_type = 0;
  const struct {
    const char* name;
    int64_t least;
    int64_t most;
    int64_t* value;
  } integers[] = {{"num_samples", 1, kLargestCount, &attributes->num_samples},
                  {"num_true", 1, kLargestCount, &attributes->num_true},
                  {"remove_accidental_hits", 0, 1, &remove_accidental_hits},
                  {"seed", 0, kLargestSeed, &seed},
                  {"stash_type", 0, kLargestCount, &stash_type}};
  for (const auto& entry : integers) {
    if (OrtStatus* status =
            ReadInt(api, info, op.name, entry.name, entry.least, entry.most, entry.value)) {
      return status;
    }
  }
  attributes->remove_accidental_hits = remove_accidental_hits == 1;
  attributes->seed = static_cast<uint32_t>(seed);
  if (stash_type != op.sum_type()) {
    return InvalidArgument(
        api, op.name, "stash_type", std::to_string(stash_type),
        std::to_string(static_cast<int>(op.sum_type())) + " for logits of this type");
  }
  return ReadReduction(api, info, op.name, &attributes->reduction);
}

Registration Register(const SampledOperator& op) {
  Registration made = {};
  made.version = kApiVersion;
  made.GetName = [](const OrtCustomOp* self) { return OperatorOf(self).name; };
  made.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* {
    return "CPUExecutionProvider";
  };
  made.GetInputType = [](const OrtCustomOp* self, size_t index) {
    return OperatorOf(self).input_type(index);
  };
  made.GetInputTypeCount = [](const OrtCustomOp* self) { return OperatorOf(self).inputs(); };
  made.GetOutputType = [](const OrtCustomOp* self, size_t index) {
    return OperatorOf(self).output_type(index);
  };
  made.GetOutputTypeCount = [](const OrtCustomOp* self) { return OperatorOf(self).outputs(); };
  made.KernelDestroy = [](void* kernel) {
    DestroySampledLossKernel(static_cast<SampledLossKernel*>(kernel));
  };
  made.GetInputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    const SampledOperator& given = OperatorOf(self);
    const bool optional = given.has_loss() && index >= given.samples();
    return optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  made.GetOutputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    const SampledOperator& given = OperatorOf(self);
    const bool optional = given.has_loss() && index >= given.drawn_samples();
    return optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  made.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  made.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  made.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  made.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  made.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  made.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                           void** kernel) {
    SampledLossKernel* created = nullptr;
    OrtStatus* status = CreateSampledLossKernel(*api, OperatorOf(self), info, &created);
    *kernel = created;
    return status;
  };
  made.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return ComputeSampledLoss(*static_cast<const SampledLossKernel*>(kernel), context);
  };
  made.op = op;
  return made;
}

constexpr struct {
  const char* name;
  Form form;
} kOperators[] = {{"SampledSoftmaxCrossEntropyLoss", Form::kLoss},
                  {"SampledSoftmaxCrossEntropyLossGrad", Form::kGradient},
                  {"SampledSoftmaxCrossEntropyLossAndGrad", Form::kLossAndGradient}};

constexpr size_t kRegistrations = 3 * 4 * 2;

std::array<Registration, kRegistrations> MakeRegistrations() {
  std::array<Registration, kRegistrations> made = {};
  size_t count = 0;
  for (const auto& entry : kOperators) {
    for (const ElementType type : {ElementType::kFloat16, ElementType::kBFloat16,
                                   ElementType::kFloat32, ElementType::kFloat64}) {
      for (const LabelKind kind : {LabelKind::kIndex32, LabelKind::kIndex64}) {
        made[count++] = Register({entry.name, entry.form, type, kind});
      }
    }
  }
  return made;
}

}  // namespace

OrtStatus* CreateSampledLossKernel(const OrtApi& api, const SampledOperator& op,
                                   const OrtKernelInfo* info, SampledLossKernel** kernel) {
  return Guarded(api, op.name, [&]() -> OrtStatus* {
    SampledAttributes attributes = {};
    if (OrtStatus* status = ReadSampledAttributes(api, info, op, &attributes)) return status;
    *kernel = new SampledLossKernel{api, op, attributes};
    return nullptr;
  });
}

OrtStatus* AddSampledOperators(const OrtApi& api, OrtCustomOpDomain* domain) {
  static const std::array<Registration, kRegistrations> registrations = MakeRegistrations();
  for (const Registration& registration : registrations) {
    if (OrtStatus* status = api.CustomOpDomain_Add(domain, &registration)) return status;
  }
  return nullptr;
}

}  // namespace onnxloss::ort
