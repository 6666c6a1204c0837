// SPDX-License-Identifier: MIT
// A call as launches: weights and denominator, rows, sum of losses.
#include "cuda/kernels.h"
#include "cuda/queue.h"

namespace onnxloss::cuda {
namespace {

bool HasProbabilities(const LossCall& call) {
  return call.label_kind == static_cast<int64_t>(LabelKind::kProbabilities);
}

int64_t SumBytes(const LossCall& call) {
  return call.type == static_cast<int64_t>(ElementType::kFloat64) ? 8 : 4;
}

// Probabilities need not add up to 1, so they weigh a position without class weights too.
bool WeighsPositions(const LossCall& call) {
  const bool classes_weigh = HasProbabilities(call) || call.class_weights != nullptr;
  return call.sample_weights != nullptr || (call.class_weights_positions != 0 && classes_weigh);
}

// A mean's denominator that is not plain from the shapes.
bool NeedsDenominator(const LossCall& call) {
  const bool over_positions = call.mean_over == static_cast<int64_t>(MeanOver::kPositions);
  return call.mean != 0 && !over_positions && (!HasProbabilities(call) || WeighsPositions(call));
}

bool NeedsClassTotal(const LossCall& call) {
  return call.label_smoothing > 0 && call.class_weights != nullptr;
}

struct LossScratch : Scratch {
  double* mean_factor;
  double* class_total;
  double* partials;
  void* position_weights;
  void* losses;

  LossScratch(const LossCall& call, void* memory) : Scratch(memory) {
    const int64_t sums = SumBytes(call) * call.positions();
    mean_factor = static_cast<double*>(Take(NeedsDenominator(call), sizeof(double)));
    class_total = static_cast<double*>(Take(NeedsClassTotal(call), sizeof(double)));
    partials = static_cast<double*>(Take(true, kMostSumBlocks * int64_t{sizeof(double)}));
    position_weights = Take(WeighsPositions(call), sums);
    losses = Take(call.loss != nullptr && call.reduced != 0, sums);
  }
};

const KernelTable& KernelsFor(const LossCall& call) {
  Formula formula = call.label_smoothing > 0 ? kSmoothedIndex : kIndex;
  if (HasProbabilities(call)) formula = kProbabilities;
  switch (static_cast<ElementType>(call.type)) {
    case ElementType::kFloat16:
      return Float16Kernels(formula);
    case ElementType::kBFloat16:
      return BFloat16Kernels(formula);
    case ElementType::kFloat32:
      return Float32Kernels(formula);
    case ElementType::kFloat64:
      break;
  }
  return Float64Kernels(formula);
}

const char* LargestClusterOf(const KernelTable& kernels, int* blocks) {
  constexpr int kWidest = kNumResidences - 1;  // of it the fewest blocks fit
  return device::LargestCluster(kernels.resident[kWidest], kResidences[kWidest].threads,
                                kLargestCluster, blocks);
}

// One call as launches.
class Launcher {
 public:
  Launcher(const LossCall& call, void* memory, device::Stream stream)
      : call_(call),
        scratch_(call, memory),
        queue_(stream, SumBytes(call) == 8, scratch_.partials) {}

  const char* Run() {
    int largest_cluster = 1;
    queue_.Check(LargestClusterOf(KernelsFor(call_), &largest_cluster));
    // One generation of chips brought both.
    if (largest_cluster > 1) queue_.LetOverlap();
    Arguments arguments = {};
    arguments.call = call_;
    arguments.known_mean_factor = 1 / KnownDenominator();
    arguments.known_class_total = static_cast<double>(call_.classes);
    if (NeedsClassTotal(call_)) {
      SumClassWeights();
      arguments.class_total = scratch_.class_total;
    }
    if (WeighsPositions(call_) || NeedsDenominator(call_)) Weigh(arguments);
    if (NeedsDenominator(call_)) arguments.mean_factor = scratch_.mean_factor;
    if (call_.class_weights_positions != 0) {
      // They have been taken into account.
      arguments.call.class_weights = nullptr;
      arguments.class_total = nullptr;
    }
    arguments.position_weights = scratch_.position_weights;
    RunRows(arguments, PlanFor(call_, largest_cluster));
    if (call_.dlabels != nullptr && call_.positions() > 0) RunLabelGradients(arguments);
    if (call_.loss != nullptr && call_.reduced != 0) SumLosses(arguments);
    return queue_.failure();
  }

