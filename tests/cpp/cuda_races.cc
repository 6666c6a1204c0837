// SPDX-License-Identifier: MIT
// Runs every kernel on small inputs under the thread sanitizer: to it each thread of a cluster is a
// thread of its own, and only barriers order them. tests/test_cuda_races.py builds and runs it;
// the numbers are looked at elsewhere.
#include <cstdio>
#include <vector>

#include "cuda/device.h"
#include "cuda/plan.h"
#include "cuda/sampled.h"

namespace onnxloss::device {
int ChosenLargestCluster() { return 8; }
bool ChosenCapture() { return false; }
}  // namespace onnxloss::device

namespace onnxloss::cuda {
namespace {

struct Shape {
  const char* name;
  int64_t outer;
  int64_t classes;
  int64_t inner;
};

// One for each path, and for each residence but those of many rows, whose lanes share no memory;
// 16395 classes of float32 need clusters.
constexpr Shape kShapes[] = {{"a row a thread", 4096, 5, 1},
                             {"several rows a warp", 9, 5, 1},
                             {"a long row a warp", 3, 400, 1},
                             {"the longest row a warp", 3, 800, 1},
                             {"a row a short block", 2, 1900, 1},
                             {"a row a block", 2, 3000, 1},
                             {"a long row a block", 1, 4200, 1},
                             {"a row a cluster", 1, 16395, 1},
                             {"strided", 2, 40, 7}};

constexpr LossCall OfLogits(double softcap) {
  LossCall call = {};
  call.from_logits = 1;
  call.softcap = softcap;
  return call;
}

constexpr LossCall OfProbabilities(Normalize normalize) {
  LossCall call = {};
  call.normalize = static_cast<int64_t>(normalize);
  return call;
}

// With the settings of `call`.
void Run(const Shape& shape, LabelKind kind, bool gradient, LossCall call) {
  const int64_t positions = shape.outer * shape.inner;
  const size_t elements = static_cast<size_t>(positions * shape.classes);
  std::vector<float> logits(elements, 0.5f);
  std::vector<float> probabilities(elements, 0.25f);
  std::vector<int64_t> labels(static_cast<size_t>(positions), shape.classes / 2);
  std::vector<float> class_weights(static_cast<size_t>(shape.classes), 0.75f);
  std::vector<float> lse(static_cast<size_t>(positions));
  std::vector<float> dlogits(elements);
  std::vector<float> dlabels(elements);
  float dloss = 1;
  float loss = 0;
  call.type = static_cast<int64_t>(ElementType::kFloat32);
  call.label_kind = static_cast<int64_t>(kind);
  call.outer = shape.outer;
  call.classes = shape.classes;
  call.inner = shape.inner;
  call.ignore_index = -100;
  call.reduced = 1;
  call.mean = 1;
  call.class_weights_positions = kind == LabelKind::kProbabilities && !gradient ? 1 : 0;
  call.label_smoothing = kind == LabelKind::kProbabilities ? 0.1 : 0;
  call.logits = logits.data();
  call.labels = labels.data();
  if (kind == LabelKind::kProbabilities) call.labels = probabilities.data();
  call.class_weights = class_weights.data();
  call.dloss = &dloss;
  call.loss = &loss;
  call.lse = lse.data();
  call.dlogits = gradient ? dlogits.data() : nullptr;
  if (gradient && kind == LabelKind::kProbabilities) call.dlabels = dlabels.data();
  std::vector<char> scratch(static_cast<size_t>(ScratchBytes(call)));
  RunLoss(call, scratch.data(), nullptr);
}

// With samples of each row, or drawn ones.
void RunSampledLoss(bool draws) {
  constexpr int64_t kRows = 3;
  constexpr int64_t kClasses = 80;
  constexpr int64_t kTrue = 2;
  constexpr int64_t kSamples = 60;
  std::vector<float> logits(kRows * kClasses, 0.5f);
  std::vector<int64_t> labels(kRows * kTrue, 7);
  std::vector<int64_t> samples(kRows * kSamples);
  for (size_t i = 0; i < samples.size(); ++i) samples[i] = static_cast<int64_t>(i) % kClasses;
  std::vector<float> probabilities(kRows * (kTrue + kSamples), 0.25f);
  std::vector<float> dlogits(logits.size());
  float dloss = 1;
  float loss = 0;
  SampledCall call = {};
  call.type = static_cast<int64_t>(ElementType::kFloat32);
  call.label_kind = static_cast<int64_t>(LabelKind::kIndex64);
  call.rows = kRows;
  call.classes = kClasses;
  call.num_true = kTrue;
  call.num_samples = kSamples;
  call.own_samples = draws ? 0 : 1;
  call.remove_accidental_hits = 1;
  call.reduced = 1;
  call.mean = 1;
  call.logits = logits.data();
  call.labels = labels.data();
  call.samples = draws ? nullptr : samples.data();
  call.probabilities = draws ? nullptr : probabilities.data();
  call.host_samples = samples.data();
  call.num_tries = kSamples + 1;
  call.dloss = &dloss;
  call.loss = &loss;
  call.dlogits = dlogits.data();
  std::vector<char> scratch(static_cast<size_t>(SampledScratchBytes(call)));
  RunSampled(call, scratch.data(), nullptr);
}

}  // namespace
}  // namespace onnxloss::cuda

int main() {
  using namespace onnxloss::cuda;
  using onnxloss::LabelKind;
  using onnxloss::Normalize;
  for (const Shape& shape : kShapes) {
    std::printf("%s\n", shape.name);
    Run(shape, LabelKind::kIndex64, true, OfLogits(0));
    Run(shape, LabelKind::kProbabilities, shape.classes > 400, OfLogits(0));
  }
  const Shape long_row = {"streamed", 1, 9001, 1};
  Run(long_row, LabelKind::kIndex64, true, OfLogits(30));
  const Shape small = {"probabilities", 3, 40, 1};
  for (const Normalize normalize : {Normalize::kBeforeClip, Normalize::kAfterClip}) {
    Run(small, LabelKind::kIndex64, true, OfProbabilities(normalize));
    Run(small, LabelKind::kProbabilities, true, OfProbabilities(normalize));
  }
  std::printf("sampled\n");
  RunSampledLoss(false);
  RunSampledLoss(true);
  return 0;
}
