// SPDX-License-Identifier: MIT
// Rows of the sampled softmax: a few columns of each row are gathered, and their gradients
// scattered.
#pragma once

#include "cuda/sampled.h"
#include "cuda/sums.h"
#include "rows/log_uniform.h"
#include "rows/sampled_softmax_cross_entropy_loss.h"

namespace onnxloss::cuda {

constexpr int kSampledThreads = 256;

// A sampled class and its place among the samples as given.
struct Sample {
  int64_t value;
  int64_t column;
};

struct SampledArguments {
  SampledCall call;
  Sample* sorted;      // [N or 1, padded]
  int64_t padded;      // num_samples, up to a power of two
  void* losses;        // S [N], or null
  double mean_factor;  // of dloss
};

// The label at a place of [N, T].
ONNXLOSS_DEVICE int64_t LabelAt(const SampledCall& call, int64_t place) {
  return call.label_kind == static_cast<int64_t>(LabelKind::kIndex64)
             ? static_cast<const int64_t*>(call.labels)[place]
             : static_cast<const int32_t*>(call.labels)[place];
}

ONNXLOSS_DEVICE bool IsBefore(const Sample& a, const Sample& b) {
  return a.value != b.value ? a.value < b.value : a.column < b.column;
}

// One row: T true columns, then the samples in the order of `sorted`.
template <class T>
struct SampledRow {
  using Acc = Accumulator<T>;

  const SampledCall& call;
  const Sample* sorted;
  const T* logits;
  const Acc* q;  // expected counts
  int64_t row;

  ONNXLOSS_DEVICE SampledRow(const SampledArguments& arguments, int64_t at)
      : call(arguments.call),
        sorted(arguments.sorted + (arguments.call.own_samples != 0 ? at * arguments.padded : 0)),
        logits(static_cast<const T*>(arguments.call.logits) + at * arguments.call.classes),
        q(static_cast<const Acc*>(arguments.call.probabilities) +
          at * (arguments.call.num_true + arguments.call.num_samples)),
        row(at) {}

