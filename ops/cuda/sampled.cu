// SPDX-License-Identifier: MIT
// A call of the sampled softmax as launches: sort the samples, rows, sum of losses.
#include "cuda/queue.h"
#include "cuda/sampled_rows.h"

namespace onnxloss::cuda {
namespace {

// Sorts each row of samples by class, equal classes by column: a bitonic network, one block a row.
// What fills up the row comes last.
ONNXLOSS_KERNEL(kSampledThreads) SortSamples(const SampledArguments arguments) {
  const SampledCall& call = arguments.call;
  Sample* sorted = arguments.sorted + device::BlockIndex() * arguments.padded;
  const int64_t* given =
      static_cast<const int64_t*>(call.samples) + device::BlockIndex() * call.num_samples;
  const int thread = device::ThreadIndex();
  for (int64_t i = thread; i < arguments.padded; i += kSampledThreads) {
    sorted[i] = {i < call.num_samples ? given[i] : INT64_MAX, i};
  }
  for (int64_t size = 2; size <= arguments.padded; size *= 2) {
    for (int64_t step = size / 2; step > 0; step /= 2) {
      device::SyncBlock();  // the step before has been taken
      for (int64_t i = thread; i < arguments.padded; i += kSampledThreads) {
        const int64_t other = i ^ step;
        if (other < i) continue;
        const bool rises = (i & size) == 0;
        const Sample low = sorted[i];
        const Sample high = sorted[other];
        if (IsBefore(high, low) == rises) {
          sorted[i] = high;
          sorted[other] = low;
        }
      }
    }
  }
}

struct CountArguments {
  SampledCall call;  // with its samples
  void* counts;      // S [N, T + num_samples]
  double log_range;
};

// Rows of a block, so that what a sample's count takes is paid by several.
constexpr int64_t kCountRows = 64;

// The expected counts of drawn samples. A thread has a column; a block has kSampledThreads of them,
// in kCountRows rows.
template <class S>
ONNXLOSS_KERNEL(kSampledThreads)
CountExpected(const CountArguments arguments) {
  const SampledCall& call = arguments.call;
  const int64_t columns = call.num_true + call.num_samples;
  const int64_t chunks = (columns + kSampledThreads - 1) / kSampledThreads;
  const int64_t column = device::BlockIndex() % chunks * kSampledThreads + device::ThreadIndex();
  if (column >= columns) return;
  const auto count = [&](int64_t value) {
    return static_cast<S>(
        ExpectedCount(value, arguments.log_range, call.num_samples, call.num_tries));
  };
  const bool is_true = column < call.num_true;
  const int64_t* samples = static_cast<const int64_t*>(call.samples);
  const S of_sample = is_true ? S{0} : count(samples[column - call.num_true]);
  const int64_t first = device::BlockIndex() / chunks * kCountRows;
  const int64_t end = first + kCountRows < call.rows ? first + kCountRows : call.rows;
  for (int64_t row = first; row < end; ++row) {
    static_cast<S*>(arguments.counts)[row * columns + column] =
        is_true ? count(LabelAt(call, row * call.num_true + column)) : of_sample;
  }
}

bool IsWide(const SampledCall& call) {
  return call.type == static_cast<int64_t>(ElementType::kFloat64);
}

int64_t SumBytes(const SampledCall& call) { return IsWide(call) ? 8 : 4; }

int64_t Padded(const SampledCall& call) {
  int64_t padded = 1;
  while (padded < call.num_samples) padded *= 2;
  return padded;
}

bool Draws(const SampledCall& call) { return call.samples == nullptr; }

int64_t Columns(const SampledCall& call) { return call.num_true + call.num_samples; }

int64_t SampleBytes(const SampledCall& call) { return call.num_samples * int64_t{sizeof(int64_t)}; }

int64_t SortedRows(const SampledCall& call) { return call.own_samples != 0 ? call.rows : 1; }

struct SampledScratch : Scratch {
  Sample* sorted;
  double* partials;
  void* losses;
  void* drawn;   // samples
  void* counts;  // theirs

  SampledScratch(const SampledCall& call, void* memory) : Scratch(memory) {
    const int64_t samples = SortedRows(call) * Padded(call);
    sorted = static_cast<Sample*>(Take(true, samples * int64_t{sizeof(Sample)}));
    partials = static_cast<double*>(Take(true, kMostSumBlocks * int64_t{sizeof(double)}));
    losses = Take(call.loss != nullptr && call.reduced != 0, call.rows * SumBytes(call));
    drawn = Take(Draws(call), SampleBytes(call));
    counts = Take(Draws(call), call.rows * Columns(call) * SumBytes(call));
  }
};

void (*RowsOf(const SampledCall& call))(SampledArguments) {
  switch (static_cast<ElementType>(call.type)) {
    case ElementType::kFloat16:
      return SampledRows<Half>;
    case ElementType::kBFloat16:
      return SampledRows<BFloat16>;
    case ElementType::kFloat32:
      return SampledRows<float>;
    case ElementType::kFloat64:
      break;
  }
  return SampledRows<double>;
}

// Gives the call the samples that the host drew, and their expected counts.
void TakeDrawn(const SampledScratch& scratch, Queue* queue, SampledCall* call) {
  if (!Draws(*call)) return;
  if (call->host_samples_last == 0) queue->RefuseCapture();
  queue->Copy(scratch.drawn, call->host_samples, SampleBytes(*call));
  call->samples = scratch.drawn;
  call->probabilities = scratch.counts;
  const int64_t chunks = (Columns(*call) + kSampledThreads - 1) / kSampledThreads;
  const int64_t blocks = chunks * ((call->rows + kCountRows - 1) / kCountRows);
  if (blocks == 0) return;
  queue->Start(IsWide(*call) ? CountExpected<double> : CountExpected<float>,
               {blocks, kSampledThreads, 1},
               CountArguments{*call, scratch.counts, LogRange(call->classes)});
}

}  // namespace

int64_t SampledScratchBytes(const SampledCall& call) { return SampledScratch(call, nullptr).bytes; }

const char* RunSampled(const SampledCall& given, void* memory, void* stream) {
  SampledCall call = given;
  const SampledScratch scratch(call, memory);
  Queue queue(static_cast<device::Stream>(stream), IsWide(call), scratch.partials);
  TakeDrawn(scratch, &queue, &call);
  SampledArguments arguments = {call, scratch.sorted, Padded(call), call.loss, 1};
  if (call.reduced != 0) arguments.losses = scratch.losses;
  if (call.mean != 0) arguments.mean_factor = 1 / static_cast<double>(call.rows);
  if (call.rows > 0) {
    queue.Start(SortSamples, {SortedRows(call), kSampledThreads, 1}, arguments);
    queue.Start(RowsOf(call), {call.rows, kSampledThreads, 1}, arguments);
  }
  queue.Copy(call.drawn_samples, call.samples, SortedRows(call) * SampleBytes(call));
  queue.Copy(call.drawn_probabilities, call.probabilities,
             call.rows * Columns(call) * SumBytes(call));
  if (call.loss != nullptr && call.reduced != 0) {
    SumTarget target = {};
    target.loss = call.loss;
    target.known_factor = arguments.mean_factor;
    queue.SumTo(target, scratch.losses, call.rows);
  }
  return queue.failure();
}

}  // namespace onnxloss::cuda
