// SPDX-License-Identifier: MIT
// The sums of many positions side by side.
#pragma once

#include "cpu/kernels.h"
#include "cpu/vector_memory.h"
#include "rows/cross_entropy.h"

namespace onnxloss::ONNXLOSS_TARGET {

// A vector may begin at any lane.
template <class Acc>
struct Lanes {
  alignas(64) Acc at[kTileLanes + kWidth<Acc>];

  Acc& operator[](int64_t j) { return at[j]; }
  const Acc& operator[](int64_t j) const { return at[j]; }
};

template <class Acc>
inline void Fill(Lanes<Acc>* lanes, Acc value) {
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) lanes->at[j] = value;
}

// A class, as wide as the numbers that it stands beside.
template <class Acc>
using Label = typename NumberTypes<Acc>::Bits;
template <class Acc>
constexpr Label<Acc> kNoLabel = ~Label<Acc>{0};
static_assert(kNoLabel<float> >= kMostInnerClasses, "no class is kNoLabel");

// Sums over classes, and what their rounding lost: nan where a sum is infinite.
template <class Acc>
struct LaneSums {
  Lanes<Acc> value;
  Lanes<Acc> lost;

  void Set(int64_t j, Rounded<Vector<Acc>> sum) {
    Store(value.at + j, sum.value);
    Store(lost.at + j, sum.lost);
  }
  void Add(int64_t j, Vector<Acc> term) {
    const Rounded<Vector<Acc>> sum = TwoSum(Load(value.at + j), term);
    Set(j, {sum.value, Load(lost.at + j) + sum.lost});
  }
  void Round(int64_t j) { Store(value.at + j, RoundedFrom(j)); }
  Vector<Acc> RoundedFrom(int64_t j) const {
    const Vector<Acc> sum = Load(value.at + j);
    const Vector<Acc> exact = sum + Load(lost.at + j);
    return exact == exact ? exact : sum;
  }
  double Exact(int64_t lane) const {
    const double sum = static_cast<double>(value[lane]);
    const double exact = sum + static_cast<double>(lost[lane]);
    return exact == exact ? exact : sum;
  }
  void SetLane(int64_t lane, Rounded<Acc> sum) {
    value[lane] = sum.value;
    lost[lane] = sum.lost;
  }
};

// What is known of each lane's row.
template <class Acc>
struct LaneStats {
  Lanes<Acc> max;
  LaneSums<Acc> sum_minus_one;
  LaneSums<Acc> gap;
  LaneSums<Acc> total;
};

// The classes of a vector of lanes: that of class c is at first + c * step.
template <class Acc>
struct Classes {
  Acc* first;
  int64_t step;

  Acc* operator[](int64_t c) const { return first + c * step; }
  Classes From(int64_t c) const { return {first + c * step, step}; }
};

// numbers[i] = x[labels[i] - c0][i] of the lanes whose labels are among the n classes from c0 on.
template <class Acc>
inline void LoadAt(const Label<Acc>* labels, int64_t c0, const Classes<Acc>& x, int64_t n,
                   Acc* numbers) {
#if defined(__AVX512F__)
  using Bits = VectorBits<Acc>;
  Bits lane;
  for (int64_t i = 0; i < kWidth<Acc>; ++i) lane[i] = static_cast<Label<Acc>>(i);
  const Bits classes = LoadAs<Bits>(labels) - static_cast<Label<Acc>>(c0);
  const __m512i places = BitCast<__m512i>(classes * static_cast<Label<Acc>>(x.step) + lane);
  const __m512i c = BitCast<__m512i>(classes);
  const __m512i all = BitCast<__m512i>(Bits{} + static_cast<Label<Acc>>(n));
  const Vector<Acc> old = Load(numbers);
  if constexpr (std::is_same_v<Acc, float>) {
    const __mmask16 some = _mm512_cmplt_epu32_mask(c, all);
    Store(numbers, _mm512_mask_i32gather_ps(old, some, places, x.first, sizeof(Acc)));
  } else {
    const __mmask8 some = _mm512_cmplt_epu64_mask(c, all);
    Store(numbers, _mm512_mask_i64gather_pd(old, some, places, x.first, sizeof(Acc)));
  }
#else
  for (int64_t i = 0; i < kWidth<Acc>; ++i) {
    const int64_t c = static_cast<int64_t>(labels[i]) - c0;
    if (c >= 0 && c < n) numbers[i] = x[c][i];
  }
#endif
}

