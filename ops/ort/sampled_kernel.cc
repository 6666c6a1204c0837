// SPDX-License-Identifier: MIT
#include "ort/sampled_kernel.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "cpu/log_uniform.h"
#include "ort/sampled_tensors.h"

namespace onnxloss::ort {
namespace {

// The samples, in whatever way they came, and what they say of the problem.
struct Samples {
  LogUniform distribution;
  int64_t num_samples;
  Draws draws;
  std::vector<SampledClass> sorted;
  std::vector<double> log_q;  // as `sorted`; of draws alone

  double ExpectedCount(int64_t value) const {
    return distribution.ExpectedCount(value, num_samples, draws.num_tries);
  }
};

double LabelLogQ(const void* context, int64_t label) {
  return std::log(static_cast<const Samples*>(context)->ExpectedCount(label));
}

void Draw(uint32_t seed, Samples* samples) {
  samples->draws = DrawDistinct(samples->distribution, samples->num_samples, seed);
  for (size_t i = 0; i < samples->draws.values.size(); ++i) {
    samples->sorted.push_back({samples->draws.values[i], static_cast<int64_t>(i)});
  }
  SortClasses(samples->sorted.data(), samples->num_samples);
  for (const SampledClass& entry : samples->sorted) {
    samples->log_q.push_back(std::log(samples->ExpectedCount(entry.value)));
  }
}

void TakeShared(const int64_t* given, Samples* samples) {
  for (int64_t i = 0; i < samples->num_samples; ++i) samples->sorted.push_back({given[i], i});
  SortClasses(samples->sorted.data(), samples->num_samples);
}

SampledProblem Describe(const SampledLossKernel& kernel, const SampledInputs& inputs,
                        const Samples& samples) {
  const SampledAttributes& attributes = kernel.attributes;
  SampledProblem problem = {};
  problem.type = kernel.op.type;
  problem.label_kind = kernel.op.label_kind;
  problem.rows = inputs.rows();
  problem.classes = inputs.classes();
  problem.num_true = attributes.num_true;
  problem.num_samples = attributes.num_samples;
  problem.remove_accidental_hits = attributes.remove_accidental_hits;
  problem.z_loss = attributes.z_loss;
  problem.softcap = attributes.logit_softcap;
  problem.logits = inputs.logits.data;
  problem.labels = inputs.labels.data;
  if (inputs.row_samples()) {
    problem.row_samples = static_cast<const int64_t*>(inputs.samples.data);
  } else {
    problem.sorted = samples.sorted.data();
  }
  if (inputs.probabilities.present) {
    problem.probabilities = inputs.probabilities.data;
  } else {
    problem.sampled_log_q = samples.log_q.data();
    problem.label_log_q = LabelLogQ;
    problem.log_q_context = &samples;
  }
  problem.dloss = inputs.dloss.data;
  problem.dloss_per_row = attributes.reduction == Reduction::kNone;
  problem.denominator =
      attributes.reduction == Reduction::kMean ? static_cast<double>(problem.rows) : 1;
  return problem;
}

// One parallel loop: task i covers rows [i * step, (i + 1) * step).
struct Loop {
  const SampledProblem& problem;
  SampledRun run;
  int64_t step;
  std::atomic<bool> out_of_memory{false};
};

void Task(void* data, size_t task) {
  Loop& loop = *static_cast<Loop*>(data);
  const int64_t first = static_cast<int64_t>(task) * loop.step;
  const int64_t end = first + loop.step;
  const size_t bytes = static_cast<size_t>(SampledScratchBytes(loop.problem));
  const std::unique_ptr<char[]> scratch(new (std::nothrow) char[bytes]);
  if (scratch == nullptr) {
    loop.out_of_memory = true;
    return;
  }
  loop.run(loop.problem, first, end < loop.problem.rows ? end : loop.problem.rows, scratch.get());
}

OrtStatus* RunTasks(const SampledLossKernel& kernel, const OrtKernelContext* context,
                    const SampledProblem& problem) {
  Loop loop{problem, SampledKernel(), SampledRowsPerTask(problem)};
  const size_t tasks = static_cast<size_t>((problem.rows + loop.step - 1) / loop.step);
  if (tasks == 1) {
    Task(&loop, 0);
  } else if (tasks > 1) {
    if (OrtStatus* status =
            kernel.api.KernelContext_ParallelFor(context, Task, tasks, tasks, &loop)) {
      return status;
    }
  }
  if (!loop.out_of_memory) return nullptr;
  const std::string message = std::string(kernel.op.name) + ": out of memory for " +
                              std::to_string(SampledScratchBytes(problem)) + " bytes of scratch.";
  return kernel.api.CreateStatus(ORT_FAIL, message.c_str());
}

template <class Sum>
void StoreExpectedCounts(const SampledProblem& problem, const Samples& samples, Sum* counts) {
  const int64_t labels = problem.rows * problem.num_true;
  std::vector<Sum> sampled;
  for (const int64_t value : samples.draws.values) {
    sampled.push_back(static_cast<Sum>(samples.ExpectedCount(value)));
  }
  for (int64_t i = 0; i < labels; ++i) {
    const int64_t label = problem.label_kind == LabelKind::kIndex64
                              ? static_cast<const int64_t*>(problem.labels)[i]
                              : static_cast<const int32_t*>(problem.labels)[i];
    *counts++ = static_cast<Sum>(samples.ExpectedCount(label));
    if ((i + 1) % problem.num_true == 0) {
      for (const Sum count : sampled) *counts++ = count;
    }
  }
}

// The optional outputs: what was drawn, or a copy of what was given.
OrtStatus* StoreDrawn(const SampledLossKernel& kernel, OrtKernelContext* context,
                      const SampledInputs& inputs, const SampledProblem& problem,
                      const Samples& samples) {
  const bool given = inputs.samples.present;
  const Shape samples_shape = given ? inputs.samples.shape : Shape{problem.num_samples};
  void* values = nullptr;
  if (OrtStatus* status =
          GetOutput(kernel.api, context, kernel.op.drawn_samples(), samples_shape, &values)) {
    return status;
  }
  const int64_t* source =
      given ? static_cast<const int64_t*>(inputs.samples.data) : samples.draws.values.data();
  const int64_t count = problem.num_samples * (inputs.row_samples() ? problem.rows : 1);
  for (int64_t i = 0; values != nullptr && i < count; ++i) {
    static_cast<int64_t*>(values)[i] = source[i];
  }
  void* counts = nullptr;
  const int64_t columns = problem.num_true + problem.num_samples;
  if (OrtStatus* status = GetOutput(kernel.api, context, kernel.op.drawn_probabilities(),
                                    {problem.rows, columns}, &counts)) {
    return status;
  }
  if (counts == nullptr) return nullptr;
  const bool wide = problem.type == ElementType::kFloat64;
  if (given) {
    const size_t size = wide ? sizeof(double) : sizeof(float);
    const size_t bytes = static_cast<size_t>(problem.rows * columns) * size;
    if (bytes > 0) std::memcpy(counts, inputs.probabilities.data, bytes);
  } else if (wide) {
    StoreExpectedCounts(problem, samples, static_cast<double*>(counts));
  } else {
    StoreExpectedCounts(problem, samples, static_cast<float*>(counts));
  }
  return nullptr;
}

void StoreReduced(const SampledProblem& problem, const std::vector<double>& losses, void* loss) {
  double sum = 0;
  for (const double value : losses) sum += value;
  if (problem.type == ElementType::kFloat64) {
    *static_cast<double*>(loss) = sum / problem.denominator;
  } else {
    *static_cast<float*>(loss) = static_cast<float>(sum / problem.denominator);
  }
}

OrtStatus* Compute(const SampledLossKernel& kernel, OrtKernelContext* context) {
  const SampledOperator& op = kernel.op;
  SampledInputs inputs;
  if (OrtStatus* status = ReadSampledInputs(kernel, context, &inputs)) return status;
  if (OrtStatus* status = CheckSampledInputs(kernel, inputs)) return status;
  Samples samples = {LogUniform(inputs.classes()), kernel.attributes.num_samples, {}, {}, {}};
  if (!inputs.samples.present) {
    Draw(kernel.attributes.seed, &samples);
  } else if (!inputs.row_samples()) {
    TakeShared(static_cast<const int64_t*>(inputs.samples.data), &samples);
  }
  SampledProblem problem = Describe(kernel, inputs, samples);
  const bool reduced = kernel.attributes.reduction != Reduction::kNone;
  void* loss = nullptr;
  std::vector<double> row_losses;
  if (op.has_loss()) {
    const Shape shape = reduced ? Shape{} : Shape{problem.rows};
    if (OrtStatus* status = GetOutput(kernel.api, context, 0, shape, &loss)) return status;
    if (reduced) row_losses.resize(static_cast<size_t>(problem.rows));
    problem.loss = reduced ? nullptr : loss;
    problem.row_losses = reduced ? row_losses.data() : nullptr;
    if (OrtStatus* status =
            GetOutput(kernel.api, context, op.lse(), {problem.rows}, &problem.lse)) {
      return status;
    }
    if (OrtStatus* status = StoreDrawn(kernel, context, inputs, problem, samples)) return status;
  }
  if (op.has_gradient()) {
    if (OrtStatus* status =
            GetOutput(kernel.api, context, op.dlogits(), inputs.logits.shape, &problem.dlogits)) {
      return status;
    }
  }
  if (OrtStatus* status = RunTasks(kernel, context, problem)) return status;
  if (loss != nullptr && reduced) StoreReduced(problem, row_losses, loss);
  return nullptr;
}

}  // namespace

void DestroySampledLossKernel(SampledLossKernel* kernel) { delete kernel; }

OrtStatus* ComputeSampledLoss(const SampledLossKernel& kernel, OrtKernelContext* context) {
  return Guarded(kernel.api, kernel.op.name, [&] { return Compute(kernel, context); });
}

}  // namespace onnxloss::ort