  ONNXLOSS_DEVICE int64_t columns() const { return call.num_true + call.num_samples; }
  ONNXLOSS_DEVICE int64_t LabelOf(int64_t t) const {
    return LabelAt(call, row * call.num_true + t);
  }
  ONNXLOSS_DEVICE int64_t ClassOf(int64_t column) const {
    return column < call.num_true ? LabelOf(column) : sorted[column - call.num_true].value;
  }
  ONNXLOSS_DEVICE bool IsBad(int64_t value) const { return value < 0 || value >= call.classes; }
  ONNXLOSS_DEVICE bool IsLabel(int64_t value) const {
    for (int64_t t = 0; t < call.num_true; ++t) {
      if (LabelOf(t) == value) return true;
    }
    return false;
  }
  ONNXLOSS_DEVICE bool IsSample(int64_t value) const {
    int64_t first = 0;
    for (int64_t count = call.num_samples; count > 0;) {
      const int64_t half = count / 2;
      const bool below = sorted[first + half].value < value;
      first += below ? half + 1 : 0;
      count = below ? count - half - 1 : half;
    }
    return first < call.num_samples && sorted[first].value == value;
  }
  // Less the log of the expected count; nan of a class that there is not.
  ONNXLOSS_DEVICE Acc ColumnOf(int64_t column) const {
    const int64_t value = ClassOf(column);
    if (IsBad(value)) return NotANumber<Acc>();
    const bool is_true = column < call.num_true;
    if (!is_true && call.remove_accidental_hits != 0 && IsLabel(value)) return -Infinity<Acc>();
    const Acc cap = static_cast<Acc>(call.softcap);
    const Acc logit = Wide(logits[value]);
    const int64_t place = is_true ? column : call.num_true + sorted[column - call.num_true].column;
    return (cap > 0 ? SoftCap(logit, cap) : logit) - Log(q[place]);
  }
};

template <class T>
using SampledMaths = SampledSoftmaxCrossEntropyLossRow<Accumulator<T>>;

template <class T>
ONNXLOSS_DEVICE SampledMaths<T> SummariseSampled(const SampledRow<T>& row) {
  using Acc = Accumulator<T>;
  Summary<Acc> summary;
  for (int64_t c = device::ThreadIndex(); c < row.columns(); c += kSampledThreads) {
    const Acc x[1] = {row.ColumnOf(c)};
    const Acc none[1] = {};
    AddChunk<Acc, false, 1>(x, none, &summary);
  }
  return FinishCluster<false, kSampledThreads>(summary, [&](const Summary<Acc>& joined) {
    const Acc share = 1 / static_cast<Acc>(row.call.num_true);
    return SampledMaths<T>{Finish(joined.stats), share, static_cast<Acc>(row.call.z_loss)};
  });
}

// The sum of the gradients of all columns of a class, in the order of columns. `run` is where its
// samples begin in `sorted`, or -1.
template <class T>
ONNXLOSS_DEVICE Accumulator<T> GradientOfClass(const SampledRow<T>& row,
                                               const SampledMaths<T>& maths, int64_t value,
                                               int64_t run, Accumulator<T> k) {
  using Acc = Accumulator<T>;
  const SampledCall& call = row.call;
  Acc sum = 0;
  for (int64_t t = 0; t < call.num_true; ++t) {
    if (row.LabelOf(t) != value) continue;
    sum += maths.Gradient(ExpNonPositive(row.ColumnOf(t) - maths.softmax.max), Acc{1}, k);
  }
  for (int64_t j = run; j >= 0 && j < call.num_samples && row.sorted[j].value == value; ++j) {
    const Acc e = ExpNonPositive(row.ColumnOf(call.num_true + j) - maths.softmax.max);
    sum += maths.Gradient(e, Acc{0}, k);
  }
  const Acc cap = static_cast<Acc>(call.softcap);
  return cap > 0 ? sum * SoftCapSlope(Acc{Wide(row.logits[value])}, cap) : sum;
}

// One block per row.
template <class T>
ONNXLOSS_KERNEL(kSampledThreads)
SampledRows(const SampledArguments arguments) {
  using Acc = Accumulator<T>;
  const SampledCall& call = arguments.call;
  const SampledRow<T> row(arguments, device::BlockIndex());
  const int thread = device::ThreadIndex();
  double own_bad = 0;
  for (int64_t c = thread; c < row.columns(); c += kSampledThreads) {
    own_bad += row.IsBad(row.ClassOf(c)) ? 1 : 0;
  }
  const bool bad = SumOfBlock<kSampledThreads>(own_bad) > 0;
  const SampledMaths<T> maths = SummariseSampled(row);
  if (thread == 0) {
    double gaps = 0;
    for (int64_t t = 0; t < call.num_true; ++t) {
      gaps += static_cast<double>(maths.softmax.max - row.ColumnOf(t));
    }
    if (arguments.losses != nullptr) {
      static_cast<Acc*>(arguments.losses)[row.row] = maths.Loss(gaps);
    }
    if (call.lse != nullptr) static_cast<Acc*>(call.lse)[row.row] = LogSumExp(maths.softmax);
  }
  if (call.dlogits == nullptr) return;
  T* dlogits = static_cast<T*>(call.dlogits) + row.row * call.classes;
  const T filler = Narrow<T>(bad ? NotANumber<Acc>() : Acc{0});
  for (int64_t c = thread; c < call.classes; c += kSampledThreads) dlogits[c] = filler;
  device::SyncBlock();  // the row is filled
  if (bad) return;
  const double dloss =
      static_cast<double>(static_cast<const Acc*>(call.dloss)[call.reduced != 0 ? 0 : row.row]);
  const Acc k = static_cast<Acc>(dloss * arguments.mean_factor);
  for (int64_t j = thread; j < call.num_samples; j += kSampledThreads) {
    const int64_t value = row.sorted[j].value;
    if (j > 0 && row.sorted[j - 1].value == value) continue;
    dlogits[value] = Narrow<T>(GradientOfClass(row, maths, value, j, k));
  }
  for (int64_t t = thread; t < call.num_true; t += kSampledThreads) {
    const int64_t value = row.LabelOf(t);
    bool is_first = !row.IsSample(value);
    for (int64_t other = 0; is_first && other < t; ++other) is_first = row.LabelOf(other) != value;
    if (is_first) dlogits[value] = Narrow<T>(GradientOfClass(row, maths, value, -1, k));
  }
}

}  // namespace onnxloss::cuda
