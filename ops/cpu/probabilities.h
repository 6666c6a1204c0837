// SPDX-License-Identifier: MIT
// from_logits = 0: the logits are probabilities.
#pragma once

#include "cpu/coefficients.h"
#include "cpu/finish.h"
#include "cpu/row_vectors.h"
#include "rows/normalization.h"

namespace onnxloss::ONNXLOSS_TARGET {

// n elements that are `stride` apart, in the accumulator's type, then `filler` to the end of the
// last vector.
template <class T>
ONNXLOSS_FOR_MANY void Gather(const T* source, int64_t stride, int64_t n, Accumulator<T> filler,
                              Accumulator<T>* target) {
  constexpr int64_t w = kWidth<Accumulator<T>>;
  const int64_t whole = stride == 1 ? n / w * w : 0;
  for (int64_t i = 0; i < whole; i += w) {
    FetchAhead(source + i);
    Store(target + i, Load(source + i));
  }
  for (int64_t i = whole; i < n; ++i) target[i] = ToFloat(source[i * stride]);
  for (int64_t i = n; i % w != 0; ++i) target[i] = filler;
}

// The way back. What lies in one piece follows what the writer wrote before.
template <class T>
ONNXLOSS_FOR_MANY void Scatter(const Accumulator<T>* source, int64_t stride, int64_t n, T* target,
                               Writer<T>* writer) {
  if (stride == 1) return WriteFrom<T>(source, 0, nullptr, n, writer);
  for (int64_t i = 0; i < n; ++i) target[i * stride] = FromFloat<T>(source[i]);
}

// With r_c what `normalize` makes of the probabilities, and S = sum_c r_c after_clip, else 1:
//
//   loss = sum_c a_c (log(S) - log(r_c)),   dr_c = k (A / S - a_c / r_c),   A 0 unless after_clip
//
// A coefficient of 0 switches its term off. The slope by r_c is that by q_c where q_c was not
// clipped, else 0; before_clip, where q_c = x_c / sum_j x_j, all classes share in that of each:
//
//   dlogits_c = (dq_c - sum_j dq_j q_j) / sum_j x_j
//
// A row is read in blocks, once for each of these sums; a row of one block stays there. The loss is
// within 8 ulp, dlogits as rows/softmax_cross_entropy_loss.h says, of the greater term where terms
// of both signs meet; tests/test_accuracy.py asserts both.
template <class T, class Row>
struct ProbabilityRows {
  using Acc = Accumulator<T>;
  using V = Vector<Acc>;
  static constexpr int64_t kVector = kWidth<Acc>;
  // Whether the label's class is the only one with a coefficient.
  static constexpr bool kLabelAlone = Row::kHasTarget && !Row::kDense;

  const TypedProblem<T, Row>& problem;
  Writer<T> writer;
  int64_t position = 0;
  int64_t first_class = 0;  // its index
  int64_t label = -1;
  Normalization<Acc> normalization = {};
  double sum_r = 1;  // S
  double loss = 0;
  double lse = 0;
  double total = 0;         // A
  double of_quotients = 0;  // -sum_j dq_j q_j / k
  // A block, and where its first class is.
  int64_t loaded = -1;
  bool divided = false;
  alignas(64) Acc x[kRowBlock];  // quotients, once it is divided
  alignas(64) Acc labels[Row::kHasTarget ? 1 : kRowBlock];

  ProbabilityRows(const TypedProblem<T, Row>& typed, int64_t from)
      : problem(typed),
        writer(typed.dlogits + (typed.dlogits == nullptr ? 0 : from * typed.raw.classes),
               typed.raw.stream) {
    if (problem.raw.normalize != Normalize::kNone) normalization.ClipTo(problem.raw.epsilon);
  }

  int64_t classes() const { return problem.raw.classes; }
  int64_t stride() const { return problem.raw.inner; }
  int64_t part(int64_t begin) const {
    return classes() - begin < kRowBlock ? classes() - begin : kRowBlock;
  }
  int64_t place(int64_t c) const { return first_class + c * stride(); }
  bool gradient() const { return problem.dlogits != nullptr; }
  bool divides_first() const { return problem.raw.normalize == Normalize::kBeforeClip; }
  bool divides_last() const { return problem.raw.normalize == Normalize::kAfterClip; }
  bool ignored() const { return Row::kHasTarget && label == problem.raw.ignore_index; }
  Acc label_coefficient() const { return problem.row.keep * problem.weight(label); }
  // How many of a block's n elements are in its vector at i.
  static int64_t Left(int64_t i, int64_t n) { return n - i < kVector ? n - i : kVector; }
  // Where labels have one class, most vectors have no coefficient.
  static bool HasAny(V coefficients) { return Marks<Acc>::Different(coefficients, V{}).Any(); }
  // Where a block has the label's class, which none has of an ignored row; else -1.
  int64_t LabelIn(int64_t begin, int64_t n) const {
    const int64_t at = label - begin;
    return Row::kHasTarget && !ignored() && at >= 0 && at < n ? at : -1;
  }

