// SPDX-License-Identifier: MIT
// The pass over labels and weights that comes first: bad labels, what weighs
// each position, and the denominator of a mean.
#pragma once

#include "cpu/problem.h"

namespace onnxloss::ONNXLOSS_TARGET {

inline bool IsClass(int64_t label, int64_t classes) {
  return static_cast<uint64_t>(label) < static_cast<uint64_t>(classes);
}

struct IndexCounts {
  int64_t valid;
  int64_t first_bad;
};

template <class Index>
IndexCounts CheckIndices(const LossProblem& problem, int64_t first, int64_t last) {
  const Index* labels = static_cast<const Index*>(problem.labels);
  const int64_t classes = problem.classes;
  const int64_t ignore_index = problem.ignore_index;
  int64_t others = 0;  // that are no classes
  int64_t ignored = 0;
#pragma omp simd reduction(+ : others, ignored)
  for (int64_t i = first; i < last; ++i) {
    others += IsClass(labels[i], classes) ? 0 : 1;
    ignored += labels[i] == ignore_index ? 1 : 0;
  }
  const int64_t valid = last - first - ignored;
  const bool excuses = ignore_index != kNoIgnoredLabel && !IsClass(ignore_index, classes);
  if (others == (excuses ? ignored : 0)) return {valid, -1};
  int64_t i = first;
  while (IsClass(labels[i], classes) || (excuses && labels[i] == ignore_index)) ++i;
  return {valid, i};
}

// What a position's class weights come to: w_y, or sum_c t_c w_c where they
// weigh positions.
template <class T, class Row>
double ClassWeight(const TypedProblem<T, Row>& problem, int64_t position) {
  const LossProblem& raw = problem.raw;
  if constexpr (Row::kHasTarget) {
    if (raw.class_weights == nullptr) return 1;
    const double at_label = static_cast<double>(problem.weight(problem.index(position)));
    if (!raw.class_weights_positions) return at_label;
    const double e = raw.label_smoothing;
    return (1 - e) * at_label +
           (e > 0 ? e / static_cast<double>(raw.classes) * raw.total_weight : 0);
  } else {
    if (!raw.class_weights_positions) return 1;
    const T* labels = problem.probabilities() + problem.first_class(position);
    // Many sums of few terms lose less than one sum of all.
    constexpr int64_t kSums = 64;
    double sums[kSums] = {};
    for (int64_t c = 0; c < raw.classes; ++c) {
      const auto label = ToFloat(labels[c * raw.inner]);
      sums[c % kSums] += static_cast<double>(problem.row.Coefficient(label, problem.weight(c)));
    }
    double sum = 0;
    for (const double part : sums) sum += part;
    return sum;
  }
}

template <class T, class Row>
double WeighPositions(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  using Acc = Accumulator<T>;
  const LossProblem& raw = problem.raw;
  const Acc* samples = static_cast<const Acc*>(raw.sample_weights);
  Acc* weights = static_cast<Acc*>(raw.position_weights);
  double total = 0;
  for (int64_t i = first; i < last; ++i) {
    if (Row::kHasTarget && problem.index(i) == raw.ignore_index) {
      if (weights != nullptr) weights[i] = 0;
      total += raw.mean_over == MeanOver::kPositions ? 1 : 0;
      continue;
    }
    const Acc sample = samples == nullptr ? Acc{1} : samples[i];
    const double of_classes = ClassWeight(problem, i);
    const double weight = static_cast<double>(sample) * of_classes;
    if (weights != nullptr) {
      weights[i] = raw.class_weights_positions ? static_cast<Acc>(weight) : sample;
    }
    switch (raw.mean_over) {
      case MeanOver::kWeights:
        total += weight;
        break;
      case MeanOver::kNonzero:
        total += sample == 0 ? 0 : 1;
        break;
      case MeanOver::kPositions:
      case MeanOver::kValid:
        total += 1;
        break;
    }
  }
  return total;
}

// Where nothing weighs a position, labels need be counted only.
inline bool CountsOnly(const LossProblem& problem) {
  return problem.position_weights == nullptr &&
         (problem.class_weights == nullptr || problem.mean_over != MeanOver::kWeights);
}

template <class T, class Row>
LabelScan ScanPositions(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  const LossProblem& raw = problem.raw;
  if constexpr (Row::kHasTarget) {
    const IndexCounts counts = raw.label_kind == LabelKind::kIndex64
                                   ? CheckIndices<int64_t>(raw, first, last)
                                   : CheckIndices<int32_t>(raw, first, last);
    if (counts.first_bad >= 0) return {0, counts.first_bad};
    if (CountsOnly(raw)) {
      const bool all = raw.mean_over == MeanOver::kPositions;
      return {static_cast<double>(all ? last - first : counts.valid), -1};
    }
  }
  return {WeighPositions(problem, first, last), -1};
}

}  // namespace onnxloss::ONNXLOSS_TARGET
