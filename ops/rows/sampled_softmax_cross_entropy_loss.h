// SPDX-License-Identifier: MIT
// The row of SampledSoftmaxCrossEntropyLoss: the true classes of one position and the sampled ones.
#pragma once

#include "rows/cross_entropy.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Contract. The first T columns x_t are those of the true classes, S sampled ones follow; each is a
// logit less the log of its class's expected count, and -inf where it is left out; z is z_loss:
//
//   loss = 1/T sum_t (max - x_t) + log_sum + z lse^2
//   dx_c = k (p_c (1 + 2 z lse) - 1/T [c < T]),   p_c = exp(x_c - max) / sum
//
// x is [T + S]; accumulators as for SoftmaxCrossEntropyLossRow. Max error of the loss: 8 ulp of Acc
// for |x_c - max| <= 16; of dx: the same, in ulp of k max(p_c, 1/T). The rounding of x itself, half
// an ulp of the logit and of log Q, is not counted.
template <class Acc>
struct SampledSoftmaxCrossEntropyLossRow {
  RowSoftmax<Acc> softmax;
  Acc share;  // 1/T
  Acc z;

  SCE_HD Acc Loss(double sum_of_gaps) const {
    return static_cast<Acc>(sum_of_gaps * static_cast<double>(share)) + softmax.log_sum.Sum() +
           ZLoss(z, LogSumExp(softmax));
  }
  // `e` is exp(x_c - max), `is_true` 1 for a true column and 0 for a sampled one.
  SCE_HD Acc Gradient(Acc e, Acc is_true, Acc k) const {
    const Acc total = 1 + ZLossShare(z, LogSumExp(softmax));
    return DenseGradient(e, total, is_true * share, softmax.sum_minus_one, k / softmax.sum);
  }
};

}  // namespace onnxloss::ONNXLOSS_TARGET
