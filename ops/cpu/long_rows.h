// SPDX-License-Identifier: MIT
// Rows that lie in one piece and are long enough to be summed one by one.
#pragma once

#include "cpu/block_sums.h"
#include "cpu/coefficients.h"
#include "cpu/finish.h"
#include "cpu/row_sum.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Exponentials kept for the gradient: they and the logits on their way share the second cache.
constexpr int64_t kKeptBytes = int64_t{256} << 10;
// A reference so far below the maximum would leave few digits to what scales its exponentials.
constexpr int kFarthestKept = -20;

// A row is read from memory once. The exponentials of its blocks, each relative to the reference of
// its time, are kept in the second cache and become the gradient; those of a row longer than
// kKeptBytes are formed again from there on, from the logits read last. What is kept is written
// while the next row is summed, since stores past the caches wait for memory, where sums wait for
// arithmetic. The losses of rows wait, to be formed many at a time.
template <class T, class Row>
struct LongRows {
  using Acc = Accumulator<T>;
  static constexpr int64_t kKept = kKeptBytes / static_cast<int64_t>(sizeof(Acc));

  const TypedProblem<T, Row>& problem;
  Writer<T> writer;
  LanePositions<T, Row> waiting;
  int64_t first_waiting;
  int64_t position;
  RowSum<Acc> row = {};
  bool masked = false;  // whether the row has infinite gaps, as far as it is known
  // The gradient of the row before, of which the blocks from `next` on are not written yet.
  struct {
    int64_t position;
    int64_t next;  // class
    int64_t label;
    Acc at_target;
    Acc max;
    Acc relative;  // A, the coefficient of p
    Acc k;
    Acc sum_minus_one;
    Acc scale;  // k / sum
  } gradient = {};
  Acc kept_reference[kKept / kRowBlock];
  alignas(64) Acc kept[kKept];
  alignas(64) Acc capped[kRowBlock];
  alignas(64) Acc unused[kRowBlock];  // exponentials that nothing reads

  LongRows(const TypedProblem<T, Row>& typed, int64_t first)
      : problem(typed),
        writer(typed.dlogits + (typed.dlogits == nullptr ? 0 : first * typed.raw.classes),
               typed.raw.stream),
        waiting(typed),
        first_waiting(first),
        position(first) {
    gradient.next = typed.raw.classes;
  }

  int64_t classes() const { return problem.raw.classes; }
  int64_t part(int64_t first) const {
    return classes() - first < kRowBlock ? classes() - first : kRowBlock;
  }
  bool keeps(int64_t first) const { return problem.dlogits != nullptr && first < kKept; }
  const T* logits(int64_t of, int64_t first) const {
    return problem.logits + of * classes() + first;
  }

  // Calls visit with the logits [first, first + n) of position `of`, capped where that is asked
  // for.
  template <class Visitor>
  auto WithLogits(int64_t of, int64_t first, int64_t n, const Visitor& visit) {
    const T* x = logits(of, first);
    if (problem.softcap == 0) return visit(x);
    const Acc cap = problem.softcap;
    for (int64_t i = 0; i < n; ++i) capped[i] = SoftCap(Acc{ToFloat(x[i])}, cap);
    return visit(static_cast<const Acc*>(capped));
  }

  template <class X>
  BlockSums<Acc> SumOf(const X* x, int64_t first, int64_t n) {
    if (Row::kDense && masked) return SumMasked(x, first, n);
    const BlockSums<Acc> sums =
        WithCoefficients<false>(problem, position, first, [&](const auto& coefficients) {
          return keeps(first) ? SumBlock<true>(x, n, row.reference, coefficients, kept + first)
                              : SumBlock<false>(x, n, row.reference, coefficients, kept);
        });
    // Smoothing alone has no coefficient of 0.
    masked = Row::kDense && (!Row::kHasTarget || problem.class_weights != nullptr) &&
             sums.gap != sums.gap;
    return masked ? SumMasked(x, first, n) : sums;
  }

  // Such blocks are rare: one short loop has to do for all.
  template <class X>
  __attribute__((noinline)) BlockSums<Acc> SumMasked(const X* x, int64_t first, int64_t n) {
    Acc* to = keeps(first) ? kept + first : unused;
    return WithCoefficients<true>(problem, position, first, [&](const auto& coefficients) {
      return SumBlock<true, 1>(x, n, row.reference, coefficients, to);
    });
  }

