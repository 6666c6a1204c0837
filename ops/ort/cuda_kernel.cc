// SPDX-License-Identifier: MIT
#include "ort/cuda_kernel.h"

#include <iterator>

#include "cuda/loss.h"
#include "ort/cuda_call.h"
#include "ort/loss_kernel.h"
#include "ort/tensors.h"

namespace onnxloss::ort {
namespace {

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
  call.normalize = static_cast<int64_t>(attributes.normalize);
  call.epsilon = attributes.epsilon;
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
  const OutputPort ports[] = {
      {op.has_loss(), op.loss(), call->reduced != 0 ? scalar : view.positions_shape, &call->loss},
      {op.has_gradient(), op.dlogits(), inputs.logits.shape, &call->dlogits},
      {op.has_loss(), op.lse(), view.positions_shape, &call->lse},
      {op.has_label_gradient(), op.dlabels(), inputs.labels.shape, &call->dlabels}};
  if (OrtStatus* status = GetPorts(node.api, context, ports, std::size(ports))) return status;
  if (call->dlabels == nullptr || call->class_weights_positions == 0) return nullptr;
  return InvalidArgument(node.api, op.name, "class_weighting", "position",
                         "class where the node has the output dlabels");
}

OrtStatus* Compute(const CudaKernel<LossKernel>& kernel, OrtKernelContext* context) {
  const LossKernel& node = kernel.node;
  Inputs inputs;
  View view;
  if (OrtStatus* status = ReadInputs(node, context, &inputs)) return status;
  if (OrtStatus* status = CheckShapes(node, inputs, &view)) return status;
  cuda::LossCall call = Describe(node, inputs, view);
  if (OrtStatus* status = GetOutputs(node, context, inputs, view, &call)) return status;
  return RunOnStream(kernel, context, call, cuda::ScratchBytes, cuda::RunLoss);
}

}  // namespace

Registration<Operator> RegisterOnCuda(const Operator& op) {
  return DescribeOnCuda<LossKernel, Compute>(op);
}

}  // namespace onnxloss::ort
