// SPDX-License-Identifier: MIT
// What callers ask of the sampled softmax's CUDA kernels: as loss.h.
#pragma once

#include "cpu/kernels.h"

namespace onnxloss::cuda {

// Every field has 8 bytes.
struct SampledCall {
  int64_t type;        // ElementType
  int64_t label_kind;  // LabelKind
  int64_t rows;        // N
  int64_t classes;     // K
  int64_t num_true;    // T
  int64_t num_samples;
  int64_t own_samples;  // each row has its own
  int64_t remove_accidental_hits;
  int64_t reduced;  // loss and dloss are one number
  int64_t mean;     // that is a mean
  double z_loss;
  double softcap;             // 0 for none
  const void* logits;         // T [N, K]
  const void* labels;         // [N, T]
  const void* samples;        // int64 [num_samples], or [N, num_samples]
  const void* probabilities;  // S [N, T + num_samples]
  const void* dloss;          // S: one number, or [N]; null without gradient
  void* loss;                 // S: one number, or [N]; null without loss
  void* lse;                  // S [N], or null
  void* dlogits;              // T [N, K], or null
  void* drawn_samples;        // int64, a copy of the samples, or null
  void* drawn_probabilities;  // S, a copy of the probabilities, or null
  // Where samples and probabilities are null: those that the host drew, and in how many tries.
  const void* host_samples;  // int64 [num_samples] in the host's memory
  int64_t num_tries;
  int64_t host_samples_last;  // for as long as a graph may run; else the call is not for one
};

// As for LossCall; a label or a sample that is no class makes its row nan.
int64_t SampledScratchBytes(const SampledCall& call);
const char* RunSampled(const SampledCall& call, void* scratch, void* stream);

}  // namespace onnxloss::cuda
