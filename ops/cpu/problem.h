// SPDX-License-Identifier: MIT
// A LossProblem with its types known.
#pragma once

#include "cpu/kernels.h"
#include "rows/math.h"
#include "rows/soft_label_cross_entropy_loss.h"
#include "rows/softcap.h"
#include "rows/softmax_cross_entropy_loss.h"

namespace onnxloss::ONNXLOSS_TARGET {

template <class T, class Row>
struct TypedProblem {
  using Acc = Accumulator<T>;

  const LossProblem& raw;
  Row row;
  const T* logits = static_cast<const T*>(raw.logits);
  const Acc* class_weights = static_cast<const Acc*>(raw.class_weights);
  const Acc* position_weights = static_cast<const Acc*>(raw.position_weights);
  const Acc* dloss = static_cast<const Acc*>(raw.dloss);
  const Acc z_loss = static_cast<Acc>(raw.z_loss);
  const Acc softcap = static_cast<Acc>(raw.softcap);
  Acc* loss = static_cast<Acc*>(raw.loss);
  Acc* lse = static_cast<Acc*>(raw.lse);
  T* dlogits = static_cast<T*>(raw.dlogits);

  const T* probabilities() const { return static_cast<const T*>(raw.labels); }
  int64_t index(int64_t position) const {
    return raw.label_kind == LabelKind::kIndex64
               ? static_cast<const int64_t*>(raw.labels)[position]
               : static_cast<const int32_t*>(raw.labels)[position];
  }
  // Where class 0 of a position is; class c is c * inner further.
  int64_t first_class(int64_t position) const {
    return position / raw.inner * raw.classes * raw.inner + position % raw.inner;
  }
  Acc weight(int64_t c) const { return class_weights == nullptr ? Acc{1} : class_weights[c]; }
  double plain_k(int64_t position) const {
    return static_cast<double>(dloss[raw.dloss_per_position ? position : 0]) / raw.denominator;
  }
  Acc plain_upstream(int64_t position) const { return static_cast<Acc>(plain_k(position)); }
  // k in the formulas of the rows, with what weighs the position.
  Acc upstream(int64_t position) const {
    const double weight =
        position_weights == nullptr ? 1 : static_cast<double>(position_weights[position]);
    return static_cast<Acc>(plain_k(position) * weight);
  }
  bool upstream_per_position() const {
    return raw.dloss_per_position || position_weights != nullptr;
  }
  Acc Capped(Acc logit) const { return softcap > 0 ? SoftCap(logit, softcap) : logit; }
  Acc CapSlope(Acc logit) const { return softcap > 0 ? SoftCapSlope(logit, softcap) : Acc{1}; }
  // Writes what is wanted of a position's results; returns its weighted loss.
  Acc Store(int64_t position, Acc plain, Acc log_sum_exp) const {
    const Acc weighted =
        position_weights == nullptr ? plain : Weighted(position_weights[position], plain);
    if (loss != nullptr) loss[position] = weighted;
    if (lse != nullptr) lse[position] = log_sum_exp;
    return weighted;
  }
  // Whether Store does more than to return its argument.
  bool stores() const { return loss != nullptr || lse != nullptr || position_weights != nullptr; }
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
