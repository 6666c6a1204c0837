// SPDX-License-Identifier: MIT
#include <iterator>
#include <map>
#include <mutex>

#include "cpu/log_uniform.h"
#include "cuda/sampled.h"
#include "ort/cuda_call.h"
#include "ort/cuda_kernel.h"
#include "ort/sampled_tensors.h"

namespace onnxloss::ort {
namespace {

// A node, and what it drew for each number of classes: a CUDA graph may read that as long as the
// node lives.
struct DrawingNode : SampledLossKernel {
  mutable std::mutex mutex = {};
  mutable std::map<int64_t, Draws> drawn = {};
};

Draws DrawFor(const DrawingNode& node, int64_t classes) {
  return DrawDistinct(LogUniform(classes), node.attributes.num_samples, node.attributes.seed);
}

const Draws& DrawOnce(const DrawingNode& node, int64_t classes) {
  const std::lock_guard<std::mutex> lock(node.mutex);
  const auto found = node.drawn.find(classes);
  if (found != node.drawn.end()) return found->second;
  return node.drawn.emplace(classes, DrawFor(node, classes)).first->second;
}

cuda::SampledCall Describe(const SampledLossKernel& node, const SampledInputs& inputs) {
  const SampledAttributes& attributes = node.attributes;
  cuda::SampledCall call = {};
  call.type = static_cast<int64_t>(node.op.type);
  call.label_kind = static_cast<int64_t>(node.op.label_kind);
  call.rows = inputs.rows();
  call.classes = inputs.classes();
  call.num_true = attributes.num_true;
  call.num_samples = attributes.num_samples;
  call.own_samples = inputs.row_samples() ? 1 : 0;
  call.remove_accidental_hits = attributes.remove_accidental_hits ? 1 : 0;
  call.reduced = attributes.reduction != Reduction::kNone ? 1 : 0;
  call.mean = attributes.reduction == Reduction::kMean ? 1 : 0;
  call.z_loss = attributes.z_loss;
  call.softcap = attributes.logit_softcap;
  call.logits = inputs.logits.data;
  call.labels = inputs.labels.data;
  call.samples = inputs.samples.data;
  call.probabilities = inputs.probabilities.data;
  call.dloss = inputs.dloss.data;
  return call;
}

OrtStatus* GetOutputs(const SampledLossKernel& node, OrtKernelContext* context,
                      const SampledInputs& inputs, cuda::SampledCall* call) {
  const SampledOperator& op = node.op;
  const Shape scalar;
  const Shape rows = {call->rows};
  const Shape samples = inputs.samples.present ? inputs.samples.shape : Shape{call->num_samples};
  const Shape counts = {call->rows, call->num_true + call->num_samples};
  const OutputPort ports[] = {
      {op.has_loss(), op.loss(), call->reduced != 0 ? scalar : rows, &call->loss},
      {op.has_gradient(), op.dlogits(), inputs.logits.shape, &call->dlogits},
      {op.has_loss(), op.lse(), rows, &call->lse},
      {op.has_loss(), op.drawn_samples(), samples, &call->drawn_samples},
      {op.has_loss(), op.drawn_probabilities(), counts, &call->drawn_probabilities}};
  return GetPorts(node.api, context, ports, std::size(ports));
}

OrtStatus* Compute(const CudaKernel<DrawingNode>& kernel, OrtKernelContext* context) {
  const DrawingNode& node = kernel.node;
  SampledInputs inputs;
  if (OrtStatus* status = ReadSampledInputs(node, context, &inputs)) return status;
  if (OrtStatus* status = CheckSampledShapes(node, inputs)) return status;
  cuda::SampledCall call = Describe(node, inputs);
  Draws anew;
  if (!inputs.samples.present) {
    // Seed 0 stands for another one each time.
    const bool once = node.attributes.seed != 0;
    if (!once) anew = DrawFor(node, call.classes);
    const Draws& draws = once ? DrawOnce(node, call.classes) : anew;
    call.host_samples = draws.values.data();
    call.num_tries = draws.num_tries;
    call.host_samples_last = once ? 1 : 0;
  }
  if (OrtStatus* status = GetOutputs(node, context, inputs, &call)) return status;
  return RunOnStream(kernel, context, call, cuda::SampledScratchBytes, cuda::RunSampled);
}

}  // namespace

Registration<SampledOperator> RegisterOnCuda(const SampledOperator& op) {
  return DescribeOnCuda<DrawingNode, Compute>(op);
}

}  // namespace onnxloss::ort
