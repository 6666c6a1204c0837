// SPDX-License-Identifier: MIT
// The dense coefficients a_c of a row, see rows/cross_entropy.h: none, one number, or one per
// class.
#pragma once

#include "cpu/block_sums.h"
#include "cpu/problem.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Each kind has: At(i, count), the coefficients from class i on, and 0 from class i + count on;
// AddTo, which adds up what a vector of x - reference gives to the dense sums; and Gap and Total,
// which make of the sums over n classes what they mean.
struct NoCoefficients {
  static constexpr bool kDense = false;
  void FetchAhead(int64_t) const {}
  template <class Sums, class V>
  void AddTo(Sums*, int64_t, int64_t, V) const {}
  double Gap(double) const { return 0; }
  double Total(double, int64_t) const { return 0; }
};

template <class Acc>
inline Vector<Acc> FirstOnes(int64_t count) {
  if (count == kWidth<Acc>) return Splat(Acc{1});
  Vector<Acc> ones = {};
  for (int64_t i = 0; i < kWidth<Acc>; ++i) ones[i] = i < count ? Acc{1} : Acc{0};
  return ones;
}

// Smoothing without class weights.
template <class Acc>
struct OneCoefficient {
  static constexpr bool kDense = true;
  Acc value;

  void FetchAhead(int64_t) const {}

  Vector<Acc> At(int64_t, int64_t) const { return Splat(value); }
  void AddTo(VectorSums<Acc>* sums, int64_t, int64_t count, Vector<Acc> distance) const {
    sums->gap -= count == kWidth<Acc> ? distance : GapTerm(FirstOnes<Acc>(count), distance);
  }
  double Gap(double sum) const { return static_cast<double>(value) * sum; }
  double Total(double, int64_t n) const {
    return static_cast<double>(value) * static_cast<double>(n);
  }
};

// Soft labels, smoothed or not, and smoothing with class weights.
template <class T, class Row, bool kWeighted>
struct ManyCoefficients {
  using Acc = Accumulator<T>;
  static constexpr bool kDense = true;
  Row formula;
  const T* labels;     // null with an index label
  const Acc* weights;  // null unless kWeighted

  void FetchAhead(int64_t i) const {
    if constexpr (!Row::kHasTarget) ONNXLOSS_TARGET::FetchAhead(labels + i);
  }
  Vector<Acc> At(int64_t i, int64_t count) const {
    Vector<Acc> label = {};
    Vector<Acc> weight = FirstOnes<Acc>(count);
    if constexpr (!Row::kHasTarget) label = LoadFirst(labels + i, count, FromFloat<T>(0));
    if constexpr (kWeighted) weight = LoadFirst(weights + i, count, Acc{0});
    return formula.Coefficient(label, weight);
  }
  void AddTo(VectorSums<Acc>* sums, int64_t i, int64_t count, Vector<Acc> distance) const {
    const Vector<Acc> a = At(i, count);
    sums->gap -= GapTerm(a, distance);
    sums->total += a;
  }
  double Gap(double sum) const { return sum; }
  double Total(double sum, int64_t) const { return sum; }
};

// Calls visit with the coefficients of a row's classes from `first` on.
template <class T, class Row, class Visitor>
inline auto WithCoefficients(const TypedProblem<T, Row>& problem, int64_t position, int64_t first,
                             const Visitor& visit) {
  if constexpr (!Row::kDense) {
    return visit(NoCoefficients{});
  } else {
    const auto* weights = problem.class_weights;
    const T* labels = nullptr;
    if constexpr (Row::kHasTarget) {
      if (weights == nullptr) return visit(OneCoefficient<Accumulator<T>>{problem.row.uniform});
    } else {
      labels = problem.probabilities() + position * problem.raw.classes + first;
      if (weights == nullptr) {
        return visit(ManyCoefficients<T, Row, false>{problem.row, labels, nullptr});
      }
    }
    return visit(ManyCoefficients<T, Row, true>{problem.row, labels, weights + first});
  }
}

}  // namespace onnxloss::ONNXLOSS_TARGET
