// SPDX-License-Identifier: MIT
// Rows of probabilities side by side: few classes, or a class axis that is not the last.
#pragma once

#include "cpu/tiles.h"
#include "rows/normalization.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Rows in one piece of no more classes are turned on their side; of more, each costs less alone.
constexpr int64_t kFewProbabilities = 64;

// A sum for each lane, and what its rounding lost: nan where it is infinite.
template <class V>
struct LaneSum {
  V value = {};
  V lost = {};

  void Add(V term) {
    const Rounded<V> sum = TwoSum(value, term);
    value = sum.value;
    lost += sum.lost;
  }
  V Total() const {
    const V exact = value + lost;
    return exact == exact ? exact : value;
  }
};

// The sums of cpu/probabilities.h for as many positions as a vector has lanes. No arithmetic
// crosses lanes, so a position's result does not depend on its neighbours.
template <class T, class Row>
struct ProbabilityLanes {
  using Acc = Accumulator<T>;
  using V = Vector<Acc>;
  static constexpr int64_t kVector = kWidth<Acc>;
  static constexpr int64_t kMostInRows = kFewProbabilities * kVector;

  const TypedProblem<T, Row>& problem;
  int64_t last;       // positions of the task
  int64_t first = 0;  // position of lane 0
  int64_t count = 0;  // lanes in use; the others have a label, and probabilities of 1
  const T* logits = nullptr;
  const T* shares = nullptr;  // soft labels
  T* dlogits = nullptr;
  VectorBits<Acc> label = {};
  Normalization<V> normalization = {};
  V a_label = {};    // of the label's class, its dense coefficient left out
  V sum_r = {};      // S
  V total = {};      // A
  V quotients = {};  // -sum_j dq_j q_j / k
  V loss = {};
  V lse = {};
  // Rows on their side.
  alignas(64) Acc x[kMostInRows];
  alignas(64) Acc labels[Row::kHasTarget ? 1 : kMostInRows];
  alignas(64) T row_major[kMostInRows + kPieceWidth<T>];

  ProbabilityLanes(const TypedProblem<T, Row>& typed, int64_t end) : problem(typed), last(end) {
    if (problem.raw.normalize != Normalize::kNone) normalization.ClipTo(problem.raw.epsilon);
  }

  int64_t classes() const { return problem.raw.classes; }
  int64_t inner() const { return problem.raw.inner; }
  bool in_one_piece() const { return inner() == 1; }
  bool divides_first() const { return problem.raw.normalize == Normalize::kBeforeClip; }
  bool divides_last() const { return problem.raw.normalize == Normalize::kAfterClip; }

  // Whether after the rows of all lanes there is room for a piece more before row `end`.
  bool HasRoom(int64_t end) const { return first + kVector + kPieceWidth<T> <= end; }

  void TurnRows(const T* rows, Acc filler, Acc* columns) {
    const int64_t n = classes();
    if (HasRoom(problem.raw.outer)) {
      for (int64_t i = 0; i < kVector * n; i += kVector) FetchAhead(rows + i);
      RowsToColumns(rows, n, columns);
      return;
    }
    for (int64_t i = 0; i < kVector * n; ++i) {
      row_major[i] = i < count * n ? rows[i] : FromFloat<T>(filler);
    }
    RowsToColumns(row_major, n, columns);
  }

  V ClassOf(const T* source, const Acc* columns, int64_t c, Acc filler) const {
    if (in_one_piece()) return Load(columns + c * kVector);
    const T* const of_class = source + c * inner();
    FetchAhead(of_class, kAheadInClass);
    return LoadFirst(of_class, count, FromFloat<T>(filler));
  }
  V QuotientOf(int64_t c) const { return normalization.Quotient(ClassOf(logits, x, c, Acc{1})); }
  auto IsLabel(int64_t c) const { return label == static_cast<Label<Acc>>(c); }
  V CoefficientOf(int64_t c) const {
    V a = {};
    if constexpr (Row::kDense) {
      V share = {};
      if constexpr (!Row::kHasTarget) share = ClassOf(shares, labels, c, Acc{0});
      a = problem.row.Coefficient(share, Splat(problem.weight(c)));
    }
    if constexpr (Row::kHasTarget) a = IsLabel(c) ? a + a_label : a;
    return a;
  }

  void LoadTargets() {
    for (int64_t i = 0; i < kVector; ++i) {
      const int64_t index = i < count ? problem.index(first + i) : 0;
      const bool ignored = index == problem.raw.ignore_index;
      label[i] = ignored ? kNoLabel<Acc> : static_cast<Label<Acc>>(index);
      a_label[i] = ignored ? Acc{0} : problem.row.keep * problem.weight(index);
    }
  }

  ONNXLOSS_FOR_MANY void Divide() {
    LaneSum<V> sum;
    for (int64_t c = 0; c < classes(); ++c) sum.Add(ClassOf(logits, x, c, Acc{1}));
    normalization.divisor = sum.Total();
  }

