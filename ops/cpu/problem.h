// SPDX-License-Identifier: MIT
// A LossProblem with its types known.
#pragma once

#include "cpu/kernels.h"
#include "rows/math.h"
#include "rows/soft_label_cross_entropy_loss.h"
#include "rows/softmax_cross_entropy_loss.h"

namespace onnxloss::ONNXLOSS_TARGET {

template <class T, class Row>
struct TypedProblem {
  using Acc = Accumulator<T>;

  const LossProblem& raw;
  Row row;
  const T* logits = static_cast<const T*>(raw.logits);
  const Acc* class_weights = static_cast<const Acc*>(raw.class_weights);
  const Acc* dloss = static_cast<const Acc*>(raw.dloss);
  Acc* loss = static_cast<Acc*>(raw.loss);
  T* dlogits = static_cast<T*>(raw.dlogits);

  const T* probabilities() const { return static_cast<const T*>(raw.labels); }
  int64_t index(int64_t position) const {
    return raw.label_kind == LabelKind::kIndex64
               ? static_cast<const int64_t*>(raw.labels)[position]
               : static_cast<const int32_t*>(raw.labels)[position];
  }
  Acc weight(int64_t c) const { return class_weights == nullptr ? Acc{1} : class_weights[c]; }
  // k in the formulas of the rows.
  Acc upstream(int64_t position) const {
    return static_cast<Acc>(static_cast<double>(dloss[raw.dloss_per_position ? position : 0]) /
                            raw.denominator);
  }
  void AddToPartial(int64_t position, double loss) const {
    if (raw.partial_losses == nullptr) return;
    raw.partial_losses[position / raw.positions_per_partial] += loss;
  }
  // What a row with index labels knows of its dense coefficients without summing them.
  Acc dense_total() const {
    return Row::kDense ? static_cast<Acc>(static_cast<double>(row.uniform) * raw.total_weight)
                       : Acc{0};
  }
};

}  // namespace onnxloss::ONNXLOSS_TARGET
