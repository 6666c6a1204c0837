// SPDX-License-Identifier: MIT
// What the tests call: the launch code of ops/cuda over the emulator.
#include "cuda/device.h"
#include "cuda/plan.h"
#include "cuda/sampled.h"

namespace {
int chosen_architecture = 90;
}

namespace onnxloss::device {
const char* Architecture(int* architecture) {
  *architecture = chosen_architecture;
  return nullptr;
}
}  // namespace onnxloss::device

extern "C" {

void SetArchitecture(int architecture) { chosen_architecture = architecture; }

int64_t ScratchBytes(const onnxloss::cuda::LossCall* call) {
  return onnxloss::cuda::ScratchBytes(*call);
}

const char* RunLoss(const onnxloss::cuda::LossCall* call, void* scratch) {
  return onnxloss::cuda::RunLoss(*call, scratch, nullptr);
}

int64_t SampledScratchBytes(const onnxloss::cuda::SampledCall* call) {
  return onnxloss::cuda::SampledScratchBytes(*call);
}

const char* RunSampled(const onnxloss::cuda::SampledCall* call, void* scratch) {
  return onnxloss::cuda::RunSampled(*call, scratch, nullptr);
}

// [path, residence, blocks, threads, cluster, class_lanes]
void PlanFor(const onnxloss::cuda::LossCall* call, int architecture, int64_t* plan) {
  const onnxloss::cuda::Plan made = onnxloss::cuda::PlanFor(*call, architecture);
  const int64_t fields[] = {static_cast<int64_t>(made.path),
                            made.residence,
                            made.blocks,
                            made.threads,
                            made.cluster,
                            made.class_lanes};
  for (int i = 0; i < 6; ++i) plan[i] = fields[i];
}
}
