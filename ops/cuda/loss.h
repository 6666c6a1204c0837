// SPDX-License-Identifier: MIT
// What callers ask of the CUDA kernels: plain data, pointers to device memory, no CUDA types.
#pragma once

#include "cpu/kernels.h"

namespace onnxloss::cuda {

// One call of an operator. `logits` is [outer, classes, inner]; a position is an (outer, inner)
// pair in row-major order. S is the accumulator's type. Outputs overlap no input. Every field has 8
// bytes.
struct LossCall {
  int64_t type;        // ElementType
  int64_t label_kind;  // LabelKind
  int64_t outer;
  int64_t classes;
  int64_t inner;
  int64_t ignore_index;
  int64_t from_logits;              // else `logits` are probabilities
  int64_t normalize;                // Normalize, of probabilities
  int64_t reduced;                  // loss and dloss are one number
  int64_t mean;                     // that is a mean
  int64_t mean_over;                // MeanOver
  int64_t class_weights_positions;  // they weigh positions, not the terms of their classes
  double empty_denominator;         // what replaces a denominator of 0
  double label_smoothing;
  double epsilon;  // where probabilities are clipped: to [epsilon, 1 - epsilon]
  double z_loss;
  double softcap;              // 0 for none
  const void* logits;          // T [outer, classes, inner]
  const void* labels;          // indices [outer, inner], or T as logits
  const void* class_weights;   // S [classes], or null for ones
  const void* sample_weights;  // S [positions], or null for ones
  const void* dloss;           // S: one number, or one per position; null without gradient
  void* loss;                  // S: one number, or [positions]; null without loss
  void* lse;                   // S [positions], or null
  void* dlogits;               // T as logits, or null
  void* dlabels;               // T as labels, or null; where they are probabilities

  int64_t positions() const { return outer * inner; }
};

// The most blocks of a cluster on the current device, 1 where it knows none: null, or what went
// wrong.
const char* LargestCluster(int* blocks);

// Device memory that RunLoss needs beside the call's own.
int64_t ScratchBytes(const LossCall& call);

// Puts the call on `stream`, a cudaStream_t of the current device, and returns before it is done:
// null, or what went wrong. Neither allocates nor waits, so that it can be captured in a graph.
// A label that is neither a class nor ignored makes its row nan in loss and gradient; what is
// reduced over it is nan, the other rows are as if it were ignored by the denominator.
const char* RunLoss(const LossCall& call, void* scratch, void* stream);

}  // namespace onnxloss::cuda
