// SPDX-License-Identifier: MIT
// Tensors of a node's call, and whether their shapes fit together.
#pragma once

#include "ort/loss_kernel.h"
#include "ort/status.h"

namespace onnxloss::ort {

struct Tensor {
  const void* data = nullptr;
  Shape shape;
  bool present = false;
};

struct Inputs {
  Tensor dloss;
  Tensor logits;
  Tensor labels;
  Tensor class_weights;
  Tensor sample_weights;
};

// logits as [outer, classes, inner], and the shape of one number per position.
struct View {
  int64_t outer = 1;
  int64_t classes = 1;
  int64_t inner = 1;
  Shape positions_shape;

  int64_t positions() const { return outer * inner; }
};

OrtStatus* ReadInputs(const LossKernel& kernel, const OrtKernelContext* context, Inputs* inputs);
OrtStatus* CheckShapes(const LossKernel& kernel, const Inputs& inputs, View* view);

// An input of the node's call and where it goes; a tensor that the node leaves out stays absent.
struct InputPort {
  const char* name;
  size_t index;
  Tensor* tensor;
  bool required;
};
// The index of a port that the operator does not have.
constexpr size_t kNoInput = static_cast<size_t>(-1);
OrtStatus* ReadPorts(const OrtApi& api, const OrtKernelContext* context, const char* op,
                     const InputPort* ports, size_t count);
// Allocates the output; null data where the node leaves it out.
OrtStatus* GetOutput(const OrtApi& api, OrtKernelContext* context, size_t index, const Shape& shape,
                     void** data);
// Several; one that the operator does not have stays null.
struct OutputPort {
  bool has;
  size_t index;
  const Shape& shape;
  void** data;
};
OrtStatus* GetPorts(const OrtApi& api, OrtKernelContext* context, const OutputPort* ports,
                    size_t count);

}  // namespace onnxloss::ort
