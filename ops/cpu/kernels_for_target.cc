// SPDX-License-Identifier: MIT
// The CPU kernels for one instruction set: compiled once for each, with ONNXLOSS_TARGET its name.
#include "cpu/kernels.h"
#include "cpu/long_rows.h"
#include "cpu/tiles.h"

#define ONNXLOSS_QUOTED(text) #text
#define ONNXLOSS_NAME_OF(target) ONNXLOSS_QUOTED(target)

namespace onnxloss::ONNXLOSS_TARGET {
namespace {

template <class T, class Row>
void RunTyped(const LossProblem& raw, Row row, int64_t first, int64_t last) {
  const TypedProblem<T, Row> problem{raw, row};
  const bool long_rows = raw.inner == 1 && raw.classes >= kSmallestLongRow;
  if (long_rows) {
    RunLongRows(problem, first, last);
  } else {
    RunTiles(problem, first, last);
  }
  if (raw.stream) Fence();
}

template <class T>
void RunFormula(const LossProblem& raw, int64_t first, int64_t last) {
  using Acc = Accumulator<T>;
  const double e = raw.label_smoothing;
  const Acc keep = static_cast<Acc>(1 - e);
  const Acc uniform = static_cast<Acc>(e / static_cast<double>(raw.classes));
  if (raw.label_kind == LabelKind::kProbabilities) {
    return RunTyped<T>(raw, SoftLabelCrossEntropyLossRow<Acc>{keep, uniform}, first, last);
  }
  if (e > 0) {
    using Row = SoftmaxCrossEntropyLossRow<Acc, true>;
    return RunTyped<T>(raw, Row{keep, uniform}, first, last);
  }
  using Row = SoftmaxCrossEntropyLossRow<Acc, false>;
  return RunTyped<T>(raw, Row{keep, uniform}, first, last);
}

void Run(const LossProblem& raw, int64_t first, int64_t last) {
  switch (raw.type) {
    case ElementType::kFloat16:
      return RunFormula<Half>(raw, first, last);
    case ElementType::kBFloat16:
      return RunFormula<BFloat16>(raw, first, last);
    case ElementType::kFloat32:
      return RunFormula<float>(raw, first, last);
    case ElementType::kFloat64:
      return RunFormula<double>(raw, first, last);
  }
}

template <class Index>
bool IsBad(Index label, int64_t classes, int64_t ignore_index) {
  return (label < 0 || label >= classes) && label != ignore_index;
}

template <class Index, class Weight>
LabelScan Scan(const Index* labels, const LossProblem& problem, const Weight* weights,
               int64_t first, int64_t last) {
  const int64_t classes = problem.classes;
  const int64_t ignore_index = problem.ignore_index;
  int64_t bad = 0;
  int64_t counted = 0;
#pragma omp simd reduction(+ : bad, counted)
  for (int64_t i = first; i < last; ++i) {
    bad += IsBad<int64_t>(labels[i], classes, ignore_index) ? 1 : 0;
    counted += labels[i] != ignore_index ? 1 : 0;
  }
  if (bad > 0) {
    int64_t i = first;
    while (!IsBad<int64_t>(labels[i], classes, ignore_index)) ++i;
    return {0, i};
  }
  if (weights == nullptr) return {static_cast<double>(counted), -1};
  double weight = 0;
  for (int64_t i = first; i < last; ++i) {
    if (labels[i] != ignore_index) weight += static_cast<double>(weights[labels[i]]);
  }
  return {weight, -1};
}

template <class Index>
LabelScan ScanIndices(const LossProblem& problem, int64_t first, int64_t last) {
  const Index* labels = static_cast<const Index*>(problem.labels);
  const void* weights = problem.class_weights;
  return problem.type == ElementType::kFloat64
             ? Scan(labels, problem, static_cast<const double*>(weights), first, last)
             : Scan(labels, problem, static_cast<const float*>(weights), first, last);
}

void ScanLabels(const LossProblem& problem, int64_t first, int64_t last, LabelScan* scan) {
  *scan = problem.label_kind == LabelKind::kIndex64 ? ScanIndices<int64_t>(problem, first, last)
                                                    : ScanIndices<int32_t>(problem, first, last);
}

}  // namespace

extern const CpuKernels kKernels;
const CpuKernels kKernels = {ONNXLOSS_NAME_OF(ONNXLOSS_TARGET), ScanLabels, Run};

}  // namespace onnxloss::ONNXLOSS_TARGET
