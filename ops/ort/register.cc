// SPDX-License-Identifier: MIT
// The library's two exported functions.
#include <array>
#include <cstring>
#include <mutex>

#include "cpu/kernels.h"
#if defined(ONNXLOSS_WITH_CUDA)
#include "cuda/loss.h"
#include "cuda/sampled.h"
#include "ort/cuda_kernel.h"
#endif
#include "ort/loss_kernel.h"
#include "ort/registration.h"
#include "ort/sampled_kernel.h"
#include "ort/status.h"

#if defined(_WIN32)
#define ONNXLOSS_EXPORT extern "C" __declspec(dllexport)
#else
#define ONNXLOSS_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace onnxloss::ort {
namespace {

Registration<Operator> Register(const Operator& op) {
  Registration<Operator> made = Describe(op);
  made.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                           void** kernel) {
    LossKernel* created = nullptr;
    OrtStatus* status = CreateLossKernel(*api, DescriptionOf<Operator>(self), info, &created);
    *kernel = created;
    return status;
  };
  made.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    return ComputeLoss(*static_cast<const LossKernel*>(kernel), context);
  };
  made.KernelDestroy = [](void* kernel) { DestroyLossKernel(static_cast<LossKernel*>(kernel)); };
  return made;
}

constexpr struct {
  const char* name;
  Form form;
} kIndexOperators[] = {{"SoftmaxCrossEntropyLoss", Form::kLoss},
                       {"SoftmaxCrossEntropyLossGrad", Form::kGradient},
                       {"SoftmaxCrossEntropyLossAndGrad", Form::kLossAndGradient}},
  kProbabilityOperators[] = {{"SoftLabelCrossEntropyLoss", Form::kLoss},
                             {"SoftLabelCrossEntropyLossGrad", Form::kGradient},
                             {"SoftLabelCrossEntropyLossAndGrad", Form::kLossAndGradient}};
constexpr ElementType kTypes[] = {ElementType::kFloat16, ElementType::kBFloat16,
                                  ElementType::kFloat32, ElementType::kFloat64};
constexpr LabelKind kIndexKinds[] = {LabelKind::kIndex32, LabelKind::kIndex64};

constexpr size_t kRegistrations = 3 * 4 * 2 + 3 * 4;

std::array<Registration<Operator>, kRegistrations> MakeRegistrations(
    Registration<Operator> (*make)(const Operator& op)) {
  std::array<Registration<Operator>, kRegistrations> made = {};
  size_t count = 0;
  for (const ElementType type : kTypes) {
    for (const auto& entry : kIndexOperators) {
      for (const LabelKind kind : kIndexKinds) {
        made[count++] = make({{entry.name, entry.form, type, kind}});
      }
    }
    for (const auto& entry : kProbabilityOperators) {
      made[count++] = make({{entry.name, entry.form, type, LabelKind::kProbabilities}});
    }
  }
  return made;
}

// A domain must outlive every session that it was added to, and may be added to any number of
// them: there is one for each runtime in the process, for as long as the process lives.
struct Domains {
  struct Entry {
    const OrtApi* api;
    OrtCustomOpDomain* domain;
  };
  std::mutex mutex;
  Entry entries[8] = {};
  size_t count = 0;
};

OrtStatus* MakeDomain(const OrtApi& api, OrtCustomOpDomain** domain) {
  static const auto registrations = MakeRegistrations(Register);
  if (OrtStatus* status = api.CreateCustomOpDomain("onnxloss", domain)) return status;
  if (OrtStatus* status = AddAll(api, *domain, registrations)) return status;
#if defined(ONNXLOSS_WITH_CUDA)
  static const auto on_cuda = MakeRegistrations(RegisterOnCuda);
  if (OrtStatus* status = AddAll(api, *domain, on_cuda)) return status;
#endif
  return AddSampledOperators(api, *domain);
}

OrtStatus* DomainFor(const OrtApi& api, OrtCustomOpDomain** domain) {
  static Domains domains;
  const std::lock_guard<std::mutex> lock(domains.mutex);
  for (size_t i = 0; i < domains.count; ++i) {
    if (domains.entries[i].api == &api) {
      *domain = domains.entries[i].domain;
      return nullptr;
    }
  }
  if (domains.count == sizeof(domains.entries) / sizeof(domains.entries[0])) {
    return api.CreateStatus(ORT_FAIL, "onnxloss: too many runtimes in one process");
  }
  if (OrtStatus* status = MakeDomain(api, domain)) return status;
  domains.entries[domains.count++] = {&api, *domain};
  return nullptr;
}

}  // namespace
}  // namespace onnxloss::ort

ONNXLOSS_EXPORT onnxloss::ort::OrtStatus* RegisterCustomOps(
    onnxloss::ort::OrtSessionOptions* options, const onnxloss::ort::OrtApiBase* base) {
  using namespace onnxloss::ort;
  const OrtApi* api = base->GetApi(kApiVersion);
  if (api == nullptr) {
    // The first slot has been the same since the first version.
    const OrtApi* oldest = base->GetApi(1);
    if (oldest == nullptr) return nullptr;
    return oldest->CreateStatus(ORT_FAIL,
                                "onnxloss: ONNX Runtime is too old; expected 1.19 or newer.");
  }
  return Guarded(*api, "onnxloss", [&]() -> OrtStatus* {
    OrtCustomOpDomain* domain = nullptr;
    if (OrtStatus* status = DomainFor(*api, &domain)) return status;
    return api->AddCustomOpDomain(options, domain);
  });
}

#if defined(ONNXLOSS_WITH_CUDA)
// The CUDA kernels without ONNX Runtime, for tests and benchmarks: see ops/cuda/loss.h.
ONNXLOSS_EXPORT const char* OnnxLossCudaLargestCluster(int* blocks) {
  return onnxloss::cuda::LargestCluster(blocks);
}

ONNXLOSS_EXPORT int64_t OnnxLossCudaScratchBytes(const onnxloss::cuda::LossCall* call) {
  return onnxloss::cuda::ScratchBytes(*call);
}

ONNXLOSS_EXPORT const char* OnnxLossCudaRun(const onnxloss::cuda::LossCall* call, void* scratch,
                                            void* stream) {
  return onnxloss::cuda::RunLoss(*call, scratch, stream);
}

ONNXLOSS_EXPORT int64_t OnnxLossCudaSampledScratchBytes(const onnxloss::cuda::SampledCall* call) {
  return onnxloss::cuda::SampledScratchBytes(*call);
}

ONNXLOSS_EXPORT const char* OnnxLossCudaRunSampled(const onnxloss::cuda::SampledCall* call,
                                                   void* scratch, void* stream) {
  return onnxloss::cuda::RunSampled(*call, scratch, stream);
}
#endif

// Makes every kernel of this process use "v2", "v3" or "v4" (x86-64), "baseline" (elsewhere), or
// the best one again with "auto". Returns 0, or 1 and changes nothing where this machine cannot run
// it.
ONNXLOSS_EXPORT int OnnxLossSetInstructionSet(const char* name) {
  return name != nullptr && onnxloss::SetInstructionSet(name) ? 0 : 1;
}
