// SPDX-License-Identifier: MIT
// The CPU kernels for one instruction set and one type of logits. Each type is compiled in a file
// of its own.
#pragma once

#include "cpu/label_gradient.h"
#include "cpu/long_rows.h"
#include "cpu/probabilities.h"
#include "cpu/probability_lanes.h"
#include "cpu/short_rows.h"
#include "cpu/tiles.h"
#include "cpu/typed_kernels.h"
#include "cpu/weights.h"

namespace onnxloss::ONNXLOSS_TARGET {

template <class T, class Row>
void RunTyped(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  const LossProblem& raw = problem.raw;
  const bool plain = raw.dlabels == nullptr && raw.softcap == 0;
  if (!raw.from_logits && plain && (raw.inner > 1 || raw.classes <= kFewProbabilities)) {
    RunProbabilityLanes(problem, first, last);
  } else if (!raw.from_logits) {
    RunProbabilities(problem, first, last);
  } else if (raw.inner > 1 || raw.classes <= kFewClasses) {
    RunTiles(problem, first, last);
  } else if (raw.classes < kSmallestLongRow) {
    RunShortRows(problem, first, last);
  } else {
    RunLongRows(problem, first, last);
  }
  if constexpr (!Row::kHasTarget) {
    if (raw.dlabels != nullptr && raw.from_logits) WriteLabelGradient(problem, first, last);
  }
  if (raw.stream) Fence();
}

// Calls visit with the problem's types.
template <class T, class Visitor>
void WithFormula(const LossProblem& raw, Visitor visit) {
  using Acc = Accumulator<T>;
  const double e = raw.label_smoothing;
  const Acc keep = static_cast<Acc>(1 - e);
  const Acc uniform = static_cast<Acc>(e / static_cast<double>(raw.classes));
  if (raw.label_kind == LabelKind::kProbabilities) {
    using Row = SoftLabelCrossEntropyLossRow<Acc>;
    visit(TypedProblem<T, Row>{raw, Row{keep, uniform}});
  } else if (e > 0) {
    using Row = SoftmaxCrossEntropyLossRow<Acc, true>;
    visit(TypedProblem<T, Row>{raw, Row{keep, uniform}});
  } else {
    using Row = SoftmaxCrossEntropyLossRow<Acc, false>;
    visit(TypedProblem<T, Row>{raw, Row{keep, uniform}});
  }
}

template <class T>
void TypedKernels<T>::ScanLabels(const LossProblem& raw, int64_t first, int64_t last,
                                 LabelScan* scan) {
  WithFormula<T>(raw, [=](const auto& problem) { *scan = ScanPositions(problem, first, last); });
}

template <class T>
void TypedKernels<T>::Run(const LossProblem& raw, int64_t first, int64_t last) {
  WithFormula<T>(raw, [=](const auto& problem) { RunTyped(problem, first, last); });
}

}  // namespace onnxloss::ONNXLOSS_TARGET
