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

bool IsWide(const SampledCall& call) {
  return call.type == static_cast<int64_t>(ElementType::kFloat64);
}

int64_t Padded(const SampledCall& call) {
  int64_t padded = 1;
  while (padded < call.num_samples) padded *= 2;
  return padded;
}

int64_t SortedRows(const SampledCall& call) { return call.own_samples != 0 ? call.rows : 1; }

struct SampledScratch : Scratch {
  Sample* sorted;
  double* partials;
  void* losses;

  SampledScratch(const SampledCall& call, void* memory) : Scratch(memory) {
    const int64_t samples = SortedRows(call) * Padded(call);
    sorted = static_cast<Sample*>(Take(true, samples * int64_t{sizeof(Sample)}));
    partials = static_cast<double*>(Take(true, kMostSumBlocks * int64_t{sizeof(double)}));
    losses = Take(call.loss != nullptr && call.reduced != 0, call.rows * (IsWide(call) ? 8 : 4));
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

}  // namespace

int64_t SampledScratchBytes(const SampledCall& call) { return SampledScratch(call, nullptr).bytes; }

const char* RunSampled(const SampledCall& call, void* memory, void* stream) {
  const SampledScratch scratch(call, memory);
  Queue queue(static_cast<device::Stream>(stream), IsWide(call), scratch.partials);
  SampledArguments arguments = {call, scratch.sorted, Padded(call), call.loss, 1};
  if (call.reduced != 0) arguments.losses = scratch.losses;
  if (call.mean != 0) arguments.denominator = static_cast<double>(call.rows);
  if (call.rows > 0) {
    queue.Start(SortSamples, SortedRows(call), kSampledThreads, 1, arguments);
    queue.Start(RowsOf(call), call.rows, kSampledThreads, 1, arguments);
  }
  if (call.loss != nullptr && call.reduced != 0) {
    SumTarget target = {};
    target.loss = call.loss;
    target.known_denominator = arguments.denominator;
    queue.SumTo(target, scratch.losses, call.rows);
  }
  return queue.failure();
}

}  // namespace onnxloss::cuda
