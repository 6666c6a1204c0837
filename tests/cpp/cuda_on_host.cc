// SPDX-License-Identifier: MIT
// What the tests ask of the host build beside what the library exports.
#include "cuda/device.h"
#include "cuda/plan.h"

namespace {
int chosen_largest_cluster = onnxloss::cuda::kLargestCluster;
bool chosen_capture = false;
}  // namespace

namespace onnxloss::device {
int ChosenLargestCluster() { return chosen_largest_cluster; }
bool ChosenCapture() { return chosen_capture; }
}  // namespace onnxloss::device

extern "C" {

void SetLargestCluster(int blocks) { chosen_largest_cluster = blocks; }
void SetCapture(int captured) { chosen_capture = captured != 0; }

// [path, residence, blocks, threads, cluster, class_lanes]
void PlanFor(const onnxloss::cuda::LossCall* call, int largest_cluster, int64_t* plan) {
  const onnxloss::cuda::Plan made = onnxloss::cuda::PlanFor(*call, largest_cluster);
  const int64_t fields[] = {static_cast<int64_t>(made.path),
                            made.residence,
                            made.blocks,
                            made.threads,
                            made.cluster,
                            made.class_lanes};
  for (int i = 0; i < 6; ++i) plan[i] = fields[i];
}
}
