// SPDX-License-Identifier: MIT
#include "ort/tensors.h"

#include <iterator>
#include <string>

namespace onnxloss::ort {
namespace {

OrtStatus* ReadShape(const OrtApi& api, const OrtValue* value, Shape* shape) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (OrtStatus* status = api.GetTensorTypeAndShape(value, &info)) return status;
  size_t rank = 0;
  OrtStatus* status = api.GetDimensionsCount(info, &rank);
  if (status == nullptr) {
    shape->resize(rank);
    status = api.GetDimensions(info, shape->data(), rank);
  }
  api.ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

OrtStatus* ReadInput(const OrtApi& api, const OrtKernelContext* context, size_t index,
                     Tensor* tensor) {
  size_t count = 0;
  if (OrtStatus* status = api.KernelContext_GetInputCount(context, &count)) return status;
  if (index >= count) return nullptr;
  const OrtValue* value = nullptr;
  if (OrtStatus* status = api.KernelContext_GetInput(context, index, &value)) return status;
  if (value == nullptr) return nullptr;
  if (OrtStatus* status = ReadShape(api, value, &tensor->shape)) return status;
  // The ABI hands out tensors of inputs and outputs alike through a mutable pointer.
  void* data = nullptr;
  if (OrtStatus* status = api.GetTensorMutableData(const_cast<OrtValue*>(value), &data)) {
    return status;
  }
  tensor->data = data;
  tensor->present = true;
  return nullptr;
}

OrtStatus* ExpectShape(const LossKernel& kernel, const char* name, const Tensor& tensor,
                       const Shape& expected) {
  if (tensor.shape == expected) return nullptr;
  return InvalidArgument(kernel.api, kernel.op.name, std::string("shape of ") + name,
                         ToString(tensor.shape), ToString(expected));
}

}  // namespace

OrtStatus* ReadPorts(const OrtApi& api, const OrtKernelContext* context, const char* op,
                     const InputPort* ports, size_t count) {
  for (const InputPort* port = ports; port != ports + count; ++port) {
    if (OrtStatus* status = ReadInput(api, context, port->index, port->tensor)) return status;
    if (port->required && !port->tensor->present) {
      return InvalidArgument(api, op, std::string("input ") + port->name, "missing", "a tensor");
    }
  }
  return nullptr;
}

OrtStatus* ReadInputs(const LossKernel& kernel, const OrtKernelContext* context, Inputs* inputs) {
  const Operator& op = kernel.op;
  const size_t dloss = op.has_gradient() ? op.dloss() : kNoInput;
  const InputPort ports[] = {
      {"dloss", dloss, &inputs->dloss, op.has_gradient()},
      {"logits", op.logits(), &inputs->logits, true},
      {"labels", op.labels(), &inputs->labels, true},
      {"class_weights", op.class_weights(), &inputs->class_weights, false},
      {"sample_weights", op.sample_weights(), &inputs->sample_weights, false}};
  return ReadPorts(kernel.api, context, op.name, ports, std::size(ports));
}

OrtStatus* CheckShapes(const LossKernel& kernel, const Inputs& inputs, View* view) {
  const Operator& op = kernel.op;
  const Shape& logits = inputs.logits.shape;
  const int64_t rank = static_cast<int64_t>(logits.size());
  if (rank == 0) {
    return InvalidArgument(kernel.api, op.name, "rank of logits", "0", "at least 1");
  }
  if (kernel.attributes.axis < -rank || kernel.attributes.axis >= rank) {
    return InvalidArgument(kernel.api, op.name, "axis", std::to_string(kernel.attributes.axis),
                           "an integer in [" + std::to_string(-rank) + ", " +
                               std::to_string(rank - 1) + "] for logits of shape " +
                               ToString(logits));
  }
  const int64_t axis = kernel.attributes.axis + (kernel.attributes.axis < 0 ? rank : 0);
  for (int64_t d = 0; d < rank; ++d) {
    const int64_t size = logits[static_cast<size_t>(d)];
    if (d == axis) {
      view->classes = size;
    } else {
      (d < axis ? view->outer : view->inner) *= size;
      view->positions_shape.push_back(size);
    }
  }
  if (view->classes == 0 && view->positions() > 0) {
    return InvalidArgument(kernel.api, op.name, "shape of logits", ToString(logits),
                           "at least one class on axis " + std::to_string(axis));
  }
  const bool probabilities = op.label_kind == LabelKind::kProbabilities;
  if (OrtStatus* status = ExpectShape(kernel, "labels", inputs.labels,
                                      probabilities ? logits : view->positions_shape)) {
    return status;
  }
  if (inputs.class_weights.present) {
    if (OrtStatus* status =
            ExpectShape(kernel, "class_weights", inputs.class_weights, {view->classes})) {
      return status;
    }
  }
  if (inputs.sample_weights.present) {
    if (OrtStatus* status =
            ExpectShape(kernel, "sample_weights", inputs.sample_weights, view->positions_shape)) {
      return status;
    }
  }
  if (!op.has_gradient()) return nullptr;
  const bool per_position = kernel.attributes.reduction == Reduction::kNone;
  return ExpectShape(kernel, "dloss", inputs.dloss, per_position ? view->positions_shape : Shape{});
}

OrtStatus* GetOutput(const OrtApi& api, OrtKernelContext* context, size_t index, const Shape& shape,
                     void** data) {
  *data = nullptr;
  size_t count = 0;
  if (OrtStatus* status = api.KernelContext_GetOutputCount(context, &count)) return status;
  if (index >= count) return nullptr;
  OrtValue* value = nullptr;
  if (OrtStatus* status =
          api.KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value)) {
    return status;
  }
  return value == nullptr ? nullptr : api.GetTensorMutableData(value, data);
}

OrtStatus* GetPorts(const OrtApi& api, OrtKernelContext* context, const OutputPort* ports,
                    size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const OutputPort& port = ports[i];
    if (!port.has) continue;
    if (OrtStatus* status = GetOutput(api, context, port.index, port.shape, port.data)) {
      return status;
    }
  }
  return nullptr;
}

}  // namespace onnxloss::ort
