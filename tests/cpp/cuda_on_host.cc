// SPDX-License-Identifier: MIT
// What the tests ask of the host build beside what the library exports.
#include "cuda/device.h"
#include "cuda/plan.h"

namespace {
int chosen_architecture = 90;
bool chosen_capture = false;
}  // namespace

namespace onnxloss::device {
int ChosenArchitecture() { return chosen_architecture; }
bool ChosenCapture() { return chosen_capture; }
}  // namespace onnxloss::device

extern "C" {

void SetArchitecture(int architecture) { chosen_architecture = architecture; }
void SetCapture(int captured) { chosen_capture = captured != 0; }

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
