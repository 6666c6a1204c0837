// SPDX-License-Identifier: MIT
// from_logits = 0: the logits are probabilities, and no softmax joins the
// classes of a position.
#pragma once

#include "cpu/problem.h"

namespace onnxloss::ONNXLOSS_TARGET {

// loss = sum_c a_c * -log(x_c), dlogits_c = -k a_c / x_c; a coefficient of 0
// switches its term off. The log is libm's: what is read is the target alone,
// unless labels are soft or smoothed.
template <class T, class Row>
struct ProbabilityRow {
  using Acc = Accumulator<T>;

  const TypedProblem<T, Row>& problem;
  int64_t position;
  int64_t first;   // index of the position's first class
  int64_t stride;  // between its classes
  int64_t label = -1;

  ProbabilityRow(const TypedProblem<T, Row>& typed, int64_t at)
      : problem(typed), position(at), first(typed.first_class(at)), stride(typed.raw.inner) {
    if constexpr (Row::kHasTarget) label = typed.index(at);
  }

  bool ignored() const { return Row::kHasTarget && label == problem.raw.ignore_index; }

  Acc Coefficient(int64_t c) const {
    Acc a = 0;
    if constexpr (Row::kDense) {
      Acc given = 0;
      if constexpr (!Row::kHasTarget) given = ToFloat(problem.probabilities()[first + c * stride]);
      a = problem.row.Coefficient(given, problem.weight(c));
    }
    return Row::kHasTarget && c == label ? a + problem.row.keep * problem.weight(c) : a;
  }

  double Term(int64_t c) const {
    const Acc a = Coefficient(c);
    const Acc x = problem.Capped(ToFloat(problem.logits[first + c * stride]));
    return a == 0 ? 0 : static_cast<double>(a * -Log(x));
  }

  Acc Loss() const {
    if (ignored()) return 0;
    if constexpr (!Row::kDense) return static_cast<Acc>(Term(label));
    double sum = 0;
    for (int64_t c = 0; c < problem.raw.classes; ++c) sum += Term(c);
    return static_cast<Acc>(sum);
  }

  void WriteGradient() const {
    const Acc k = problem.plain_upstream(position);
    for (int64_t c = 0; c < problem.raw.classes; ++c) {
      const Acc a = ignored() ? Acc{0} : Coefficient(c);
      const Acc logit = ToFloat(problem.logits[first + c * stride]);
      const Acc by_logit = -a * problem.CapSlope(logit) / problem.Capped(logit);
      const Acc weighted = problem.Weighted(position, by_logit);
      problem.dlogits[first + c * stride] = FromFloat<T>(a == 0 ? Acc{0} : k * weighted);
    }
  }
};

template <class T, class Row>
void RunProbabilities(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  for (int64_t position = first; position < last; ++position) {
    const ProbabilityRow<T, Row> row(problem, position);
    const Accumulator<T> loss = row.Loss();
    if (problem.dlogits != nullptr) row.WriteGradient();
    problem.AddToPartial(position, static_cast<double>(problem.Store(position, loss, 0)));
  }
}

}  // namespace onnxloss::ONNXLOSS_TARGET
