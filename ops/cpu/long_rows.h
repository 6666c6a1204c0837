// SPDX-License-Identifier: MIT
// Rows that lie in one piece and are long enough to be summed one by one.
#pragma once

#include "cpu/blocks.h"
#include "cpu/problem.h"

namespace onnxloss::ONNXLOSS_TARGET {

// A row is read from memory once, in blocks that stay in the first cache while they are summed. A
// block is summed relative to the greatest element so far, in the hope that it holds no greater
// one; where it does, it is summed again. For the gradient the exponentials are kept, relative to
// the maximum of their time, and a row's gradient is written while the next row is summed, block by
// block: stores past the caches then drain behind the arithmetic.
constexpr int64_t kRowBlock = 512;
constexpr int64_t kKeptBlocks = kKeptExponentials / kRowBlock;

template <class Acc>
struct BlockSums {
  Acc max = -Infinity<Acc>();
  Acc count_max = 0;
  Acc rest = 0;
  Acc gap = 0;
  Acc total = 0;
};

template <class Acc>
inline Acc MaxOf(const Acc* __restrict x, int64_t n) {
  Acc max = -Infinity<Acc>();
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < n; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

enum class Sum { kBelowMax, kWithMax };
enum class Keep { kNothing, kExponentials };

// n is a whole number of groups. kBelowMax supposes every element below `max` and reports the
// greatest that it met; kWithMax tells those equal to `max` from the others.
template <Sum kSum, Keep kKeep, bool kDense, class Acc>
inline BlockSums<Acc> SumBlock(const Acc* __restrict x, const Acc* __restrict coefficients,
                               int64_t n, Acc max, Acc* __restrict kept) {
  const Acc shift = Shift(max);
  const int64_t whole = n / kGroup * kGroup;
  Acc greatest = -Infinity<Acc>();
  Acc count = 0;
  Acc rest = 0;
  Acc gap = 0;
  Acc total = 0;
#pragma omp simd reduction(+ : count, rest, gap, total) reduction(max : greatest)
  for (int64_t i = 0; i < whole; ++i) {
    const Acc e = ScaledExp(x[i] - shift);
    if constexpr (kKeep == Keep::kExponentials) kept[i] = e * kExpScale<Acc>;
    if constexpr (kSum == Sum::kBelowMax) {
      greatest = x[i] > greatest ? x[i] : greatest;
      rest += e;
    } else {
      const bool is_max = x[i] == max;
      count += is_max ? Acc{1} : Acc{0};
      rest += is_max ? Acc{0} : e;
    }
    if constexpr (kDense) {
      const Acc a = coefficients[i];
      gap += a == 0 ? Acc{0} : a * (shift - x[i]);
      total += a;
    }
  }
  return {kSum == Sum::kBelowMax ? greatest : max, count, rest * kExpScale<Acc>, gap, total};
}

template <class T, class Row>
struct LongRows {
  using Acc = Accumulator<T>;

  // A row whose gradient is still to be written.
  struct Finished {
    int64_t position;
    RowSoftmax<Acc> softmax;
    Acc total;  // A
    Acc k;
    int64_t label;  // -1 without
    Acc at_target;
  };

  const TypedProblem<T, Row>& problem;
  Acc* kept;  // exponentials of one row, null when they are not wanted or too many
  bool pending = false;
  Finished finished = {};
  RowStats<Acc> stats = {};
  DenseSums<Acc> dense = {};
  Acc block_shift[kKeptBlocks];  // what each kept block is relative to
  alignas(64) Acc block[kRowBlock];
  alignas(64) Acc coefficients[Row::kDense ? kRowBlock : 1];

  LongRows(const TypedProblem<T, Row>& typed, Acc* scratch) : problem(typed), kept(scratch) {}

  int64_t classes() const { return problem.raw.classes; }
  int64_t part(int64_t first) const {
    return classes() - first < kRowBlock ? classes() - first : kRowBlock;
  }
  const Acc* LoadLogits(int64_t position, int64_t first, int64_t n) {
    return Load(problem.logits + position * classes() + first, n, -Infinity<Acc>(), block);
  }

  // The dense coefficients of classes [first, first + n), followed by zeros.
  void FormCoefficients(int64_t position, int64_t first, int64_t n) {
    if constexpr (Row::kDense) {
      const Acc* weights = problem.class_weights;
      const Row formula = problem.row;
      if constexpr (Row::kHasTarget) {
#pragma omp simd
        for (int64_t i = 0; i < kRowBlock; ++i) coefficients[i] = 0;
      } else {
        Widen(problem.probabilities() + position * classes() + first, n, coefficients);
      }
      if (weights == nullptr) {
#pragma omp simd
        for (int64_t i = 0; i < kRowBlock; ++i) {
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

  template <Sum kSum>
  BlockSums<Acc> SumOf(const Acc* x, int64_t first, int64_t n) {
    return kept == nullptr
               ? SumBlock<kSum, Keep::kNothing, Row::kDense>(x, coefficients, n, stats.max, kept)
               : SumBlock<kSum, Keep::kExponentials, Row::kDense>(x, coefficients, n, stats.max,
                                                                  kept + first);
  }

  void AddBlock(int64_t position, int64_t first, int64_t n) {
    const Acc* x = LoadLogits(position, first, n);
    FormCoefficients(position, first, n);
    BlockSums<Acc> sums;
    bool below = false;
    if (first > 0) {
      sums = SumOf<Sum::kBelowMax>(x, first, RoundUp(n));
      below = sums.max < stats.max;
    }
    if (!below) {
      const Acc block_max = first > 0 ? sums.max : MaxOf(x, RoundUp(n));
      const Acc max = block_max > stats.max ? block_max : stats.max;
      dense = Rescaled(dense, stats.max, max);
      stats = Rescaled(stats, max);
      sums = SumOf<Sum::kWithMax>(x, first, RoundUp(n));
    }
    stats.count_max += static_cast<double>(sums.count_max);
    stats.rest += static_cast<double>(sums.rest);
    dense.gap += static_cast<double>(sums.gap);
    dense.total += static_cast<double>(sums.total);
    if (kept != nullptr) block_shift[first / kRowBlock] = stats.max;
  }

  void StoreBlock(int64_t first, int64_t n) {
    const RowSoftmax<Acc> softmax = finished.softmax;
    const Acc scale = finished.k / softmax.sum;
    FormCoefficients(finished.position, first, n);
    if (kept != nullptr) {
      const Acc e_max = ExpNonPositive(block_shift[first / kRowBlock] - softmax.max);
      FormGradient(kept + first, RoundUp(n), finished.total * e_max, scale);
    } else {
      const Acc* x = LoadLogits(finished.position, first, n);
#pragma omp simd
      for (int64_t i = 0; i < RoundUp(n); ++i) block[i] = ExpNonPositive(x[i] - softmax.max);
      FormGradient(block, RoundUp(n), finished.total, scale);
    }
    if (finished.label >= first && finished.label < first + n) {
      block[finished.label - first] = finished.at_target;
    }
    Store(block, n, problem.dlogits + finished.position * classes() + first, problem.raw.stream);
  }

  void FormGradient(const Acc* e, int64_t n, Acc total, Acc scale) {
    const int64_t whole = n / kGroup * kGroup;
    const Acc sum_minus_one = finished.softmax.sum_minus_one;
    const Acc factor = total * scale;
#pragma omp simd
    for (int64_t i = 0; i < whole; ++i) {
      block[i] = Row::kDense
                     ? DenseGradient(e[i], total, coefficients[i], sum_minus_one, scale)
                     : e[i] * factor;
    }
  }

  void StorePending() {
    if (!pending) return;
    for (int64_t first = 0; first < classes(); first += kRowBlock) StoreBlock(first, part(first));
    pending = false;
  }

  // Returns the row's loss; its gradient is pending.
  Acc Run(int64_t position) {
    int64_t label = -1;
    if constexpr (Row::kHasTarget) {
      label = problem.index(position);
      if (label == problem.raw.ignore_index) {
        if (problem.dlogits != nullptr) {
          StoreZeros(classes(), problem.dlogits + position * classes(), problem.raw.stream);
        }
        return 0;
      }
    }
    stats = {};
    dense = {};
    for (int64_t first = 0; first < classes(); first += kRowBlock) {
      // What the pending row kept in this block makes room for this row's.
      if (pending) StoreBlock(first, part(first));
      AddBlock(position, first, part(first));
    }
    const RowSoftmax<Acc> softmax = Finish(stats);
    Target<Acc> target = {softmax.max, 0, 0};
    Acc dense_total = static_cast<Acc>(dense.total);
    if constexpr (Row::kHasTarget) {
      const Acc weight = problem.weight(label);
      target = {ToFloat(problem.logits[position * classes() + label]), problem.row.keep * weight,
                Row::kDense ? problem.row.uniform * weight : Acc{0}};
      dense_total = problem.dense_total();
    }
    if (problem.dlogits != nullptr) {
      const Acc k = problem.upstream(position);
      const Acc at_target = TargetGradient(softmax, target, dense_total, k);
      finished = {position, softmax, target.coefficient + dense_total, k, label, at_target};
      pending = true;
      if (kept == nullptr) StorePending();
    }
    return TargetLoss(softmax, target, static_cast<Acc>(dense.gap), dense_total);
  }
};

template <class T, class Row>
void RunLongRows(const TypedProblem<T, Row>& problem, int64_t first, int64_t last, void* scratch) {
  using Acc = Accumulator<T>;
  Acc* kept = reinterpret_cast<Acc*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  LongRows<T, Row> rows(problem, kept);
  for (int64_t position = first; position < last; ++position) {
    const Acc loss = rows.Run(position);
    if (problem.loss != nullptr) problem.loss[position] = loss;
    problem.AddToPartial(position, static_cast<double>(loss));
  }
  rows.StorePending();
}

}  // namespace onnxloss::ONNXLOSS_TARGET
