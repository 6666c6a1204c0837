// SPDX-License-Identifier: MIT
// What the glue asks of the sampled softmax's CPU kernels: plain data and one function per
// instruction set.
#pragma once

#include "cpu/kernels.h"

namespace onnxloss {

// Where a sampled class is, sorted by class: neighbours in memory are read one after the other, a
// label is found by bisection, and equal classes stand side by side.
struct SampledClass {
  int64_t value;
  int64_t column;  // its place among the samples as given
};

// One call of an operator. S is the accumulator's type.
struct SampledProblem {
  ElementType type;
  LabelKind label_kind;
  int64_t rows;         // N
  int64_t classes;      // K
  int64_t num_true;     // T
  int64_t num_samples;  // S
  bool remove_accidental_hits;
  double z_loss;
  double softcap;               // 0 for none
  const void* logits;           // T [N, K]
  const void* labels;           // [N, T]
  const SampledClass* sorted;   // [S], or null where each row has its own samples
  const int64_t* row_samples;   // [N, S], or null
  const void* probabilities;    // S [N, T + S], or null for those of the draws:
  const double* sampled_log_q;  // [S], as `sorted`
  double (*label_log_q)(const void* context, int64_t label);
  const void* log_q_context;
  const void* dloss;  // S: one number, or [N]; null without gradient
  bool dloss_per_row;
  double denominator;  // what dloss is divided by
  void* loss;          // S [N], or null where `row_losses` takes them
  double* row_losses;  // [N], or null
  void* lse;           // S [N], or null
  void* dlogits;       // T [N, K], or null
};

// Loss and gradient of rows [first, last). `scratch` has SampledScratchBytes.
using SampledRun = void (*)(const SampledProblem& problem, int64_t first, int64_t last,
                            void* scratch);

// The kernel of the instruction set that Kernels() has.
SampledRun SampledKernel();
int64_t SampledRowsPerTask(const SampledProblem& problem);
// Scratch that one running task needs.
int64_t SampledScratchBytes(const SampledProblem& problem);
// Sorts by class; equal classes keep their order.
void SortClasses(SampledClass* classes, int64_t count);

}  // namespace onnxloss
