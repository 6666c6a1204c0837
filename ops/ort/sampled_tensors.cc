// SPDX-License-Identifier: MIT
#include "ort/sampled_tensors.h"

#include <iterator>
#include <string>

namespace onnxloss::ort {
namespace {

OrtStatus* ExpectShape(const SampledLossKernel& kernel, const char* name, const Tensor& tensor,
                       const std::vector<Shape>& allowed) {
  std::string expected;
  for (const Shape& shape : allowed) {
    if (tensor.shape == shape) return nullptr;
    expected += (expected.empty() ? "" : " or ") + ToString(shape);
  }
  return InvalidArgument(kernel.api, kernel.op.name, std::string("shape of ") + name,
                         ToString(tensor.shape), expected);
}

// The first value that is no class, or -1.
template <class Index>
int64_t FirstBad(const void* data, int64_t count, int64_t classes) {
  const Index* values = static_cast<const Index*>(data);
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] < 0 || values[i] >= classes) return i;
  }
  return -1;
}

OrtStatus* CheckClasses(const SampledLossKernel& kernel, const char* name, const Tensor& tensor,
                        bool wide, int64_t classes) {
  int64_t count = 1;
  for (const int64_t size : tensor.shape) count *= size;
  const int64_t bad = wide ? FirstBad<int64_t>(tensor.data, count, classes)
                           : FirstBad<int32_t>(tensor.data, count, classes);
  if (bad < 0) return nullptr;
  const int64_t value = wide ? static_cast<const int64_t*>(tensor.data)[bad]
                             : static_cast<const int32_t*>(tensor.data)[bad];
  return InvalidArgument(kernel.api, kernel.op.name,
                         std::string(name) + "[" + std::to_string(bad) + "]", std::to_string(value),
                         "[0, " + std::to_string(classes) + ")");
}

OrtStatus* CheckSamples(const SampledLossKernel& kernel, const SampledInputs& inputs) {
  const int64_t rows = inputs.rows();
  const int64_t count = kernel.attributes.num_samples;
  if (inputs.samples.present != inputs.probabilities.present) {
    return InvalidArgument(
        kernel.api, kernel.op.name,
        inputs.samples.present ? "input probabilities" : "input samples", "missing",
        std::string("a tensor beside ") + (inputs.samples.present ? "samples" : "probabilities"));
  }
  if (!inputs.samples.present) {
    if (count <= inputs.classes()) return nullptr;
    return InvalidArgument(kernel.api, kernel.op.name, "num_samples", std::to_string(count),
                           "at most the number of classes, " + std::to_string(inputs.classes()));
  }
  if (OrtStatus* status =
          ExpectShape(kernel, "samples", inputs.samples, {{count}, {rows, count}})) {
    return status;
  }
  const int64_t columns = kernel.attributes.num_true + count;
  return ExpectShape(kernel, "probabilities", inputs.probabilities, {{rows, columns}});
}

}  // namespace

OrtStatus* ReadSampledInputs(const SampledLossKernel& kernel, const OrtKernelContext* context,
                             SampledInputs* inputs) {
  const SampledOperator& op = kernel.op;
  const bool alone = op.form == Form::kGradient;
  const size_t dloss = op.has_gradient() ? op.dloss() : kNoInput;
  const InputPort ports[] = {{"dloss", dloss, &inputs->dloss, op.has_gradient()},
                             {"logits", op.logits(), &inputs->logits, true},
                             {"labels", op.labels(), &inputs->labels, true},
                             {"samples", op.samples(), &inputs->samples, alone},
                             {"probabilities", op.probabilities(), &inputs->probabilities, alone}};
  return ReadPorts(kernel.api, context, op.name, ports, std::size(ports));
}

OrtStatus* CheckSampledShapes(const SampledLossKernel& kernel, const SampledInputs& inputs) {
  if (inputs.logits.shape.size() != 2) {
    return InvalidArgument(kernel.api, kernel.op.name, "rank of logits",
                           std::to_string(inputs.logits.shape.size()), "2");
  }
  if (OrtStatus* status = ExpectShape(kernel, "labels", inputs.labels,
                                      {{inputs.rows(), kernel.attributes.num_true}})) {
    return status;
  }
  if (kernel.op.has_gradient()) {
    const bool none = kernel.attributes.reduction == Reduction::kNone;
    if (OrtStatus* status =
            ExpectShape(kernel, "dloss", inputs.dloss, {none ? Shape{inputs.rows()} : Shape{}})) {
      return status;
    }
  }
  return CheckSamples(kernel, inputs);
}

OrtStatus* CheckSampledInputs(const SampledLossKernel& kernel, const SampledInputs& inputs) {
  if (OrtStatus* status = CheckSampledShapes(kernel, inputs)) return status;
  if (inputs.samples.present) {
    if (OrtStatus* status =
            CheckClasses(kernel, "samples", inputs.samples, true, inputs.classes())) {
      return status;
    }
  }
  return CheckClasses(kernel, "labels", inputs.labels, kernel.op.label_kind == LabelKind::kIndex64,
                      inputs.classes());
}

}  // namespace onnxloss::ort
