// SPDX-License-Identifier: MIT
// What is summed over positions: their weights, which make the denominator of a mean, and their
// losses. The order of every sum follows from its length alone.
#pragma once

#include "cuda/tiles.h"

namespace onnxloss::cuda {

// The sum of the block's values, the same bits for every thread.
template <int kThreads>
ONNXLOSS_DEVICE double SumOfBlock(double own) {
  struct Warps {
    double of_warp[kThreads / 32];
  };
  auto& shared = device::Shared<Warps>();
  const double of_warp = SumOfLanes<32>(own);
  if (device::ThreadIndex() % 32 == 0) shared.of_warp[device::ThreadIndex() / 32] = of_warp;
  device::SyncBlock();  // the warps' sums are written
  double sum = 0;
  for (const double part : shared.of_warp) sum += part;
  return sum;
}

// Where a sum goes: the blocks' own to partials[block]; the last one to its end.
struct SumTarget {
  double* partials;     // null for the last sum, which goes
  double* total;        // here; or
  double* mean_factor;  // here as one over it, with `empty` instead of 0; or
  double empty;
  void* loss;                  // here, S, times
  const double* given_factor;  // this, or where it is null
  double known_factor;
};

template <class S>
ONNXLOSS_DEVICE void StoreSum(const SumTarget& target, double sum) {
  if (target.partials != nullptr) {
    target.partials[device::BlockIndex()] = sum;
  } else if (target.total != nullptr) {
    *target.total = sum;
  } else if (target.mean_factor != nullptr) {
    *target.mean_factor = 1 / (sum == 0 ? target.empty : sum);
  } else {
    const double factor =
        target.given_factor == nullptr ? target.known_factor : *target.given_factor;
    *static_cast<S*>(target.loss) = static_cast<S>(sum * factor);
  }
}

struct SumArguments {
  const void* values;
  int64_t count;
  SumTarget target;
};

template <class Value, class S>
ONNXLOSS_KERNEL(kSumThreads)
Sum(const SumArguments arguments) {
  device::StartNext();
  device::AwaitPrevious();
  // Thread t of the grid sums values t, t + threads, and so on.
  const Value* values = static_cast<const Value*>(arguments.values);
  const int64_t step = device::GridBlocks() * kSumThreads;
  double own = 0;
#pragma unroll 4
  for (int64_t i = device::BlockIndex() * kSumThreads + device::ThreadIndex(); i < arguments.count;
       i += step) {
    own += static_cast<double>(values[i]);
  }
  const double sum = SumOfBlock<kSumThreads>(own);
  if (device::ThreadIndex() == 0) StoreSum<S>(arguments.target, sum);
}

struct WeighArguments {
  Arguments of;      // with the class weights, also those that weigh positions
  SumTarget target;  // of the denominator; all null where there is none
  void* weights;     // S [positions], or null
};

// What the class weights of a position with an index as label come to.
template <class T, class Row>
ONNXLOSS_DEVICE double ClassWeight(const Problem<T, Row>& problem, int64_t label) {
  const LossCall& call = problem.call;
  if (call.class_weights == nullptr || label == kNoLabel) return 1;
  const double at_label = static_cast<double>(problem.Weight(label));
  if (call.class_weights_positions == 0) return at_label;
  return (1 - call.label_smoothing) * at_label + static_cast<double>(problem.DenseTotal());
}

// The same of a position with probabilities, for the first of its threads: sum_c a_c where they
// weigh positions. All threads of the block take part.
template <class T, class Row>
ONNXLOSS_DEVICE double ClassWeight(const Problem<T, Row>& problem, const TileSeat& seat) {
  using Acc = Accumulator<T>;
  const LossCall& call = problem.call;
  if (call.class_weights_positions == 0) return 1;
  const bool has_row = seat.position < problem.positions();
  const int64_t first = problem.First(has_row ? seat.position : 0);
  double own = 0;
  for (int64_t c = seat.lane; has_row && c < call.classes; c += seat.lanes) {
    own += static_cast<double>(CoefficientAt<T, Row, Acc>(problem, first + c * call.inner, c));
  }
  double sum = 0;
  VisitLanes<kSumThreads>(seat, own, [&](double other) { sum += other; });
  device::SyncBlock();  // the next tile may write
  return sum;
}

// The weight of each position, from its class weights and its sample weight, and the denominator.
// A block weighs tiles b, b + blocks, and so on.
template <class T, class Row>
ONNXLOSS_KERNEL(kSumThreads)
WeighPositions(const WeighArguments arguments) {
  using Acc = Accumulator<T>;
  device::StartNext();
  device::AwaitPrevious();
  const Problem<T, Row> problem(arguments.of);
  const LossCall& call = problem.call;
  const MeanOver mean_over = static_cast<MeanOver>(call.mean_over);
  double own = 0;
  const auto weigh = [&](int64_t position, const Label<Acc>& label, double of_classes) {
    const Acc* samples = static_cast<const Acc*>(call.sample_weights);
    const Acc sample = samples == nullptr ? Acc{1} : samples[position];
    const double weight = static_cast<double>(sample) * of_classes;
    if (arguments.weights != nullptr) {
      const Acc kept = call.class_weights_positions != 0 ? static_cast<Acc>(weight) : sample;
      static_cast<Acc*>(arguments.weights)[position] = label.counts ? kept : Acc{0};
    }
    const bool counts = label.counts && !label.bad;
    if (mean_over == MeanOver::kPositions) own += 1;
    if (mean_over == MeanOver::kWeights && counts) own += weight;
    if (mean_over == MeanOver::kValid && counts) own += 1;
    if (mean_over == MeanOver::kNonzero && counts && sample != 0) own += 1;
  };
  const int64_t positions = problem.positions();
  const int64_t block = device::BlockIndex();
  if constexpr (Row::kHasTarget) {
    const int64_t step = device::GridBlocks() * kSumThreads;
    int64_t position = block * kSumThreads + device::ThreadIndex();
    for (; position < positions; position += kWeighedAtOnce * step) {
      int64_t y[kWeighedAtOnce];  // on their way together
#pragma unroll
      for (int i = 0; i < kWeighedAtOnce; ++i) {
        const int64_t of = position + i * step;
        y[i] = of < positions ? problem.GivenLabel(of) : 0;
      }
#pragma unroll
      for (int i = 0; i < kWeighedAtOnce; ++i) {
        const int64_t of = position + i * step;
        const Label<Acc> label = problem.LabelFrom(y[i]);
        if (of < positions) weigh(of, label, ClassWeight(problem, label.index));
      }
    }
  } else {
    const int64_t columns = kSumThreads / arguments.of.class_lanes;
    for (int64_t tile = block; tile * columns < positions; tile += device::GridBlocks()) {
      const TileSeat seat = FindTileSeat<kSumThreads>(arguments.of, tile);
      const double of_classes = ClassWeight(problem, seat);
      if (seat.position < positions && seat.lane == 0) weigh(seat.position, {}, of_classes);
    }
  }
  const double sum = SumOfBlock<kSumThreads>(own);
  const SumTarget& target = arguments.target;
  const bool wanted = target.partials != nullptr || target.mean_factor != nullptr;
  if (device::ThreadIndex() == 0 && wanted) StoreSum<Acc>(target, sum);
}

}  // namespace onnxloss::cuda
