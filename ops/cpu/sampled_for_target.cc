// SPDX-License-Identifier: MIT
// The sampled softmax's rows for one instruction set: compiled once for each, with ONNXLOSS_TARGET
// its name.
#include <cmath>
#include <cstring>

#include "cpu/coefficients.h"
#include "cpu/row_sum.h"
#include "cpu/sampled.h"
#include "rows/sampled_softmax_cross_entropy_loss.h"
#include "rows/softcap.h"

namespace onnxloss::ONNXLOSS_TARGET {
namespace {

// One row's columns: T true ones, then the samples in the order of `sorted`.
template <class T>
struct Columns {
  using Acc = Accumulator<T>;

  const SampledProblem& problem;
  const SampledClass* sorted;
  Acc* x;          // [T + S]
  Acc* e;          // [T + S] in whole vectors, scaled exp(x - max), then the gradient
  int64_t* owner;  // [T], the first column of the same class; a true class is its own otherwise

  int64_t count() const { return problem.num_true + problem.num_samples; }
  Acc softcap() const { return static_cast<Acc>(problem.softcap); }
  Acc Capped(Acc logit) const { return problem.softcap > 0 ? SoftCap(logit, softcap()) : logit; }
};

template <class T>
int64_t LabelOf(const SampledProblem& problem, int64_t row, int64_t t) {
  const int64_t place = row * problem.num_true + t;
  return problem.label_kind == LabelKind::kIndex64
             ? static_cast<const int64_t*>(problem.labels)[place]
             : static_cast<const int32_t*>(problem.labels)[place];
}

// The first place of `sorted` whose class is not below `value`.
inline int64_t Find(const SampledClass* sorted, int64_t count, int64_t value) {
  int64_t first = 0;
  while (count > 0) {
    const int64_t half = count / 2;
    const bool below = sorted[first + half].value < value;
    first += below ? half + 1 : 0;
    count = below ? count - half - 1 : half;
  }
  return first;
}

template <class T>
void GatherSampled(const Columns<T>& columns, int64_t row) {
  using Acc = Accumulator<T>;
  // Few samples share a line of memory, so what is asked for far ahead is what hides its latency.
  constexpr int64_t kAhead = 512;
  const SampledProblem& problem = columns.problem;
  const T* logits = static_cast<const T*>(problem.logits) + row * problem.classes;
  const int64_t last = problem.num_samples - 1;
  const auto gather = [&](const auto& log_q) {
    Acc* x = columns.x + problem.num_true;
    for (int64_t j = 0; j <= last; ++j) {
      const int64_t ahead = j + kAhead < last ? j + kAhead : last;
      __builtin_prefetch(logits + columns.sorted[ahead].value, 0, 2);
      x[j] = columns.Capped(ToFloat(logits[columns.sorted[j].value])) - log_q(j);
    }
  };
  if (problem.probabilities == nullptr) {
    gather([&](int64_t j) { return static_cast<Acc>(problem.sampled_log_q[j]); });
    return;
  }
  const Acc* q =
      static_cast<const Acc*>(problem.probabilities) + row * columns.count() + problem.num_true;
  gather([&](int64_t j) { return Log(q[columns.sorted[j].column]); });
}

// The true columns; samples that hit one of their classes are left out where that is asked for.
template <class T>
void GatherTrue(const Columns<T>& columns, int64_t row) {
  using Acc = Accumulator<T>;
  const SampledProblem& problem = columns.problem;
  const T* logits = static_cast<const T*>(problem.logits) + row * problem.classes;
  const Acc* q = problem.probabilities == nullptr
                     ? nullptr
                     : static_cast<const Acc*>(problem.probabilities) + row * columns.count();
  for (int64_t t = 0; t < problem.num_true; ++t) {
    const int64_t label = LabelOf<T>(problem, row, t);
    const Acc log_q = q != nullptr
                          ? Log(q[t])
                          : static_cast<Acc>(problem.label_log_q(problem.log_q_context, label));
    columns.x[t] = columns.Capped(ToFloat(logits[label])) - log_q;
    int64_t j = Find(columns.sorted, problem.num_samples, label);
    const bool hit = j < problem.num_samples && columns.sorted[j].value == label;
    columns.owner[t] = hit ? problem.num_true + j : t;
    if (!problem.remove_accidental_hits) continue;
    for (; j < problem.num_samples && columns.sorted[j].value == label; ++j) {
      columns.x[problem.num_true + j] = -Infinity<Acc>();
    }
  }
}

// `e` becomes exp(x - max), scaled, up to the next whole vector.
template <class Acc>
RowSoftmax<Acc> Softmax(const Acc* x, int64_t count, Acc* e) {
  constexpr int64_t kBlock = 1024;
  const auto part = [=](int64_t first) { return count - first < kBlock ? count - first : kBlock; };
  RowSum<Acc> row;
  row.RaiseReference(MaxOf(x, count), 0);
  for (int64_t first = 0; first < count; first += kBlock) {
    row.Add(SumBlock<true>(x + first, part(first), row.reference, NoCoefficients{}, e + first),
            first);
  }
  return Finish(row.max, SumMinusOne(row, [=](int64_t peak, Acc max) {
                  return SumApart(x + peak, part(peak), max);
                }));
}

// The gradients by the capped logits become those by the logits.
template <class T>
void ChainThroughCap(const Columns<T>& columns, int64_t row) {
  using Acc = Accumulator<T>;
  const SampledProblem& problem = columns.problem;
  const T* logits = static_cast<const T*>(problem.logits) + row * problem.classes;
  const auto chain = [&](int64_t column, int64_t value) {
    const Acc slope = SoftCapSlope(Acc{ToFloat(logits[value])}, columns.softcap());
    columns.e[column] *= slope;
  };
  for (int64_t t = 0; t < problem.num_true; ++t) chain(t, LabelOf<T>(problem, row, t));
  for (int64_t j = 0; j < problem.num_samples; ++j) {
    chain(problem.num_true + j, columns.sorted[j].value);
  }
}

// Adds up the gradients of columns of the same class before any is rounded to T.
template <class T>
void Scatter(const Columns<T>& columns, int64_t row) {
  using Acc = Accumulator<T>;
  const SampledProblem& problem = columns.problem;
  T* dlogits = static_cast<T*>(problem.dlogits) + row * problem.classes;
  std::memset(static_cast<void*>(dlogits), 0, static_cast<size_t>(problem.classes) * sizeof(T));
  Acc* gradient = columns.e;
  for (int64_t t = 0; t < problem.num_true; ++t) {
    const int64_t label = LabelOf<T>(problem, row, t);
    int64_t owner = columns.owner[t];
    for (int64_t other = 0; owner == t && other < t; ++other) {
      if (LabelOf<T>(problem, row, other) == label) owner = other;
    }
    columns.owner[t] = owner;
    if (owner != t) gradient[owner] += gradient[t];
  }
  for (int64_t t = 0; t < problem.num_true; ++t) {
    if (columns.owner[t] != t) continue;
    dlogits[LabelOf<T>(problem, row, t)] = FromFloat<T>(gradient[t]);
  }
  const Acc* sampled = gradient + problem.num_true;
  for (int64_t j = 0; j < problem.num_samples;) {
    const int64_t value = columns.sorted[j].value;
    Acc sum = sampled[j];
    for (++j; j < problem.num_samples && columns.sorted[j].value == value; ++j) sum += sampled[j];
    dlogits[value] = FromFloat<T>(sum);
  }
}

template <class T>
void RunRow(const Columns<T>& columns, int64_t row) {
  using Acc = Accumulator<T>;
  const SampledProblem& problem = columns.problem;
  GatherSampled(columns, row);
  GatherTrue(columns, row);
  const Acc share = 1 / static_cast<Acc>(problem.num_true);
  const SampledSoftmaxCrossEntropyLossRow<Acc> maths = {
      Softmax(columns.x, columns.count(), columns.e), share, static_cast<Acc>(problem.z_loss)};
  double gaps = 0;
  for (int64_t t = 0; t < problem.num_true; ++t) {
    gaps += static_cast<double>(maths.softmax.max - columns.x[t]);
  }
  const Acc loss = maths.Loss(gaps);
  if (problem.row_losses != nullptr) problem.row_losses[row] = static_cast<double>(loss);
  if (problem.loss != nullptr) static_cast<Acc*>(problem.loss)[row] = loss;
  if (problem.lse != nullptr) static_cast<Acc*>(problem.lse)[row] = LogSumExp(maths.softmax);
  if (problem.dlogits == nullptr) return;
  const Acc* dloss = static_cast<const Acc*>(problem.dloss);
  const Acc k = static_cast<Acc>(static_cast<double>(dloss[problem.dloss_per_row ? row : 0]) /
                                 problem.denominator);
  Acc* e = columns.e;
  for (int64_t c = 0; c < columns.count(); ++c) {
    e[c] = maths.Gradient(e[c] * kPerExpScale<Acc>, c < problem.num_true ? Acc{1} : Acc{0}, k);
  }
  if (problem.softcap > 0) ChainThroughCap(columns, row);
  Scatter(columns, row);
}

template <class T>
void RunTyped(const SampledProblem& problem, int64_t first, int64_t last, void* scratch) {
  using Acc = Accumulator<T>;
  const int64_t count = problem.num_true + problem.num_samples;
  char* memory = static_cast<char*>(scratch);
  SampledClass* own = nullptr;
  if (problem.sorted == nullptr) {
    own = reinterpret_cast<SampledClass*>(memory);
    memory += static_cast<size_t>(problem.num_samples) * sizeof(SampledClass);
  }
  int64_t* owner = reinterpret_cast<int64_t*>(memory);
  Acc* x = reinterpret_cast<Acc*>(owner + problem.num_true);
  const Columns<T> columns = {problem, own != nullptr ? own : problem.sorted, x, x + count, owner};
  for (int64_t row = first; row < last; ++row) {
    if (own != nullptr) {
      for (int64_t j = 0; j < problem.num_samples; ++j) {
        own[j] = {problem.row_samples[row * problem.num_samples + j], j};
      }
      SortClasses(own, problem.num_samples);
    }
    RunRow(columns, row);
  }
}

}  // namespace

void RunSampled(const SampledProblem& problem, int64_t first, int64_t last, void* scratch);
void RunSampled(const SampledProblem& problem, int64_t first, int64_t last, void* scratch) {
  switch (problem.type) {
    case ElementType::kFloat16:
      return RunTyped<Half>(problem, first, last, scratch);
    case ElementType::kBFloat16:
      return RunTyped<BFloat16>(problem, first, last, scratch);
    case ElementType::kFloat32:
      return RunTyped<float>(problem, first, last, scratch);
    case ElementType::kFloat64:
      return RunTyped<double>(problem, first, last, scratch);
  }
}

}  // namespace onnxloss::ONNXLOSS_TARGET