  // Where the label's class alone has a coefficient.
  ONNXLOSS_FOR_MANY void SummariseLabel() {
    LaneSum<V> others;
    V q_label = Splat(Acc{1});
    quotients = V{};
    for (int64_t c = 0; c < classes(); ++c) {
      const V q = QuotientOf(c);
      q_label = IsLabel(c) ? q : q_label;
      quotients += q - q;
      if (divides_last()) others.Add(IsLabel(c) ? V{} : normalization.Clipped(q));
    }
    const V r_label = normalization.Clipped(q_label);
    total = a_label;
    quotients += normalization.OfQuotients(q_label, a_label);
    if (divides_last()) {
      // log(S / r), of the others, keeps the digits of a confident row.
      const V ratio = others.Total() / r_label;
      const V small = Log1pNonNegative(ratio).Sum();
      loss = GapTerm(a_label, ratio < Splat(Acc{0x1p60f}) ? small : NaturalLog(ratio));
      sum_r = others.Total() + (label == kNoLabel<Acc> ? V{} : r_label);
    } else {
      loss = GapTerm(a_label, -NaturalLog(r_label));
    }
  }

  ONNXLOSS_FOR_MANY void SummariseAll() {
    LaneSum<V> of_r;
    LaneSum<V> of_logs;
    LaneSum<V> of_coefficients;
    LaneSum<V> of_quotients;
    for (int64_t c = 0; c < classes(); ++c) {
      const V q = QuotientOf(c);
      const V r = normalization.Clipped(q);
      const V a = CoefficientOf(c);
      of_logs.Add(GapTerm(a, -NaturalLog(r)));
      if (divides_last()) of_r.Add(r);
      if (divides_last()) of_coefficients.Add(a);
      if (divides_first()) of_quotients.Add(normalization.OfQuotients(q, a));
    }
    sum_r = of_r.Total();
    loss = of_logs.Total();
    total = of_coefficients.Total();
    quotients = of_quotients.Total();
  }

  void Summarise() {
    if (divides_first()) Divide();
    if constexpr (Row::kHasTarget && !Row::kDense) {
      SummariseLabel();
    } else {
      SummariseAll();
    }
    const V nothing = Splat(Infinity<Acc>()) - Infinity<Acc>();
    if (divides_last()) lse = sum_r == V{} ? nothing : NaturalLog(sum_r);
    if (Row::kDense) loss += GapTerm(total, lse);
    loss += problem.z_loss * lse * lse;
    if (Row::kHasTarget) loss = label == kNoLabel<Acc> ? V{} : loss;
  }

  void StoreResults() const {
    for (int64_t i = 0; i < count; ++i) {
      const Acc weighted = problem.Store(first + i, loss[i], lse[i]);
      problem.AddToPartial(first + i, static_cast<double>(weighted));
    }
  }

  ONNXLOSS_FOR_MANY void WriteGradient() {
    V k = Splat(problem.plain_upstream(first));
    for (int64_t i = 1; i < count && problem.raw.dloss_per_position; ++i) {
      k[i] = problem.plain_upstream(first + i);
    }
    const V weight = problem.position_weights == nullptr
                         ? Splat(Acc{1})
                         : LoadFirst(problem.position_weights + first, count, Acc{1});
    const V share = total + 2 * problem.z_loss * lse;
    const V pull = divides_last() ? share / sum_r : V{};
    const V per_divisor = 1 / normalization.divisor;
    const auto gradient = [&](int64_t c) {
      V slope = normalization.Slope(QuotientOf(c), CoefficientOf(c), pull);
      if (divides_first()) slope = (slope + quotients) * per_divisor;
      const V value = k * Weighted(weight, slope);
      return Row::kHasTarget && label == kNoLabel<Acc> ? V{} : value;
    };
    if (!in_one_piece()) {
      for (int64_t c = 0; c < classes(); ++c) {
        StoreFirst(dlogits + c * inner(), count, gradient(c));
      }
    } else if (HasRoom(last)) {
      ColumnsToRows(gradient, classes(), dlogits);
    } else {
      ColumnsToRows(gradient, classes(), row_major);
      for (int64_t i = 0; i < count * classes(); ++i) dlogits[i] = row_major[i];
    }
  }

  void Run(int64_t at, int64_t lanes) {
    first = at;
    count = lanes;
    const int64_t place = problem.first_class(at);
    logits = problem.logits + place;
    if (in_one_piece()) TurnRows(logits, Acc{1}, x);
    if constexpr (Row::kHasTarget) {
      LoadTargets();
    } else {
      shares = problem.probabilities() + place;
      if (in_one_piece()) TurnRows(shares, Acc{0}, labels);
    }
    Summarise();
    StoreResults();
    if (problem.dlogits == nullptr) return;
    dlogits = problem.dlogits + place;
    WriteGradient();
  }
};

template <class T, class Row>
void RunProbabilityLanes(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  ProbabilityLanes<T, Row> lanes(problem, last);
  const int64_t inner = problem.raw.inner;
  for (int64_t at = first; at < last;) {
    const int64_t run = inner == 1 ? last - at : inner - at % inner;
    const int64_t left = run < last - at ? run : last - at;
    const int64_t count = left < lanes.kVector ? left : lanes.kVector;
    lanes.Run(at, count);
    at += count;
  }
}

}  // namespace onnxloss::ONNXLOSS_TARGET
