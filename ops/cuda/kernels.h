// SPDX-License-Identifier: MIT
// The table of what is compiled: which kernel for which type of logits and labels.
#pragma once

#include "cuda/packed_rows.h"
#include "cuda/probability_rows.h"
#include "cuda/resident_rows.h"
#include "cuda/streamed_rows.h"
#include "cuda/strided_rows.h"
#include "cuda/sums.h"

namespace onnxloss::cuda {

using RowKernel = void (*)(Arguments);

// The kernels of one type of logits and one kind of labels.
struct KernelTable {
  RowKernel resident[kNumResidences];
  RowKernel streamed;
  RowKernel streamed_capped;  // where there is a softcap
  RowKernel strided;
  RowKernel strided_capped;
  RowKernel strided_pairs;  // of 16-bit types, else null
  RowKernel packed;         // of types but float64, else null
  RowKernel probabilities;
  RowKernel label_gradients;  // of probabilities as labels, else null
  void (*weigh)(WeighArguments);
};

template <class T, class Row>
RowKernel LabelGradientsOf() {
  if constexpr (Row::kHasTarget) return nullptr;
  if constexpr (!Row::kHasTarget) return LabelGradients<T, Row>;
}

template <class T, class Row>
RowKernel StridedPairsOf() {
  if constexpr (sizeof(T) != 2) return nullptr;
  if constexpr (sizeof(T) == 2) return StridedRows<T, Row, Cap::kNone, 2>;
}

template <class T, class Row>
RowKernel PackedOf() {
  if constexpr (sizeof(T) == 8) return nullptr;
  if constexpr (sizeof(T) != 8) return PackedRows<T, Row>;
}

template <class T, class Row>
const KernelTable& TableFor() {
  static const KernelTable table = {
      {ResidentRows<T, Row, 0>, ResidentRows<T, Row, 1>, ResidentRows<T, Row, 2>,
       ResidentRows<T, Row, 3>, ResidentRows<T, Row, 4>, ResidentRows<T, Row, 5>,
       ResidentRows<T, Row, 6>, ResidentRows<T, Row, 7>, ResidentRows<T, Row, 8>},
      StreamedRows<T, Row, Cap::kNone>,
      StreamedRows<T, Row, Cap::kSome>,
      StridedRows<T, Row, Cap::kNone, 1>,
      StridedRows<T, Row, Cap::kSome, 1>,
      StridedPairsOf<T, Row>(),
      PackedOf<T, Row>(),
      ProbabilityRows<T, Row>,
      LabelGradientsOf<T, Row>(),
      WeighPositions<T, Row>};
  static_assert(kNumResidences == 9, "every residence has its kernel");
  return table;
}

// Index labels, index labels with smoothing, probabilities.
enum Formula : int { kIndex, kSmoothedIndex, kProbabilities };

template <class T>
const KernelTable& TableFor(Formula formula) {
  using Acc = Accumulator<T>;
  if (formula == kProbabilities) return TableFor<T, SoftLabelCrossEntropyLossRow<Acc>>();
  if (formula == kSmoothedIndex) return TableFor<T, SoftmaxCrossEntropyLossRow<Acc, true>>();
  return TableFor<T, SoftmaxCrossEntropyLossRow<Acc, false>>();
}

// Each is compiled in a file of its own.
const KernelTable& Float16Kernels(Formula formula);
const KernelTable& BFloat16Kernels(Formula formula);
const KernelTable& Float32Kernels(Formula formula);
const KernelTable& Float64Kernels(Formula formula);

}  // namespace onnxloss::cuda
