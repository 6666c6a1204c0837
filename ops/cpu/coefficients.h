// SPDX-License-Identifier: MIT
// The dense coefficients a_c of a row, see rows/cross_entropy.h: none, one number, or one per
// class.
#pragma once

#include "cpu/block_sums.h"
#include "cpu/problem.h"

namespace onnxloss::ONNXLOSS_TARGET {

// What a block of exponentials needs to become the gradient.
template <class Acc>
struct GradientTerms {
  Acc k;
  Acc total;  // A for exponentials relative to the maximum
  Acc sum_minus_one;
  Acc scale;   // k / sum
  Acc factor;  // total * scale
};

// Each kind has: AddTo, which adds up what a vector of x - reference gives to the dense sums; Gap,
// which makes of the sum what it means; and Gradient, which makes of exponentials what their
// classes get. Vectors begin at class i, and have `count` classes.
struct NoCoefficients {
  void FetchAhead(int64_t) const {}
  template <class Sums, class V>
  void AddTo(Sums*, int64_t, int64_t, V) const {}
  double Gap(double) const { return 0; }
  template <class Acc>
  Vector<Acc> Gradient(const GradientTerms<Acc>& terms, Vector<Acc> e, int64_t, int64_t) const {
    return e * terms.factor;
  }
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
  Acc uniform;

  void FetchAhead(int64_t) const {}
  void AddTo(VectorSums<Acc>* sums, int64_t, int64_t count, Vector<Acc> distance) const {
    sums->gap -= count == kWidth<Acc> ? distance : GapTerm(FirstOnes<Acc>(count), distance);
  }
  double Gap(double sum) const { return static_cast<double>(uniform) * sum; }
  Vector<Acc> Gradient(const GradientTerms<Acc>& terms, Vector<Acc> e, int64_t, int64_t) const {
    return UntargetedGradient(e, Splat(terms.factor), Splat(uniform), Splat(terms.k));
  }
};

// A coefficient of 0 switches an infinite distance off, which costs more than the product; kMasked
// says that there are any, as the nan of a sum of products tells.
template <bool kMasked, class Acc>
inline Vector<Acc> GapTerms(Vector<Acc> coefficients, Vector<Acc> distance, int64_t count) {
  const bool all = count == kWidth<Acc> && !kMasked;
  return all ? coefficients * distance : GapTerm(coefficients, distance);
}

// Every row reads all weights: those of the next block come from the second cache to the first.
template <class Acc>
inline void FetchWeights(const Acc* weights, int64_t i) {
  if (i % kLine<Acc> == 0) __builtin_prefetch(weights + i + kRowBlock, 0, 3);
}

// Smoothing with class weights.
template <class Acc, bool kMasked>
struct WeightCoefficients {
  Acc uniform;
  const Acc* weights;

  Vector<Acc> At(int64_t i, int64_t count) const { return LoadFirst(weights + i, count, Acc{0}); }
  void FetchAhead(int64_t i) const { FetchWeights(weights, i); }
  void AddTo(VectorSums<Acc>* sums, int64_t i, int64_t count, Vector<Acc> distance) const {
    sums->gap -= GapTerms<kMasked, Acc>(At(i, count), distance, count);
  }
  double Gap(double sum) const { return static_cast<double>(uniform) * sum; }
  Vector<Acc> Gradient(const GradientTerms<Acc>& terms, Vector<Acc> e, int64_t i,
                       int64_t count) const {
    return UntargetedGradient(e, Splat(terms.factor), At(i, count), Splat(uniform * terms.k));
  }
};

// Soft labels, smoothed or not.
template <class T, class Row, bool kWeighted, bool kMasked>
struct LabelCoefficients {
  using Acc = Accumulator<T>;
  Row formula;
  const T* labels;
  const Acc* weights;  // null unless kWeighted

  Vector<Acc> At(int64_t i, int64_t count) const {
    const Vector<Acc> label = LoadFirst(labels + i, count, FromFloat<T>(0));
    const Vector<Acc> weight =
        kWeighted ? LoadFirst(weights + i, count, Acc{0}) : FirstOnes<Acc>(count);
    return formula.Coefficient(label, weight);
  }
  void FetchAhead(int64_t i) const {
    if (i % kLine<T> == 0) ONNXLOSS_TARGET::FetchAhead(labels + i);
    if (kWeighted) FetchWeights(weights, i);
  }
  void AddTo(VectorSums<Acc>* sums, int64_t i, int64_t count, Vector<Acc> distance) const {
    const Vector<Acc> a = At(i, count);
    sums->gap -= GapTerms<kMasked, Acc>(a, distance, count);
    sums->total += a;
  }
  double Gap(double sum) const { return sum; }
  Vector<Acc> Gradient(const GradientTerms<Acc>& terms, Vector<Acc> e, int64_t i,
                       int64_t count) const {
    return DenseGradient(e, Splat(terms.total), At(i, count), Splat(terms.sum_minus_one),
                         Splat(terms.scale));
  }
};

// Calls visit with the coefficients of a row's classes from `first` on.
template <bool kMasked, class T, class Row, class Visitor>
inline auto WithCoefficients(const TypedProblem<T, Row>& problem, int64_t position, int64_t first,
                             const Visitor& visit) {
  using Acc = Accumulator<T>;
  const auto* weights = problem.class_weights;
  if constexpr (!Row::kDense) {
    return visit(NoCoefficients{});
  } else if constexpr (Row::kHasTarget) {
    const Acc uniform = problem.row.uniform;
    if (!kMasked && weights == nullptr) return visit(OneCoefficient<Acc>{uniform});
    return visit(WeightCoefficients<Acc, kMasked>{uniform, weights + first});
  } else {
    const T* labels = problem.probabilities() + position * problem.raw.classes + first;
    if (weights == nullptr) {
      return visit(LabelCoefficients<T, Row, false, kMasked>{problem.row, labels, nullptr});
    }
    return visit(LabelCoefficients<T, Row, true, kMasked>{problem.row, labels, weights + first});
  }
}

}  // namespace onnxloss::ONNXLOSS_TARGET
