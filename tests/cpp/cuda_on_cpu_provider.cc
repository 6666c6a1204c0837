// SPDX-License-Identifier: MIT
// The operators of CUDAExecutionProvider, registered for the CPU's, whose tensors are where the
// emulated kernels can read them: so ONNX Runtime itself runs their glue without a GPU. Those of
// the CPU stay out, and what they need of ops/cpu is not linked.
#include <cstdlib>
#include <deque>
#include <string>

#include "cpu/kernels.h"
#include "ort/loss_kernel.h"
#include "ort/sampled_kernel.h"

extern "C" onnxloss::ort::OrtStatus* RegisterOnEveryProvider(
    onnxloss::ort::OrtSessionOptions* options, const onnxloss::ort::OrtApiBase* base);

namespace onnxloss {

bool SetInstructionSet(const char*) { return false; }

namespace ort {

OrtStatus* CreateLossKernel(const OrtApi&, const Operator&, const OrtKernelInfo*, LossKernel**) {
  return nullptr;
}
void DestroyLossKernel(LossKernel*) {}
OrtStatus* ComputeLoss(const LossKernel&, OrtKernelContext*) { return nullptr; }
void DestroySampledLossKernel(SampledLossKernel*) {}
OrtStatus* ComputeSampledLoss(const SampledLossKernel&, OrtKernelContext*) { return nullptr; }

namespace {

// ONNX Runtime's own, but for the operators that it is told of, and scratch memory.
OrtApi watched;

// An operator that another stands behind.
struct OnCpuProvider : OrtCustomOp {
  const OrtCustomOp* on_cuda;
};

const OrtCustomOp* Behind(const OrtCustomOp* op) {
  return static_cast<const OnCpuProvider*>(op)->on_cuda;
}

OnCpuProvider MoveToCpuProvider(const OrtCustomOp* op) {
  OnCpuProvider moved = {*op, op};
  moved.GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
  moved.GetName = [](const OrtCustomOp* self) { return Behind(self)->GetName(Behind(self)); };
  moved.GetInputType = [](const OrtCustomOp* self, size_t index) {
    return Behind(self)->GetInputType(Behind(self), index);
  };
  moved.GetInputTypeCount = [](const OrtCustomOp* self) {
    return Behind(self)->GetInputTypeCount(Behind(self));
  };
  moved.GetOutputType = [](const OrtCustomOp* self, size_t index) {
    return Behind(self)->GetOutputType(Behind(self), index);
  };
  moved.GetOutputTypeCount = [](const OrtCustomOp* self) {
    return Behind(self)->GetOutputTypeCount(Behind(self));
  };
  moved.GetInputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    return Behind(self)->GetInputCharacteristic(Behind(self), index);
  };
  moved.GetOutputCharacteristic = [](const OrtCustomOp* self, size_t index) {
    return Behind(self)->GetOutputCharacteristic(Behind(self), index);
  };
  moved.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi*, const OrtKernelInfo* info,
                            void** kernel) {
    return Behind(self)->CreateKernelV2(Behind(self), &watched, info, kernel);
  };
  return moved;
}

OrtStatus* (*add_to_domain)(OrtCustomOpDomain* domain, const OrtCustomOp* op);

OrtStatus* AddMoved(OrtCustomOpDomain* domain, const OrtCustomOp* op) {
  static std::deque<OnCpuProvider> moved;
  const std::string provider = op->GetExecutionProviderType(op);
  if (provider != "CUDAExecutionProvider") return nullptr;
  moved.push_back(MoveToCpuProvider(op));
  return add_to_domain(domain, &moved.back());
}

// Whether there is a stream other than the default one, and what was allocated for it.
bool has_stream = false;
int scratch_of_streams = 0;
int scratch_in_use = 0;
OrtStatus* (*allocate)(OrtAllocator* allocator, size_t size, void** out);
OrtStatus* (*free_own)(OrtAllocator* allocator, void* memory);

void WatchScratch(OrtApi* api) {
  api->KernelContext_GetGPUComputeStream = [](const OrtKernelContext*, void** out) -> OrtStatus* {
    *out = has_stream ? &has_stream : nullptr;
    return nullptr;
  };
  api->KernelContext_GetScratchBuffer = [](const OrtKernelContext*, const OrtMemoryInfo* place,
                                           size_t size, void** out) -> OrtStatus* {
    scratch_of_streams += place != nullptr ? 1 : 0;
    ++scratch_in_use;
    *out = std::malloc(size);
    return nullptr;
  };
  allocate = api->AllocatorAlloc;
  api->AllocatorAlloc = [](OrtAllocator* allocator, size_t size, void** out) {
    ++scratch_in_use;
    return allocate(allocator, size, out);
  };
  free_own = api->AllocatorFree;
  api->AllocatorFree = [](OrtAllocator* allocator, void* memory) -> OrtStatus* {
    --scratch_in_use;
    if (!has_stream) return free_own(allocator, memory);
    std::free(memory);
    return nullptr;
  };
}

const OrtApiBase* runtime;

}  // namespace
}  // namespace ort
}  // namespace onnxloss

extern "C" {

void SetStream(int given) { onnxloss::ort::has_stream = given != 0; }
int ScratchOfStreams() {
  const int count = onnxloss::ort::scratch_of_streams;
  onnxloss::ort::scratch_of_streams = 0;
  return count;
}
int ScratchInUse() { return onnxloss::ort::scratch_in_use; }
}

extern "C" onnxloss::ort::OrtStatus* RegisterCustomOps(onnxloss::ort::OrtSessionOptions* options,
                                                       const onnxloss::ort::OrtApiBase* base) {
  using namespace onnxloss::ort;
  runtime = base;
  static const OrtApiBase moved_base = {[](uint32_t version) -> const OrtApi* {
                                          if (add_to_domain == nullptr) {
                                            watched = *runtime->GetApi(version);
                                            add_to_domain = watched.CustomOpDomain_Add;
                                            watched.CustomOpDomain_Add = AddMoved;
                                            WatchScratch(&watched);
                                          }
                                          return &watched;
                                        },
                                        base->GetVersionString};
  return RegisterOnEveryProvider(options, &moved_base);
}
