// SPDX-License-Identifier: MIT
// The gradient by soft labels, for the few graphs that ask for it: a sweep of its own.
#pragma once

#include "cpu/problem.h"

namespace onnxloss::ONNXLOSS_TARGET {

// dlabels_c = k (1-e) w_c -log softmax(x)_c, with k as in the rows' formulas. The exponentials are
// formed once more: lse alone has not the digits.
template <class T, class Row>
struct LabelGradientRow {
  using Acc = Accumulator<T>;

  const TypedProblem<T, Row>& problem;
  int64_t position;
  int64_t stride;  // between classes
  int64_t first;   // index of class 0

  LabelGradientRow(const TypedProblem<T, Row>& typed, int64_t at)
      : problem(typed), position(at), stride(typed.raw.inner), first(typed.first_class(at)) {}

  int64_t classes() const { return problem.raw.classes; }
  Acc x(int64_t c) const { return problem.Capped(ToFloat(problem.logits[first + c * stride])); }

  RowSoftmax<Acc> Softmax() const {
    Acc max = -Infinity<Acc>();
#pragma omp simd reduction(max : max)
    for (int64_t c = 0; c < classes(); ++c) max = x(c) > max ? x(c) : max;
    const Acc shift = Shift(max);
    double count_max = 0;
    double rest = 0;
#pragma omp simd reduction(+ : count_max, rest)
    for (int64_t c = 0; c < classes(); ++c) {
      const bool is_max = x(c) == max;
      count_max += is_max ? 1.0 : 0.0;
      rest += is_max ? 0.0 : static_cast<double>(ExpNonPositive(x(c) - shift));
    }
    return Finish(RowStats<Acc>{max, count_max, rest});
  }

  void Store(int64_t c, Acc k, Acc neg_log_p) const {
    const Acc gradient = LabelGradient(k, problem.row.keep, problem.weight(c), neg_log_p);
    static_cast<T*>(problem.raw.dlabels)[first + c * stride] = FromFloat<T>(gradient);
  }

  void Run() const {
    const Acc k = problem.upstream(position);
    const RowSoftmax<Acc> softmax = Softmax();
    for (int64_t c = 0; c < classes(); ++c) Store(c, k, NegLogP(softmax, x(c)));
  }
};

template <class T, class Row>
void WriteLabelGradient(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  for (int64_t position = first; position < last; ++position) {
    LabelGradientRow<T, Row>(problem, position).Run();
  }
}

}  // namespace onnxloss::ONNXLOSS_TARGET
