// SPDX-License-Identifier: MIT
// A LossCall as the kernels see it, with its types known.
#pragma once

#include "cuda/device.h"
#include "cuda/loss.h"
#include "rows/normalization.h"
#include "rows/soft_label_cross_entropy_loss.h"
#include "rows/softcap.h"
#include "rows/softmax_cross_entropy_loss.h"

namespace onnxloss::cuda {

// What every kernel gets, by value.
struct Arguments {
  LossCall call;              // class weights that weigh positions are not in it
  void* position_weights;     // S [positions], or null where nothing weighs positions
  void* losses;               // S [positions], or null where no loss is wanted
  const double* mean_factor;  // makes a mean of a sum: one over its denominator; or null for
  double known_mean_factor;
  const double* class_total;  // the sum of the class weights, or null for
  double known_class_total;
  int class_lanes;  // see Plan
};

constexpr int64_t kNoLabel = -1;

template <class Acc>
struct Label {
  int64_t index = kNoLabel;  // of a class that is in the row, else kNoLabel
  bool counts = true;        // the row is not ignored
  bool bad = false;
};

template <class T, class Row>
struct Problem {
  using Acc = Accumulator<T>;

  const Arguments& arguments;
  const LossCall& call;
  Row row;

  ONNXLOSS_DEVICE explicit Problem(const Arguments& given)
      : arguments(given),
        call(given.call),
        row{static_cast<Acc>(1 - given.call.label_smoothing),
            static_cast<Acc>(given.call.label_smoothing /
                             static_cast<double>(given.call.classes))} {}

  ONNXLOSS_DEVICE const T* logits() const { return static_cast<const T*>(call.logits); }
  ONNXLOSS_DEVICE const T* probabilities() const { return static_cast<const T*>(call.labels); }
  ONNXLOSS_DEVICE T* dlogits() const { return static_cast<T*>(call.dlogits); }
  ONNXLOSS_DEVICE int64_t positions() const { return call.outer * call.inner; }
  // Where the first class of a position is; those that follow are `inner` apart.
  ONNXLOSS_DEVICE int64_t First(int64_t position) const {
    if (call.inner == 1) return position * call.classes;
    return position / call.inner * call.classes * call.inner + position % call.inner;
  }

  ONNXLOSS_DEVICE int64_t GivenLabel(int64_t position) const {
    return call.label_kind == static_cast<int64_t>(LabelKind::kIndex64)
               ? static_cast<const int64_t*>(call.labels)[position]
               : static_cast<const int32_t*>(call.labels)[position];
  }
  ONNXLOSS_DEVICE Label<Acc> LabelFrom(int64_t given) const {
    Label<Acc> label;
    const bool ignores = call.ignore_index != kNoIgnoredLabel;
    label.counts = !ignores || given != call.ignore_index;
    label.bad = label.counts && (given < 0 || given >= call.classes);
    label.index = label.counts && !label.bad ? given : kNoLabel;
    return label;
  }
  ONNXLOSS_DEVICE Label<Acc> LabelOf(int64_t position) const {
    if constexpr (Row::kHasTarget) return LabelFrom(GivenLabel(position));
    return {};
  }

  ONNXLOSS_DEVICE Acc Weight(int64_t c) const {
    return call.class_weights == nullptr ? Acc{1} : static_cast<const Acc*>(call.class_weights)[c];
  }
  ONNXLOSS_DEVICE Acc Capped(Acc logit) const {
    const Acc cap = static_cast<Acc>(call.softcap);
    return cap > 0 ? SoftCap(logit, cap) : logit;
  }
  ONNXLOSS_DEVICE Acc CapSlope(Acc logit) const {
    const Acc cap = static_cast<Acc>(call.softcap);
    return cap > 0 ? SoftCapSlope(logit, cap) : Acc{1};
  }
  ONNXLOSS_DEVICE bool DividesFirst() const {
    return call.normalize == static_cast<int64_t>(Normalize::kBeforeClip);
  }
  ONNXLOSS_DEVICE bool DividesLast() const {
    return call.normalize == static_cast<int64_t>(Normalize::kAfterClip);
  }
  // What probabilities are clipped to.
  ONNXLOSS_DEVICE Normalization<Acc> Bounds() const {
    Normalization<Acc> bounds;
    if (DividesFirst() || DividesLast()) bounds.ClipTo(call.epsilon);
    return bounds;
  }
  ONNXLOSS_DEVICE double MeanFactor() const {
    return arguments.mean_factor == nullptr ? arguments.known_mean_factor : *arguments.mean_factor;
  }
  // What a row with an index as label knows of its dense coefficients without summing them.
  ONNXLOSS_DEVICE Acc DenseTotal() const {
    if constexpr (!Row::kDense) return 0;
    const double total =
        arguments.class_total == nullptr ? arguments.known_class_total : *arguments.class_total;
    return static_cast<Acc>(static_cast<double>(row.uniform) * total);
  }
  ONNXLOSS_DEVICE double PlainUpstream(int64_t position) const {
    const Acc* dloss = static_cast<const Acc*>(call.dloss);
    return static_cast<double>(dloss[call.reduced ? 0 : position]) * MeanFactor();
  }
  ONNXLOSS_DEVICE Acc PositionWeight(int64_t position) const {
    const Acc* weights = static_cast<const Acc*>(arguments.position_weights);
    return weights == nullptr ? Acc{1} : weights[position];
  }
  // k in the formulas of the rows, with what weighs the position.
  ONNXLOSS_DEVICE Acc Upstream(int64_t position) const {
    return static_cast<Acc>(PlainUpstream(position) *
                            static_cast<double>(PositionWeight(position)));
  }
  // One thread of the position does it.
  ONNXLOSS_DEVICE void Store(int64_t position, Acc plain, Acc lse) const {
    if (arguments.losses != nullptr) {
      static_cast<Acc*>(arguments.losses)[position] = Weighted(PositionWeight(position), plain);
    }
    if (call.lse != nullptr) static_cast<Acc*>(call.lse)[position] = lse;
  }
};

template <class Acc>
ONNXLOSS_DEVICE Acc NotANumber() {
  return Infinity<Acc>() - Infinity<Acc>();
}

// exp(x) for x <= 0 or nan, as exactly as what becomes of it needs.
template <class T>
ONNXLOSS_DEVICE float Exp(float x) {
  return sizeof(T) == 2 ? device::ExpApproximate(x) : device::ExpExact(x);
}
template <class T>
ONNXLOSS_DEVICE double Exp(double x) {
  return ExpNonPositive(x);
}

ONNXLOSS_DEVICE float Wide(float value) { return value; }
ONNXLOSS_DEVICE double Wide(double value) { return value; }
ONNXLOSS_DEVICE float Wide(BFloat16 value) { return ToFloat(value); }
ONNXLOSS_DEVICE float Wide(Half value) { return device::Widen(value.bits); }

template <class T>
ONNXLOSS_DEVICE T Narrow(Accumulator<T> value) {
  return value;
}
template <>
ONNXLOSS_DEVICE Half Narrow<Half>(float value) {
  return Half{static_cast<uint16_t>(device::NarrowToHalves(value, 0))};
}
template <>
ONNXLOSS_DEVICE BFloat16 Narrow<BFloat16>(float value) {
  return BFloat16{static_cast<uint16_t>(device::NarrowToBFloat16s(value, 0))};
}

}  // namespace onnxloss::cuda
