// SPDX-License-Identifier: MIT
// Rows that lie in one piece and are long enough to be summed one by one.
#pragma once

#include "cpu/block_sums.h"
#include "cpu/blocks.h"
#include "cpu/problem.h"

namespace onnxloss::ONNXLOSS_TARGET {

// A row is read from memory once, in blocks that stay in the first cache while they are summed. A
// block is summed relative to the greatest element so far, in the hope that it holds no greater
// one; where it does, it is summed again. For the gradient, the exponentials of a row that fits the
// first cache are kept; those of a longer one are formed again, from logits that the second cache
// still has, which is faster than keeping them there and hides the stores behind arithmetic.
constexpr int64_t kRowBlock = 2048;
constexpr int64_t kKeptBlocks = 2;

template <class T, class Row>
struct LongRows {
  using Acc = Accumulator<T>;

  const TypedProblem<T, Row>& problem;
  Writer<T> writer;
  const bool keeps;  // exponentials
  int64_t position = 0;
  RowStats<Acc> stats = {};
  DenseSums<Acc> dense = {};
  Acc kept_max[kKeptBlocks];  // what each kept block is relative to
  alignas(64) Acc kept[kKeptBlocks * kRowBlock];
  alignas(64) Acc block[kRowBlock];
  alignas(64) Acc coefficients[Row::kDense ? kRowBlock : 1];

  LongRows(const TypedProblem<T, Row>& typed, int64_t first)
      : problem(typed),
        writer(typed.dlogits + (typed.dlogits == nullptr ? 0 : first * typed.raw.classes),
               typed.raw.stream),
        keeps(typed.dlogits != nullptr && typed.raw.softcap == 0 &&
              typed.raw.classes <= kKeptBlocks * kRowBlock) {}

  int64_t classes() const { return problem.raw.classes; }
  int64_t part(int64_t first) const {
    return classes() - first < kRowBlock ? classes() - first : kRowBlock;
  }
  const Acc* LoadLogits(int64_t first, int64_t n) {
    const Acc* x = Load(problem.logits + position * classes() + first, n, -Infinity<Acc>(), block);
    if (problem.softcap == 0) return x;
    const Acc cap = problem.softcap;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) block[i] = SoftCap(x[i], cap);
    for (int64_t i = n; i < RoundUp(n); ++i) block[i] = -Infinity<Acc>();
    return block;
  }