 private:
  // Of a mean over positions whose number is known, and of a sum.
  double KnownDenominator() const {
    if (call_.mean == 0) return 1;
    const int64_t positions = call_.positions();
    return positions > 0 ? static_cast<double>(positions) : call_.empty_denominator;
  }

  void SumClassWeights() {
    SumTarget target = {};
    target.total = scratch_.class_total;
    queue_.SumTo(target, call_.class_weights, call_.classes);
  }

  void Weigh(const Arguments& arguments) {
    WeighArguments given = {arguments, {}, scratch_.position_weights};
    given.of.class_lanes = WeighLanes(call_);
    SumTarget target = {};
    if (NeedsDenominator(call_)) {
      target.mean_factor = scratch_.mean_factor;
      target.empty = call_.empty_denominator;
    }
    const int64_t blocks = SumBlocks(call_.positions() * given.of.class_lanes);
    given.target = target;
    if (blocks > 1 && NeedsDenominator(call_)) given.target.partials = scratch_.partials;
    queue_.Start(KernelsFor(call_).weigh, {blocks, kSumThreads, 1}, given);
    if (blocks > 1 && NeedsDenominator(call_)) queue_.SumPartials(target, blocks);
  }

  void RunRows(Arguments arguments, const Plan& plan) {
    arguments.losses = call_.reduced != 0 ? scratch_.losses : call_.loss;
    arguments.class_lanes = plan.class_lanes;
    const KernelTable& kernels = KernelsFor(call_);
    const device::Grid grid = {plan.blocks, plan.threads, plan.cluster};
    switch (plan.path) {
      case Path::kNothing:
        break;
      case Path::kResident:
        queue_.Start(kernels.resident[plan.residence], grid, arguments);
        break;
      case Path::kStreamed:
        queue_.Start(call_.softcap > 0 ? kernels.streamed_capped : kernels.streamed, grid,
                     arguments);
        break;
      case Path::kStrided:
        queue_.Start(StridedKernel(kernels, plan), grid, arguments);
        break;
      case Path::kPacked:
        queue_.Start(kernels.packed, grid, arguments);
        break;
      case Path::kProbabilities:
        queue_.Start(kernels.probabilities, grid, arguments);
        break;
    }
  }

  RowKernel StridedKernel(const KernelTable& kernels, const Plan& plan) const {
    if (plan.across == 2) return kernels.strided_pairs;
    return call_.softcap > 0 ? kernels.strided_capped : kernels.strided;
  }

  void RunLabelGradients(Arguments arguments) {
    const Plan plan = PlanForLabelGradients(call_);
    arguments.class_lanes = plan.class_lanes;
    queue_.Start(KernelsFor(call_).label_gradients, {plan.blocks, plan.threads, plan.cluster},
                 arguments);
  }

  void SumLosses(const Arguments& arguments) {
    SumTarget target = {};
    target.loss = call_.loss;
    target.given_factor = arguments.mean_factor;
    target.known_factor = arguments.known_mean_factor;
    queue_.SumTo(target, scratch_.losses, call_.positions());
  }

  const LossCall& call_;
  const LossScratch scratch_;
  Queue queue_;
};

}  // namespace

const char* LargestCluster(int* blocks) { return LargestClusterOf(Float32Kernels(kIndex), blocks); }

int64_t ScratchBytes(const LossCall& call) { return LossScratch(call, nullptr).bytes; }

const char* RunLoss(const LossCall& call, void* scratch, void* stream) {
  return Launcher(call, scratch, static_cast<device::Stream>(stream)).Run();
}

}  // namespace onnxloss::cuda
