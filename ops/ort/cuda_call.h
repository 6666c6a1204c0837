// SPDX-License-Identifier: MIT
// What every node on CUDAExecutionProvider shares: its life, its stream and its scratch memory.
#pragma once

#include <string>

#include "ort/registration.h"
#include "ort/status.h"

namespace onnxloss::ort {

// A node, and where it gets memory of the GPU from.
template <class Node>
struct CudaKernel {
  Node node;
  OrtAllocator* allocator;
};

// Memory for one call. What is freed is given out again in the order of its stream.
struct ScratchMemory {
  const OrtApi& api;
  OrtAllocator* allocator;
  void* data = nullptr;

  ~ScratchMemory() {
    if (data == nullptr) return;
    if (OrtStatus* status = api.AllocatorFree(allocator, data)) api.ReleaseStatus(status);
  }
  // Calls of one session at a time have streams of their own, and memory that knows no stream could
  // go to another's while this one's kernels are still to run. A null stream is the device's
  // default one, which all such calls share.
  OrtStatus* Allocate(const OrtKernelContext* context, const void* stream, int64_t bytes) {
    if (bytes == 0) return nullptr;
    const size_t size = static_cast<size_t>(bytes);
    if (stream == nullptr) return api.AllocatorAlloc(allocator, size, &data);
    const OrtMemoryInfo* place = nullptr;
    if (OrtStatus* status = api.AllocatorGetInfo(allocator, &place)) return status;
    return api.KernelContext_GetScratchBuffer(context, place, size, &data);
  }
};

// Puts the call on the stream of its context.
template <class Node, class Call>
OrtStatus* RunOnStream(const CudaKernel<Node>& kernel, const OrtKernelContext* context,
                       const Call& call, int64_t (*scratch_bytes)(const Call&),
                       const char* (*run)(const Call&, void* scratch, void* stream)) {
  const OrtApi& api = kernel.node.api;
  void* stream = nullptr;
  if (OrtStatus* status = api.KernelContext_GetGPUComputeStream(context, &stream)) return status;
  ScratchMemory scratch = {api, kernel.allocator};
  if (OrtStatus* status = scratch.Allocate(context, stream, scratch_bytes(call))) return status;
  const char* failure = run(call, scratch.data, stream);
  if (failure == nullptr) return nullptr;
  return api.CreateStatus(ORT_FAIL, (std::string(kernel.node.op.name) + ": " + failure).c_str());
}

template <class Node, class Op>
OrtStatus* CreateCudaKernel(const OrtApi& api, const Op& op, const OrtKernelInfo* info,
                            CudaKernel<Node>** kernel) {
  return Guarded(api, op.name, [&]() -> OrtStatus* {
    decltype(Node::attributes) attributes = {};
    if (OrtStatus* status = ReadAttributes(api, info, op, &attributes)) return status;
    OrtAllocator* allocator = nullptr;
    if (OrtStatus* status = api.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator)) {
      return status;
    }
    *kernel = new CudaKernel<Node>{{api, op, attributes}, allocator};
    return nullptr;
  });
}

// The operator with nodes that `kCompute` runs.
template <class Node, OrtStatus* (*kCompute)(const CudaKernel<Node>&, OrtKernelContext*), class Op>
Registration<Op> DescribeOnCuda(const Op& op) {
  Registration<Op> made = Describe(op);
  made.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* {
    return "CUDAExecutionProvider";
  };
  made.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                           void** kernel) {
    CudaKernel<Node>* created = nullptr;
    OrtStatus* status = CreateCudaKernel(*api, DescriptionOf<Op>(self), info, &created);
    *kernel = created;
    return status;
  };
  made.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    const auto& own = *static_cast<const CudaKernel<Node>*>(kernel);
    return Guarded(own.node.api, own.node.op.name, [&] { return kCompute(own, context); });
  };
  made.KernelDestroy = [](void* kernel) {
    auto* own = static_cast<CudaKernel<Node>*>(kernel);
    own->node.api.ReleaseAllocator(own->allocator);
    delete own;
  };
  return made;
}

}  // namespace onnxloss::ort
