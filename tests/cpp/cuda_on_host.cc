// SPDX-License-Identifier: MIT
// What the tests ask of the emulator beside what the library exports.
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
}