  // A guess at the maximum, from a few elements that are not neighbours.
  template <class X>
  static Acc FirstReference(const X* x, int64_t n) {
    Acc greatest = -Infinity<Acc>();
    const int64_t places[] = {0, n / 4, n / 2, n - 1};
    for (const int64_t i : places) {
      const Acc each = ToFloat(x[i]);
      greatest = each > greatest ? each : greatest;
    }
    return greatest;
  }

  // The sum of the dense coefficients before class `first`. Those of soft labels are added up on
  // the way, those of an index label hardly ever asked for.
  double TotalBefore(int64_t first) const {
    if constexpr (!Row::kDense) return 0;
    if constexpr (!Row::kHasTarget) return row.total;
    const double uniform = static_cast<double>(problem.row.uniform);
    if (problem.class_weights == nullptr) return uniform * static_cast<double>(first);
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < first; ++c) sum += static_cast<double>(problem.class_weights[c]);
    return uniform * sum;
  }
  Acc total() const {
    return Row::kHasTarget ? problem.dense_total() : static_cast<Acc>(row.total);
  }
  double gap() const { return row.GapFrom(row.max, static_cast<double>(total())); }

  // Gaps of soft labels are measured from the very maximum, so that a label there adds exactly 0.
  template <class X>
  void AddBlock(const X* x, int64_t first, int64_t n) {
    if constexpr (!Row::kHasTarget) {
      row.RaiseReference(MaxOf(x, n), TotalBefore(first));
    } else if (row.reference == -Infinity<Acc>()) {
      row.RaiseReference(FirstReference(x, n), TotalBefore(first));
    }
    BlockSums<Acc> sums = SumOf(x, first, n);
    if (!row.IsNear(sums.max)) {
      row.RaiseReference(sums.max, TotalBefore(first));
      sums = SumOf(x, first, n);
    }
    row.Add(sums, first);
    if (keeps(first)) kept_reference[first / kRowBlock] = row.reference;
  }

  // The row's sum less 1; `row` has the rest.
  Acc SummariseFrom(Acc reference) {
    row = {};
    row.reference = reference;
    masked = false;
    for (int64_t first = 0; first < classes(); first += kRowBlock) {
      const int64_t n = part(first);
      if (gradient.next == first && first < kKept) WriteGradientBlock();
      WithLogits(position, first, n, [&](const auto* x) { AddBlock(x, first, n); });
    }
    return SumMinusOne(row, [&](int64_t peak, Acc max) {
      const int64_t n = part(peak);
      return WithLogits(position, peak, n, [&](const auto* x) { return SumApart(x, n, max); });
    });
  }

  Acc Summarise() {
    const Acc sum_minus_one = SummariseFrom(-Infinity<Acc>());
    if constexpr (Row::kDense && Row::kHasTarget) {
      // Where weights of 0 leave hardly any class but the maximum's, the step from the reference to
      // it takes the digits of the gap.
      const double all = static_cast<double>(total());
      const double step = all * static_cast<double>(row.max - row.reference);
      const double of_gap = gap();
      if (of_gap < step / 4) {
        const Acc log_sum = Finish(row.max, sum_minus_one).log_sum.Sum();
        const double loss = of_gap + all * static_cast<double>(log_sum);
        if (loss < step / 4) return SummariseFrom(row.max);
      }
    }
    return sum_minus_one;
  }

  void BeginGradient(Acc sum_minus_one, int64_t label, const Target<Acc>& target) {
    const RowSoftmax<Acc> softmax = Finish(row.max, sum_minus_one);
    const Acc k = problem.upstream(position);
    Acc p_share = total();
    if (problem.z_loss != 0) p_share += ZLossShare(problem.z_loss, LogSumExp(softmax));
    const Acc relative = target.coefficient + p_share;
    const Acc at_target = TargetGradient(softmax, target, p_share, k);
    const Acc scale = k / softmax.sum;
    gradient = {position, 0, label, at_target, softmax.max, relative, k, softmax.sum_minus_one,
                scale};
  }

  void WriteGradientBlock() {
    const int64_t first = gradient.next;
    const int64_t n = part(first);
    const auto write = [&](Acc e_max, const auto& exponentials) {
      const Acc relative = gradient.relative * (e_max * kPerExpScale<Acc>);
      const GradientTerms<Acc> terms = {gradient.k, relative, gradient.sum_minus_one,
                                        gradient.scale, relative * gradient.scale};
      WithCoefficients<false>(problem, gradient.position, first, [&](const auto& coefficients) {
        WriteBlock(n, first, [=](int64_t i, int64_t count) {
          return coefficients.Gradient(terms, exponentials(i, count), i, count);
        });
      });
    };
    const Acc below_max = keeps(first) ? kept_reference[first / kRowBlock] - gradient.max : 0;
    if (keeps(first) && !(below_max < kFarthestKept)) {
      const Acc* e = kept + first;
      write(ExpNonPositive(below_max),
            [=](int64_t i, int64_t count) { return LoadFirst(e + i, count, Acc{0}); });
    } else {
      WithLogits(gradient.position, first, n, [&](const auto* x) {
        write(1, [=, max = gradient.max](int64_t i, int64_t count) {
          return ScaledExp<T>(LoadFirst(x + i, count, {}) - max);
        });
      });
    }
    gradient.next += kRowBlock;
  }

  template <class Values>
  void WriteBlock(int64_t n, int64_t first, const Values& values) {
    const auto patched = [=, target = gradient.label - first, at_target = gradient.at_target](
                             int64_t i, int64_t count) {
      const Vector<Acc> each = values(i, count);
      const int64_t lane = target - i;
      const bool has_target =
          Row::kHasTarget && static_cast<uint64_t>(lane) < static_cast<uint64_t>(count);
      return has_target ? WithLane(each, lane, at_target) : each;
    };
    WriteGradients(patched, problem.softcap, logits(gradient.position, first), n, &writer);
  }

  void WriteGradientTo(int64_t last) {
    while (gradient.next < last) WriteGradientBlock();
  }
  void FinishGradient() { WriteGradientTo(classes() < kKept ? classes() : kKept); }

  // What is written next goes to the classes of this row from `first` on.
  void ContinueAt(int64_t first) {
    writer.Finish();
    writer = {problem.dlogits + position * classes() + first, problem.raw.stream};
  }

  void RunNext() {
    const int64_t lane = position - first_waiting;
    int64_t label = -1;
    bool live = true;
    Target<Acc> target = {0, 0, 0};
    if constexpr (Row::kHasTarget) {
      label = problem.index(position);
      live = label != problem.raw.ignore_index;
      if (live) {
        const Acc weight = problem.weight(label);
        target = problem.row.TargetOf(problem.Capped(ToFloat(*logits(position, label))), weight);
        waiting.targets.logit[lane] = target.logit;
        waiting.targets.weight[lane] = weight;
      }
    }
    // An ignored row is read only where its lse is wanted.
    row = {};
    const bool reads = live || problem.lse != nullptr;
    const Acc sum_minus_one = reads ? Summarise() : Acc{0};
    waiting.targets.label[lane] = live ? 0 : kNoLabel<Acc>;
    waiting.stats.max[lane] = row.max;
    waiting.stats.sum_minus_one.value[lane] = sum_minus_one;
    waiting.stats.gap.SetLane(lane, {static_cast<Acc>(gap()), 0});
    waiting.stats.total.SetLane(lane, {total(), 0});
    if (problem.dlogits == nullptr) return;
    FinishGradient();
    if constexpr (!Row::kHasTarget) target.logit = row.max;
    if (!live) {
      if (classes() > kKept) ContinueAt(0);
      writer.WriteZeros(classes());
      return;
    }
    BeginGradient(sum_minus_one, label, target);
    if (classes() > kKept) {
      ContinueAt(kKept);
      gradient.next = kKept;
      WriteGradientTo(classes());
      ContinueAt(0);
      gradient.next = 0;
    }
  }

  void RunTo(int64_t last) {
    while (position < last) {
      RunNext();
      ++position;
      const int64_t count = position - first_waiting;
      if (count < kTileLanes && position < last) continue;
      waiting.FinishLosses();
      waiting.StoreResults(first_waiting, count);
      first_waiting = position;
    }
    if (problem.dlogits != nullptr) FinishGradient();
    writer.Finish();
  }
};

template <class T, class Row>
void RunLongRows(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  LongRows<T, Row> rows(problem, first);
  rows.RunTo(last);
}

}  // namespace onnxloss::ONNXLOSS_TARGET