  // The gradient in `block` was by the capped logits. Nothing is kept under a cap: the room of the
  // exponentials takes the logits.
  void ChainThroughCap(int64_t first, int64_t n) {
    const Acc* x = Load(problem.logits + position * classes() + first, n, Acc{0}, kept);
    const Acc cap = problem.softcap;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) block[i] *= SoftCapSlope(x[i], cap);
  }

  // Smoothing without class weights spreads one number over all classes; a block that ends in
  // filler needs zeros there.
  bool IsUniform(int64_t n) const {
    return Row::kHasTarget && problem.class_weights == nullptr && n % kGroup == 0;
  }

  // The dense coefficients of classes [first, first + n), followed by zeros.
  void FormCoefficients(int64_t first, int64_t n) {
    if constexpr (Row::kDense) {
      if (IsUniform(n)) {
        coefficients[0] = problem.row.uniform;
        return;
      }
      const Acc* weights = problem.class_weights;
      const Row formula = problem.row;
      if constexpr (Row::kHasTarget) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) coefficients[i] = 0;
      } else {
        Widen(problem.probabilities() + position * classes() + first, n, coefficients);
      }
      if (weights == nullptr) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
          coefficients[i] = formula.Coefficient(coefficients[i], 1);
        }
      } else {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
          coefficients[i] = formula.Coefficient(coefficients[i], weights[first + i]);
        }
      }
      for (int64_t i = n; i < RoundUp(n); ++i) coefficients[i] = 0;
    }
  }

  template <Sum kSum, Dense kDense>
  BlockSums<Acc> SumWith(const Acc* x, int64_t first, int64_t n) {
    return keeps ? SumBlock<kSum, Keep::kExponentials, kDense>(x, coefficients, n, stats.max,
                                                               kept + first)
                 : SumBlock<kSum, Keep::kNothing, kDense>(x, coefficients, n, stats.max, kept);
  }

  template <Sum kSum>
  BlockSums<Acc> SumOf(const Acc* x, int64_t first, int64_t n, bool uniform) {
    if constexpr (!Row::kDense) return SumWith<kSum, Dense::kNone>(x, first, n);
    if constexpr (Row::kHasTarget) {
      if (uniform) return SumWith<kSum, Dense::kUniform>(x, first, n);
    }
    return SumWith<kSum, Dense::kEach>(x, first, n);
  }

  void AddBlock(int64_t first, int64_t n) {
    const Acc* x = LoadLogits(first, n);
    FormCoefficients(first, n);
    BlockSums<Acc> sums;
    bool below = false;
    if (first > 0) {
      sums = SumOf<Sum::kBelowMax>(x, first, RoundUp(n), IsUniform(n));
      below = sums.max < stats.max;
    }
    if (!below) {
      const Acc block_max = first > 0 ? sums.max : MaxOf(x, RoundUp(n));
      const Acc max = block_max > stats.max ? block_max : stats.max;
      dense = Rescaled(dense, stats.max, max);
      stats = Rescaled(stats, max);
      sums = SumOf<Sum::kWithMax>(x, first, RoundUp(n), IsUniform(n));
    }
    stats.count_max += static_cast<double>(sums.count_max);
    stats.rest += static_cast<double>(sums.rest);
    dense.gap += static_cast<double>(sums.gap);
    dense.total += static_cast<double>(sums.total);
    if (keeps) kept_max[first / kRowBlock] = stats.max;
  }

  void FormGradient(const Acc* e, int64_t n, const RowSoftmax<Acc>& softmax, Acc total, Acc scale) {
    const int64_t whole = RoundUp(n) / kGroup * kGroup;
    const Acc sum_minus_one = softmax.sum_minus_one;
    if constexpr (!Row::kDense) {
      const Acc factor = total * scale;
#pragma omp simd
      for (int64_t i = 0; i < whole; ++i) block[i] = e[i] * factor;
    } else if (IsUniform(n)) {
      const Acc a = coefficients[0];
#pragma omp simd
      for (int64_t i = 0; i < whole; ++i) {
        block[i] = DenseGradient(e[i], total, a, sum_minus_one, scale);
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < whole; ++i) {
        block[i] = DenseGradient(e[i], total, coefficients[i], sum_minus_one, scale);
      }
    }
  }

  // `total` is A, `k` the upstream gradient; `at_target` replaces the element at `label`.
  void WriteGradient(const RowSoftmax<Acc>& softmax, Acc total, Acc k, int64_t label,
                     Acc at_target) {
    const Acc scale = k / softmax.sum;
    for (int64_t first = 0; first < classes(); first += kRowBlock) {
      const int64_t n = part(first);
      FormCoefficients(first, n);
      if (keeps) {
        const Acc e_max = ExpNonPositive(kept_max[first / kRowBlock] - softmax.max);
        FormGradient(kept + first, n, softmax, total * e_max, scale);
      } else {
        const Acc* x = LoadLogits(first, n);
        if (StreamPlain(x, n, softmax.max, total * scale, label - first)) continue;
        ExpOf(x, RoundUp(n), softmax.max, block);
        FormGradient(block, n, softmax, total, scale);
      }
      if (label >= first && label < first + n) block[label - first] = at_target;
      if (problem.softcap > 0) ChainThroughCap(first, n);
      writer.Write(block, n);
    }
  }

  // The commonest block without a detour through the first cache; false where it is not one.
  bool StreamPlain(const Acc* x, int64_t n, Acc max, Acc factor, int64_t target) {
    if constexpr (Row::kDense || sizeof(T) != sizeof(Acc)) return false;
    if (problem.softcap > 0 || (target >= 0 && target < n)) return false;
    char* lines = writer.TakeLines(n);
    if (lines == nullptr) return false;
    StreamScaledExp(x, n, max, factor, lines);
    return true;
  }

  RowSoftmax<Acc> Summarise() {
    stats = {};
    dense = {};
    for (int64_t first = 0; first < classes(); first += kRowBlock) AddBlock(first, part(first));
    return Finish(stats);
  }

  // An ignored row is read only where its lse is wanted.
  void RunIgnored() {
    const Acc lse = problem.lse != nullptr ? LogSumExp(Summarise()) : Acc{0};
    if (problem.dlogits != nullptr) writer.WriteZeros(classes());
    problem.Store(position, 0, lse);
  }

  // Writes the row's results and returns its loss.
  Acc Run(int64_t at) {
    position = at;
    int64_t label = -1;
    if constexpr (Row::kHasTarget) {
      label = problem.index(position);
      if (label == problem.raw.ignore_index) {
        RunIgnored();
        return 0;
      }
    }
    const RowSoftmax<Acc> softmax = Summarise();
    const Acc lse = LogSumExp(softmax);
    Target<Acc> target = {softmax.max, 0, 0};
    Acc dense_total = static_cast<Acc>(dense.total);
    if constexpr (Row::kHasTarget) {
      const Acc weight = problem.weight(label);
      const Acc logit = ToFloat(problem.logits[position * classes() + label]);
      target = {problem.Capped(logit), problem.row.keep * weight,
                Row::kDense ? problem.row.uniform * weight : Acc{0}};
      dense_total = problem.dense_total();
    }
    if (problem.dlogits != nullptr) {
      const Acc k = problem.upstream(position);
      const Acc p_share = dense_total + ZLossShare(problem.z_loss, lse);
      const Acc at_target = TargetGradient(softmax, target, p_share, k);
      WriteGradient(softmax, target.coefficient + p_share, k, label, at_target);
    }
    const Acc loss = TargetLoss(softmax, target, static_cast<Acc>(dense.gap), dense_total) +
                     ZLoss(problem.z_loss, lse);
    return problem.Store(position, loss, lse);
  }
};

template <class T, class Row>
void RunLongRows(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  LongRows<T, Row> rows(problem, first);
  for (int64_t position = first; position < last; ++position) {
    problem.AddToPartial(position, static_cast<double>(rows.Run(position)));
  }
  rows.writer.Finish();
}

}  // namespace onnxloss::ONNXLOSS_TARGET