  // The block of n classes from `begin` on. What fills the last vector has no coefficient.
  void LoadBlock(int64_t begin, int64_t n) {
    if (loaded == place(begin)) return;
    loaded = place(begin);
    divided = false;
    Gather(problem.logits + place(begin), stride(), n, Acc{1}, x);
    if (problem.softcap > 0) CapAll(problem.softcap, x, n);
    if constexpr (!Row::kHasTarget) {
      Gather(problem.probabilities() + place(begin), stride(), n, Acc{0}, labels);
    }
  }
  void LoadQuotients(int64_t begin, int64_t n) {
    LoadBlock(begin, n);
    if (!divides_first() || divided) return;
    divided = true;
    for (int64_t i = 0; i < n; i += kVector) Store(x + i, normalization.Quotient(Load(x + i)));
  }
  // Of the vector at i of the block.
  V CoefficientAt(int64_t begin, int64_t i, int64_t n, int64_t label_at) const {
    V a = {};
    if constexpr (Row::kDense) {
      const int64_t count = Left(i, n);
      V given = {};
      if constexpr (!Row::kHasTarget) given = Load(labels + i);
      const V weight = problem.class_weights == nullptr
                           ? FirstOnes<Acc>(count)
                           : LoadFirst(problem.class_weights + begin + i, count, Acc{0});
      a = problem.row.Coefficient(given, weight);
    }
    if (Row::kHasTarget && label_at >= i && label_at < i + kVector) {
      a = WithLane(a, label_at - i, a[label_at - i] + label_coefficient());
    }
    return a;
  }
  Acc QuotientOf(int64_t c) const {
    return normalization.Quotient(problem.Capped(ToFloat(problem.logits[place(c)])));
  }

  ONNXLOSS_FOR_MANY double SumOfLogits() {
    double sum = 0;
    for (int64_t begin = 0; begin < classes(); begin += kRowBlock) {
      const int64_t n = part(begin);
      LoadBlock(begin, n);
      V of_block = {};
      for (int64_t i = 0; i < n; i += kVector) of_block += LoadFirst(x + i, Left(i, n), Acc{0});
      sum += SumOf(of_block);
    }
    return sum;
  }

  // The loss of a row, its lse, and the sums for its gradient.
  void Summarise() {
    sum_r = divides_last() ? 0 : 1;
    loss = total = of_quotients = 0;
    if (divides_first()) normalization.divisor = static_cast<Acc>(SumOfLogits());
    if (!kLabelAlone || divides_last() || !normalization.IsFinite()) {
      for (int64_t begin = 0; begin < classes(); begin += kRowBlock) AddBlock(begin, part(begin));
    }
    if (kLabelAlone && !ignored()) AddLabel();
    lse = divides_last() ? LogOfSum(sum_r) : 0;
    if (!kLabelAlone) loss += GapTerm(total, lse);
    loss += problem.raw.z_loss * lse * lse;
  }
  ONNXLOSS_FOR_MANY void AddBlock(int64_t begin, int64_t n) {
    LoadQuotients(begin, n);
    const int64_t label_at = LabelIn(begin, n);
    V r_of_block = {};
    V logs_of_block = {};
    V total_of_block = {};
    V quotients_of_block = {};
    for (int64_t i = 0; i < n; i += kVector) {
      const V q = Load(x + i);
      const V r = normalization.Clipped(q);
      V ones = FirstOnes<Acc>(Left(i, n));
      if (kLabelAlone && label_at >= i && label_at < i + kVector) {
        ones = WithLane(ones, label_at - i, Acc{0});
      }
      r_of_block += ones * r;
      if constexpr (!kLabelAlone) {
        const V a = CoefficientAt(begin, i, n, label_at);
        quotients_of_block += normalization.OfQuotients(q, a);
        total_of_block += a;
        if (HasAny(a)) logs_of_block += GapTerm(a, -NaturalLog(r));
      } else {
        quotients_of_block += q - q;
      }
    }
    loss += SumOf(logs_of_block);
    total += SumOf(total_of_block);
    of_quotients += SumOf(quotients_of_block);
    if (divides_last()) sum_r += SumOf(r_of_block);
  }

