// SPDX-License-Identifier: MIT
// For the tests, the plan of a call.
#include "cuda/plan.h"

extern "C" {

// [path, residence, blocks, threads, cluster, class_lanes, across]
void PlanFor(const onnxloss::cuda::LossCall* call, int largest_cluster, int64_t* plan) {
  const onnxloss::cuda::Plan made = onnxloss::cuda::PlanFor(*call, largest_cluster);
  const int64_t fields[] = {static_cast<int64_t>(made.path),
                            made.residence,
                            made.blocks,
                            made.threads,
                            made.cluster,
                            made.class_lanes,
                            made.across};
  for (int i = 0; i < 7; ++i) plan[i] = fields[i];
}
}
