// SPDX-License-Identifier: MIT
// A node of the graph: its attributes, and what runs it.
#pragma once

#include "ort/operator.h"

namespace onnxloss::ort {

struct LossKernel {
  const OrtApi& api;
  Operator op;
  Attributes attributes;
};

OrtStatus* CreateLossKernel(const OrtApi& api, const Operator& op, const OrtKernelInfo* info,
                            LossKernel** kernel);
void DestroyLossKernel(LossKernel* kernel);

// Checks every shape and every label before it asks for an output.
OrtStatus* ComputeLoss(const LossKernel& kernel, OrtKernelContext* context);

}  // namespace onnxloss::ort
