// SPDX-License-Identifier: MIT
#include "ort/loss_kernel.h"

#include <string>

#include "ort/tensors.h"

namespace onnxloss::ort {
namespace {

// Below this many bytes an output is likely to be read again before it leaves the caches.
constexpr int64_t kStreamFrom = int64_t{4} << 20;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One parallel loop: task i covers positions [i * step, (i + 1) * step).
struct Loop {
  const LossKernel& kernel;
  const LossProblem& problem;
  const CpuKernels& kernels;
  int64_t positions;
  int64_t step;
  LabelScan* scans;

  int64_t tasks() const { return CeilDiv(positions, step); }
  int64_t first(size_t task) const { return static_cast<int64_t>(task) * step; }
  int64_t last(size_t task) const {
    const int64_t end = first(task) + step;
    return end < positions ? end : positions;
  }
};

void ScanTask(void* data, size_t task) {
  const Loop& loop = *static_cast<const Loop*>(data);
  loop.kernels.scan_labels(loop.problem, loop.first(task), loop.last(task), loop.scans + task);
}

void LossTask(void* data, size_t task) {
  const Loop& loop = *static_cast<const Loop*>(data);
  loop.kernels.run(loop.problem, loop.first(task), loop.last(task));
}

OrtStatus* ParallelFor(const OrtKernelContext* context, Loop& loop, void (*body)(void*, size_t)) {
  const size_t tasks = static_cast<size_t>(loop.tasks());
  if (tasks == 1) {
    body(&loop, 0);
    return nullptr;
  }
  return loop.kernel.api.KernelContext_ParallelFor(context, body, tasks, tasks, &loop);
}

OrtStatus* BadLabel(const LossKernel& kernel, const LossProblem& problem, int64_t position) {
  const int64_t label = problem.label_kind == LabelKind::kIndex64
                            ? static_cast<const int64_t*>(problem.labels)[position]
                            : static_cast<const int32_t*>(problem.labels)[position];
  std::string expected = "[0, " + std::to_string(problem.classes) + ")";
  if (problem.ignore_index != kNoIgnoredLabel) {
    expected += " or ignore_index " + std::to_string(problem.ignore_index);
  }
  return InvalidArgument(kernel.api, kernel.op.name, "labels[" + std::to_string(position) + "]",
                         std::to_string(label), expected);
}

OrtStatus* CheckClasses(const LossKernel& kernel, const View& view) {
  if (view.inner <= 1 || view.classes <= kMostInnerClasses) return nullptr;
  return InvalidArgument(
      kernel.api, kernel.op.name, "number of classes", std::to_string(view.classes),
      "at most " + std::to_string(kMostInnerClasses) + " where the class axis is not the last");
}

// Checks the labels and weighs the positions; `total` is the denominator of a
// mean.
OrtStatus* ScanLabels(const LossKernel& kernel, const OrtKernelContext* context,
                      const LossProblem& problem, int64_t positions, double* total) {
  Loop loop{kernel, problem, Kernels(), positions, PositionsPerScan(problem), nullptr};
  std::vector<LabelScan> scans(static_cast<size_t>(loop.tasks()));
  loop.scans = scans.data();
  if (OrtStatus* status = ParallelFor(context, loop, ScanTask)) return status;
  *total = 0;
  for (const LabelScan& scan : scans) {
    if (scan.first_bad >= 0) return BadLabel(kernel, problem, scan.first_bad);
    *total += scan.weight;
  }
  return nullptr;
}

// What a mean is divided by.
double Denominator(const LossKernel& kernel, double total) {
  if (kernel.attributes.reduction != Reduction::kMean) return 1;
  return total != 0 ? total : EmptyDenominator(kernel.attributes.empty_mean);
}

template <class Acc>
double SumOf(const Acc* values, int64_t count) {
  double sums[8] = {};
  for (int64_t i = 0; i < count; ++i) sums[i % 8] += static_cast<double>(values[i]);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

double TotalWeight(const LossProblem& problem) {
  if (problem.class_weights == nullptr) return static_cast<double>(problem.classes);
  return problem.type == ElementType::kFloat64
             ? SumOf(static_cast<const double*>(problem.class_weights), problem.classes)
             : SumOf(static_cast<const float*>(problem.class_weights), problem.classes);
}

LossProblem Describe(const LossKernel& kernel, const Inputs& inputs, const View& view) {
  LossProblem problem = {};
  problem.type = kernel.op.type;
  problem.label_kind = kernel.op.label_kind;
  problem.outer = view.outer;
  problem.classes = view.classes;
  problem.inner = view.inner;
  problem.label_smoothing = kernel.attributes.label_smoothing;
  problem.ignore_index = kernel.attributes.ignore_index;
  problem.logits = inputs.logits.data;
  problem.labels = inputs.labels.data;
  problem.class_weights = inputs.class_weights.present ? inputs.class_weights.data : nullptr;
  problem.sample_weights = inputs.sample_weights.present ? inputs.sample_weights.data : nullptr;
  problem.class_weights_positions = kernel.attributes.class_weights_positions;
  // A reduction that needs no denominator needs no sum of weights either.
  const bool mean = kernel.attributes.reduction == Reduction::kMean;
  problem.mean_over = mean ? kernel.attributes.mean_over : MeanOver::kPositions;
  problem.from_logits = kernel.attributes.from_logits;
  problem.normalize = kernel.attributes.normalize;
  problem.epsilon = kernel.attributes.epsilon;
  problem.z_loss = kernel.attributes.z_loss;
  problem.softcap = kernel.attributes.logit_softcap;
  problem.dloss = inputs.dloss.data;
  problem.dloss_per_position = kernel.attributes.reduction == Reduction::kNone;
  problem.denominator = 1;
  problem.stream = view.positions() * view.classes * BytesOf(kernel.op.type) >= kStreamFrom;
  if (problem.label_smoothing > 0) problem.total_weight = TotalWeight(problem);
  return problem;
}

void StoreReduced(const LossProblem& problem, double value, void* loss) {
  if (problem.type == ElementType::kFloat64) {
    *static_cast<double*>(loss) = value;
  } else {
    *static_cast<float*>(loss) = static_cast<float>(value);
  }
}

OrtStatus* Compute(const LossKernel& kernel, OrtKernelContext* context) {
  const Operator& op = kernel.op;
  Inputs inputs;
  View view;
  if (OrtStatus* status = ReadInputs(kernel, context, &inputs)) return status;
  if (OrtStatus* status = CheckShapes(kernel, inputs, &view)) return status;
  if (OrtStatus* status = CheckClasses(kernel, view)) return status;
  LossProblem problem = Describe(kernel, inputs, view);
  const bool reduced = kernel.attributes.reduction != Reduction::kNone;
  const bool probabilities = op.label_kind == LabelKind::kProbabilities;
  // Probabilities need not add up to 1, so they weigh a position without class weights too.
  const bool classes_weigh = probabilities || problem.class_weights != nullptr;
  const bool weighs_positions =
      problem.sample_weights != nullptr || (problem.class_weights_positions && classes_weigh);
  std::vector<double> position_weights;  // room for floats too
  if (weighs_positions) position_weights.resize(static_cast<size_t>(view.positions()));
  problem.position_weights = weighs_positions ? position_weights.data() : nullptr;
  double total = static_cast<double>(view.positions());
  const bool scans = !probabilities || weighs_positions;
  if (scans && view.positions() > 0) {
    if (OrtStatus* status = ScanLabels(kernel, context, problem, view.positions(), &total)) {
      return status;
    }
  }
  problem.denominator = Denominator(kernel, total);
  if (problem.class_weights_positions) {
    problem.class_weights = nullptr;
    problem.total_weight = static_cast<double>(view.classes);
  }

  void* loss = nullptr;
  if (op.has_loss()) {
    const Shape shape = reduced ? Shape{} : view.positions_shape;
    if (OrtStatus* status = GetOutput(kernel.api, context, op.loss(), shape, &loss)) return status;
    if (!reduced) problem.loss = loss;
  }
  if (op.has_gradient()) {
    if (OrtStatus* status =
            GetOutput(kernel.api, context, op.dlogits(), inputs.logits.shape, &problem.dlogits)) {
      return status;
    }
  }
  if (op.has_loss()) {
    if (OrtStatus* status =
            GetOutput(kernel.api, context, op.lse(), view.positions_shape, &problem.lse)) {
      return status;
    }
  }
  if (op.has_label_gradient()) {
    if (OrtStatus* status =
            GetOutput(kernel.api, context, op.dlabels(), inputs.labels.shape, &problem.dlabels)) {
      return status;
    }
    if (problem.dlabels != nullptr && problem.class_weights_positions) {
      return InvalidArgument(kernel.api, op.name, "class_weighting", "position",
                             "class where the node has the output dlabels");
    }
  }
  double sum = 0;
  if (view.positions() > 0) {
    Loop loop{kernel,
              problem,
              Kernels(),
              view.positions(),
              PositionsPerTask(view.classes, view.inner, view.positions()),
              nullptr};
    problem.positions_per_partial = PositionsPerPartial(view.classes, view.inner);
    const int64_t partials = CeilDiv(view.positions(), problem.positions_per_partial);
    std::vector<double> partial_losses(static_cast<size_t>(partials));
    problem.partial_losses = partial_losses.data();
    if (OrtStatus* status = ParallelFor(context, loop, LossTask)) return status;
    for (const double partial : partial_losses) sum += partial;
  }
  if (loss != nullptr && reduced) {
    StoreReduced(problem, sum / problem.denominator, loss);
  }
  return nullptr;
}

}  // namespace

OrtStatus* CreateLossKernel(const OrtApi& api, const Operator& op, const OrtKernelInfo* info,
                            LossKernel** kernel) {
  return Guarded(api, op.name, [&]() -> OrtStatus* {
    Attributes attributes = {};
    if (OrtStatus* status = ReadAttributes(api, info, op, &attributes)) return status;
    *kernel = new LossKernel{api, op, attributes};
    return nullptr;
  });
}

void DestroyLossKernel(LossKernel* kernel) { delete kernel; }

OrtStatus* ComputeLoss(const LossKernel& kernel, OrtKernelContext* context) {
  return Guarded(kernel.api, kernel.op.name, [&] { return Compute(kernel, context); });
}

}  // namespace onnxloss::ort
