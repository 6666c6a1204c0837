// SPDX-License-Identifier: MIT
// The vector loops that sum one block of a long row.
#pragma once

#include "cpu/vector_memory.h"
#include "rows/cross_entropy.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Sums over a block relative to a reference: `sum` of exp(x - reference), `gap` of a_c (reference -
// x_c), and `total` of a_c where that is not known beforehand.
template <class Acc>
struct BlockSums {
  Acc max;
  double sum;
  double gap;
  double total;
};

constexpr int64_t kRowBlock = 1024;  // classes

// So many sums side by side keep the adders busy.
constexpr int64_t kSumsAtOnce = 4;

template <class Acc>
struct VectorSums {
  Vector<Acc> max = Splat(-Infinity<Acc>());
  Vector<Acc> sum = {};
  Vector<Acc> gap = {};
  Vector<Acc> total = {};

  void Join(const VectorSums& other) {
    max = Max(other.max, max);
    sum += other.sum;
    gap += other.gap;
    total += other.total;
  }
};

// n elements of a row, in kSums sums side by side; their scaled exponentials go to `kept`, in whole
// vectors, where kKeep says so.
template <bool kKeep, int64_t kSums = kSumsAtOnce, class T, class Coefficients>
__attribute__((flatten)) inline BlockSums<Accumulator<T>> SumBlock(
    const T* x, int64_t n, Accumulator<T> reference, const Coefficients& coefficients,
    Accumulator<T>* __restrict kept) {
  using Acc = Accumulator<T>;
  constexpr int64_t w = kWidth<Acc>;
  const Acc shift = Shift(reference);
  VectorSums<Acc> sums[kSums];
  const auto add = [&](int64_t i, int64_t count, VectorSums<Acc>* to) {
    const Vector<Acc> values = LoadFirst(x + i, count, FromFloat<T>(-Infinity<Acc>()));
    const Vector<Acc> distance = values - shift;
    const Vector<Acc> e = ScaledExp<T>(distance);
    if (i % kLine<T> == 0) FetchAhead(x + i);
    coefficients.FetchAhead(i);
    to->max = Max(values, to->max);
    to->sum += e;
    coefficients.AddTo(to, i, count, distance);
    if constexpr (kKeep) Store(kept + i, e);
  };
  int64_t i = 0;
  for (; i + kSums * w <= n; i += kSums * w) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < kSums; ++j) add(i + j * w, w, sums + j);
  }
  for (; i + w <= n; i += w) add(i, w, sums);
  if (i < n) add(i, n - i, sums);
#pragma GCC unroll 4
  for (int64_t j = 1; j < kSums; ++j) sums[0].Join(sums[j]);
  return {GreatestOf(sums[0].max), SumOf(sums[0].sum) * kPerExpScale<Acc>,
          coefficients.Gap(SumOf(sums[0].gap)), SumOf(sums[0].total)};
}

template <class T>
inline Accumulator<T> MaxOf(const T* x, int64_t n) {
  using Acc = Accumulator<T>;
  constexpr int64_t w = kWidth<Acc>;
  Vector<Acc> a = Splat(-Infinity<Acc>());
  Vector<Acc> b = a;
  int64_t i = 0;
  for (; i + 2 * w <= n; i += 2 * w) {
    a = Max(Load(x + i), a);
    b = Max(Load(x + i + w), b);
  }
  for (; i < n; i += w) {
    const int64_t part = n - i < w ? n - i : w;
    a = Max(LoadFirst(x + i, part, FromFloat<T>(-Infinity<Acc>())), a);
  }
  return GreatestOf(Max(a, b));
}

// Tells the elements equal to the greatest, `max`, from the others.
template <class T>
inline RowStats<Accumulator<T>> SumApart(const T* x, int64_t n, Accumulator<T> max) {
  using Acc = Accumulator<T>;
  constexpr int64_t w = kWidth<Acc>;
  Vector<Acc> count = {};
  Vector<Acc> rest = {};
  for (int64_t i = 0; i < n; i += w) {
    const int64_t part = n - i < w ? n - i : w;
    const Vector<Acc> values = LoadFirst(x + i, part, FromFloat<T>(-Infinity<Acc>()));
    const Vector<Acc> e = ScaledExp<T>(values - max);
    count += values == max ? Splat(Acc{1}) : Splat(Acc{0});
    rest += values == max ? Splat(Acc{0}) : e;
  }
  return {max, SumOf(count), SumOf(rest) * kPerExpScale<Acc>};
}

}  // namespace onnxloss::ONNXLOSS_TARGET
