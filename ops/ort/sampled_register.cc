// SPDX-License-Identifier: MIT
// The sampled operators as ONNX Runtime sees them, and the attributes of their nodes.
#include <array>
#include <string>

#if defined(ONNXLOSS_WITH_CUDA)
#include "ort/cuda_kernel.h"
#endif
#include "ort/reader.h"
#include "ort/registration.h"
#include "ort/sampled_kernel.h"

namespace onnxloss::ort {

namespace {

constexpr int64_t kLargestCount = 2147483647;
constexpr int64_t kLargestSeed = 4294967295;

Registration<SampledOperator> Register(const SampledOperator& op) {
  Registration<SampledOperator> made = Describe(op);
  made.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                           void** kernel) {
    SampledLossKernel* created = nullptr;
    OrtStatus* status =
        CreateSampledLossKernel(*api, DescriptionOf<SampledOperator>(self), info, &created);
    *kernel = created;
    return status;
  };
  made.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return ComputeSampledLoss(*static_cast<const SampledLossKernel*>(kernel), context);
  };
  made.KernelDestroy = [](void* kernel) {
    DestroySampledLossKernel(static_cast<SampledLossKernel*>(kernel));
  };
  return made;
}

constexpr struct {
  const char* name;
  Form form;
} kOperators[] = {{"SampledSoftmaxCrossEntropyLoss", Form::kLoss},
                  {"SampledSoftmaxCrossEntropyLossGrad", Form::kGradient},
                  {"SampledSoftmaxCrossEntropyLossAndGrad", Form::kLossAndGradient}};

constexpr size_t kRegistrations = 3 * 4 * 2;

std::array<Registration<SampledOperator>, kRegistrations> MakeRegistrations(
    Registration<SampledOperator> (*make)(const SampledOperator& op)) {
  std::array<Registration<SampledOperator>, kRegistrations> made = {};
  size_t count = 0;
  for (const auto& entry : kOperators) {
    for (const ElementType type : {ElementType::kFloat16, ElementType::kBFloat16,
                                   ElementType::kFloat32, ElementType::kFloat64}) {
      for (const LabelKind kind : {LabelKind::kIndex32, LabelKind::kIndex64}) {
        made[count++] = make({{entry.name, entry.form, type, kind}});
      }
    }
  }
  return made;
}

}  // namespace

OrtStatus* ReadAttributes(const OrtApi& api, const OrtKernelInfo* info, const SampledOperator& op,
                          SampledAttributes* attributes) {
  const AttributeReader read = {api, info, op.name};
  int64_t remove_accidental_hits = 0;
  int64_t seed = 0;
  const struct {
    const char* name;
    int64_t least;
    int64_t most;
    int64_t* value;
  } integers[] = {{"num_samples", 1, kLargestCount, &attributes->num_samples},
                  {"num_true", 1, kLargestCount, &attributes->num_true},
                  {"remove_accidental_hits", 0, 1, &remove_accidental_hits},
                  {"seed", 0, kLargestSeed, &seed}};
  for (const auto& entry : integers) {
    if (OrtStatus* status = read.IntIn(entry.name, entry.least, entry.most, entry.value)) {
      return status;
    }
  }
  attributes->remove_accidental_hits = remove_accidental_hits == 1;
  attributes->seed = static_cast<uint32_t>(seed);
  if (OrtStatus* status = read.StashType(op.type)) return status;
  if (OrtStatus* status = read.Factor("z_loss", &attributes->z_loss)) return status;
  if (OrtStatus* status = read.Factor("logit_softcap", &attributes->logit_softcap)) return status;
  return read.ReductionOf(&attributes->reduction);
}

OrtStatus* CreateSampledLossKernel(const OrtApi& api, const SampledOperator& op,
                                   const OrtKernelInfo* info, SampledLossKernel** kernel) {
  return Guarded(api, op.name, [&]() -> OrtStatus* {
    SampledAttributes attributes = {};
    if (OrtStatus* status = ReadAttributes(api, info, op, &attributes)) return status;
    *kernel = new SampledLossKernel{api, op, attributes};
    return nullptr;
  });
}

OrtStatus* AddSampledOperators(const OrtApi& api, OrtCustomOpDomain* domain) {
  static const auto registrations = MakeRegistrations(Register);
  if (OrtStatus* status = AddAll(api, domain, registrations)) return status;
#if defined(ONNXLOSS_WITH_CUDA)
  static const auto on_cuda = MakeRegistrations(RegisterOnCuda);
  if (OrtStatus* status = AddAll(api, domain, on_cuda)) return status;
#endif
  return nullptr;
}

}  // namespace onnxloss::ort