  // What the class adds that alone has a coefficient.
  void AddLabel() {
    const Acc a = label_coefficient();
    const Acc q = QuotientOf(label);
    const Acc r = normalization.Clipped(q);
    total = static_cast<double>(a);
    of_quotients += static_cast<double>(normalization.OfQuotients(q, a));
    if (divides_last()) {
      // log(S / r), of the others, keeps the digits of a confident row.
      loss = GapTerm(total, ::log1p(sum_r / static_cast<double>(r)));
      sum_r += static_cast<double>(r);
    } else {
      loss = static_cast<double>(GapTerm(a, -NaturalLog(r)));
    }
  }

  void WriteGradient() {
    const double share = total + 2 * problem.raw.z_loss * lse;
    const Acc pull = divides_last() ? static_cast<Acc>(share / sum_r) : Acc{0};
    for (int64_t begin = 0; begin < classes(); begin += kRowBlock) {
      const int64_t n = part(begin);
      FormGradient(begin, n, pull);
      Scatter(x, stride(), n, problem.dlogits + place(begin), &writer);
    }
  }
  // x becomes the gradient.
  ONNXLOSS_FOR_MANY void FormGradient(int64_t begin, int64_t n, Acc pull) {
    const Acc k = problem.plain_upstream(position);
    const Acc weight =
        problem.position_weights == nullptr ? Acc{1} : problem.position_weights[position];
    const bool live = !ignored();
    const Acc common = static_cast<Acc>(of_quotients);
    const Acc per_divisor = 1 / normalization.divisor;
    const int64_t label_at = LabelIn(begin, n);
    // Where the label is alone, the other classes need not be read.
    const bool reads = live && (!kLabelAlone || divides_last() || label_at >= 0);
    if (reads) LoadQuotients(begin, n);
    loaded = -1;
    for (int64_t i = 0; i < n; i += kVector) {
      V slope = {};
      const V a = reads ? CoefficientAt(begin, i, n, label_at) : V{};
      const bool has_any = HasAny(a);
      if (has_any || (reads && divides_last())) {
        // Without a coefficient there is nothing to divide.
        const V q = Load(x + i);
        slope = has_any ? normalization.Slope(q, a, Splat(pull))
                        : normalization.Slope(q, V{}, Splat(pull));
      }
      if (live && divides_first()) slope = (slope + common) * per_divisor;
      Store(x + i, k * Weighted(Splat(weight), slope));
    }
    if (problem.softcap == 0) return;
    for (int64_t i = 0; i < n; ++i)
      x[i] *= problem.CapSlope(ToFloat(problem.logits[place(begin + i)]));
  }

  void WriteLabelGradient() const {
    const Acc k = problem.upstream(position);
    const Acc log_sum = static_cast<Acc>(lse);
    for (int64_t c = 0; c < classes(); ++c) {
      const Acc neg_log_p = log_sum - NaturalLog(normalization.Clipped(QuotientOf(c)));
      const Acc gradient = LabelGradient(k, problem.row.keep, problem.weight(c), neg_log_p);
      static_cast<T*>(problem.raw.dlabels)[place(c)] = FromFloat<T>(gradient);
    }
  }

  void RunNext(int64_t at) {
    position = at;
    first_class = problem.first_class(at);
    if constexpr (Row::kHasTarget) label = problem.index(at);
    if (!ignored() || problem.lse != nullptr) Summarise();
    const Acc counted = ignored() ? Acc{0} : static_cast<Acc>(loss);
    const Acc stored = problem.Store(position, counted, static_cast<Acc>(lse));
    problem.AddToPartial(position, static_cast<double>(stored));
    if (gradient()) WriteGradient();
    if constexpr (!Row::kHasTarget) {
      if (problem.raw.dlabels != nullptr) WriteLabelGradient();
    }
  }
};

template <class T, class Row>
void RunProbabilities(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  ProbabilityRows<T, Row> rows(problem, first);
  for (int64_t position = first; position < last; ++position) rows.RunNext(position);
  rows.writer.Finish();
}

}  // namespace onnxloss::ONNXLOSS_TARGET