template <class Acc>
inline Vector<Acc> MaxOfClasses(const Classes<Acc>& x, int64_t n) {
  Vector<Acc> max = Splat(-Infinity<Acc>());
  for (int64_t c = 0; c < n; ++c) max = Max(Load(x[c]), max);
  return max;
}

// The sums of the lanes from j on, relative to the greater maxima `raised`, as Rescaled does for
// one row.
template <bool kDense, class Acc>
inline void Rescale(Vector<Acc> raised, int64_t j, LaneStats<Acc>* stats) {
  for (int64_t lane = j; lane < j + kWidth<Acc>; ++lane) {
    const Acc old = stats->max[lane];
    const Acc max = raised[lane - j];
    if (max <= old) continue;
    if constexpr (kDense) {
      const DenseSums<Acc> dense = {stats->gap.Exact(lane), stats->total.Exact(lane)};
      stats->gap.SetLane(lane, RoundedTo<Acc>(Rescaled(dense, old, max).gap));
    }
    const double sum = 1 + stats->sum_minus_one.Exact(lane);
    const Rounded<Acc> moved = RoundedTo<Acc>(Rescaled(RowStats<Acc>{old, sum, 0}, max).rest);
    const Rounded<Acc> minus_one = TwoSum(Acc{-1}, moved.value);
    stats->sum_minus_one.SetLane(lane, {minus_one.value, minus_one.lost + moved.lost});
  }
}

// So many terms are added up before their sum joins the others'.
constexpr int64_t kPartialTerms = 32;

// The sums of the terms of a few classes.
template <class Acc>
struct Terms {
  Vector<Acc> count_max = {};
  Vector<Acc> rest = {};
  Vector<Acc> gap = {};
  Vector<Acc> total = {};
};

// Of n <= kPartialTerms classes; with `keep`, x becomes their scaled exponentials. coefficient(c)
// is the dense one of class c.
template <bool kDense, class T, class Coefficient, class Acc = Accumulator<T>>
inline Terms<Acc> SumTerms(const Coefficient& coefficient, const Classes<Acc>& x, int64_t n,
                           Vector<Acc> max, bool keep) {
  using V = Vector<Acc>;
  const V shift = Shift(max);
  Terms<Acc> terms;
  V others = {};
#pragma GCC unroll 2
  for (int64_t c = 0; c < n; ++c) {
    const V value = Load(x[c]);
    const V e = ScaledExp<T>(value - shift);
    others = value != max ? others + 1 : others;
    terms.rest = value != max ? terms.rest + e : terms.rest;
    if constexpr (kDense) {
      const V a = coefficient(c);
      terms.gap += GapTerm(a, shift - value);
      terms.total += a;
    }
    if (keep) Store(x[c], e);
  }
  terms.count_max = static_cast<Acc>(n) - others;
  terms.rest *= kPerExpScale<Acc>;
  return terms;
}

// The first terms of the lanes from j on.
template <bool kDense, class Acc>
inline void Begin(const Terms<Acc>& terms, int64_t j, LaneStats<Acc>* stats) {
  stats->sum_minus_one.Set(j, TwoSum(terms.count_max - 1, terms.rest));
  if constexpr (kDense) {
    stats->gap.Set(j, {terms.gap, Vector<Acc>{}});
    stats->total.Set(j, {terms.total, Vector<Acc>{}});
  }
}

template <bool kDense, class Acc>
inline void Add(const Terms<Acc>& terms, int64_t j, LaneStats<Acc>* stats) {
  stats->sum_minus_one.Add(j, terms.count_max);
  stats->sum_minus_one.Add(j, terms.rest);
  if constexpr (kDense) {
    stats->gap.Add(j, terms.gap);
    stats->total.Add(j, terms.total);
  }
}

template <class Acc>
inline void CapAll(Acc cap, Acc* __restrict x, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) x[i] = SoftCap(x[i], cap);
}

}  // namespace onnxloss::ONNXLOSS_TARGET
