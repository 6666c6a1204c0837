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
// The input of the node's call; not present where the node leaves it out.
OrtStatus* ReadInput(const OrtApi& api, const OrtKernelContext* context, size_t index,
                     Tensor* tensor);
// Allocates the output; null data where the node leaves it out.
OrtStatus* GetOutput(const OrtApi& api, OrtKernelContext* context, size_t index, const Shape& shape,
                     void** data);

}  // namespace onnxloss::ort
