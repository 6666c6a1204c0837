// SPDX-License-Identifier: MIT
#include "ort/cuda_kernel.h"

#include <string>

#include "cuda/loss.h"
#include "ort/loss_kernel.h"
#include "ort/tensors.h"

namespace onnxloss::ort {
namespace {

// A node, and where it gets memory of the GPU from.
struct CudaLossKernel {
  LossKernel node;
  OrtAllocator* allocator;
};

// Memory for one call. What is freed is given out again in the order of the stream.
struct ScratchMemory {
  const OrtApi& api;
  OrtAllocator* allocator;
  void* data = nullptr;

  ~ScratchMemory() {
    if (data == nullptr) return;
    if (OrtStatus* status = api.AllocatorFree(allocator, data)) api.ReleaseStatus(status);
  }
  OrtStatus* Allocate(int64_t bytes) {
    if (bytes == 0) return nullptr;
    return api.AllocatorAlloc(allocator, static_cast<size_t>(bytes), &data);
  }
};

cuda::LossCall Describe(const LossKernel& node, const Inputs& inputs, const View& view) {
  const Attributes& attributes = node.attributes;
  cuda::LossCall call = {};
  call.type = static_cast<int64_t>(node.op.type);
  call.label_kind = static_cast<int64_t>(node.op.label_kind);
  call.outer = view.outer;
  call.classes = view.classes;
  call.inner = view.inner;
  call.ignore_index = attributes.ignore_index;
  call.from_logits = attributes.from_logits ? 1 : 0;
  call.reduced = attributes.reduction != Reduction::kNone ? 1 : 0;
  call.mean = attributes.reduction == Reduction::kMean ? 1 : 0;
  call.mean_over = static_cast<int64_t>(attributes.mean_over);
  call.class_weights_positions = attributes.class_weights_positions ? 1 : 0;
  call.empty_denominator = EmptyDenominator(attributes.empty_mean);
  call.label_smoothing = attributes.label_smoothing;
  call.z_loss = attributes.z_loss;
  call.softcap = attributes.logit_softcap;
  call.logits = inputs.logits.data;
  call.labels = inputs.labels.data;
  call.class_weights = inputs.class_weights.present ? inputs.class_weights.data : nullptr;
  call.sample_weights = inputs.sample_weights.present ? inputs.sample_weights.data : nullptr;
  call.dloss = inputs.dloss.data;
  return call;
}

OrtStatus* GetOutputs(const LossKernel& node, OrtKernelContext* context, const Inputs& inputs,
                      const View& view, cuda::LossCall* call) {
  const Operator& op = node.op;
  const Shape scalar;
  const struct {
    bool has;
    size_t index;
    const Shape& shape;
    void** data;
  } outputs[] = {
      {op.has_loss(), op.loss(), call->reduced != 0 ? scalar : view.positions_shape, &call->loss},
      {op.has_gradient(), op.dlogits(), inputs.logits.shape, &call->dlogits},
      {op.has_loss(), op.lse(), view.positions_shape, &call->lse},
      {op.has_label_gradient(), op.dlabels(), inputs.labels.shape, &call->dlabels}};
  for (const auto& output : outputs) {
    if (!output.has) continue;
    if (OrtStatus* status = GetOutput(node.api, context, output.index, output.shape, output.data)) {
      return status;
    }
  }
  if (call->dlabels == nullptr || call->class_weights_positions == 0) return nullptr;
  return InvalidArgument(node.api, op.name, "class_weighting", "position",
                         "class where the node has the output dlabels");
}

OrtStatus* Compute(const CudaLossKernel& kernel, OrtKernelContext* context) {
  const LossKernel& node = kernel.node;
  Inputs inputs;
  View view;
  if (OrtStatus* status = ReadInputs(node, context, &inputs)) return status;
  if (OrtStatus* status = CheckShapes(node, inputs, &view)) return status;
  cuda::LossCall call = Describe(node, inputs, view);
  if (OrtStatus* status = GetOutputs(node, context, inputs, view, &call)) return status;
  void* stream = nullptr;
  if (OrtStatus* status = node.api.KernelContext_GetGPUComputeStream(context, &stream)) {
    return status;
  }
  ScratchMemory scratch = {node.api, kernel.allocator};
  if (OrtStatus* status = scratch.Allocate(cuda::ScratchBytes(call))) return status;
  const char* failure = cuda::RunLoss(call, scratch.data, stream);
  if (failure == nullptr) return nullptr;
  return node.api.CreateStatus(ORT_FAIL, (std::string(node.op.name) + ": " + failure).c_str());
}

OrtStatus* Create(const OrtApi& api, const Operator& op, const OrtKernelInfo* info,
                  CudaLossKernel** kernel) {
  return Guarded(api, op.name, [&]() -> OrtStatus* {
    Attributes attributes = {};
    if (OrtStatus* status = ReadAttributes(api, info, op, &attributes)) return status;
    OrtAllocator* allocator = nullptr;
    if (OrtStatus* status = api.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator)) {
      return status;
    }
    *kernel = new CudaLossKernel{{api, op, attributes}, allocator};
    return nullptr;
  });
}

}  // namespace

Registration<Operator> RegisterOnCuda(const Operator& op) {
  Registration<Operator> made = Describe(op);
  made.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* {
    return "CUDAExecutionProvider";
  };
  made.CreateKernelV2 = [](const OrtCustomOp* self, const OrtApi* api, const OrtKernelInfo* info,
                           void** kernel) {
    CudaLossKernel* created = nullptr;
    OrtStatus* status = Create(*api, DescriptionOf<Operator>(self), info, &created);
    *kernel = created;
    return status;
  };
  made.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
    const auto& own = *static_cast<const CudaLossKernel*>(kernel);
    return Guarded(own.node.api, own.node.op.name, [&] { return Compute(own, context); });
  };
  made.KernelDestroy = [](void* kernel) {
    auto* own = static_cast<CudaLossKernel*>(kernel);
    own->node.api.ReleaseAllocator(own->allocator);
    delete own;
  };
  return made;
}

}  // namespace onnxloss::ort
