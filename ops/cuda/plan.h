// SPDX-License-Identifier: MIT
// Which kernel runs a call, and on how many threads: a function of shapes, types and chip alone.
#pragma once

#include "cuda/loss.h"

namespace onnxloss::cuda {

enum class Path : int {
  kNothing,        // no position
  kResident,       // the row stays in the registers of its threads: one read
  kStreamed,       // a block goes along the row: one read for the loss, two for the gradient
  kStrided,        // no vectors: the class axis is not last, or arrays are out of step
  kPacked,         // few classes of many rows, moved by way of shared memory
  kProbabilities,  // from_logits = 0
};

// How a row stays on chip: in `vectors` registers of 16 bytes of each of `lanes` threads. Up to a
// warp, a block has several rows; beyond, a row has a block or a cluster of blocks.
struct Residence {
  int lanes;
  int vectors;
  int threads;         // of a block
  int blocks_at_once;  // that a multiprocessor must have registers for
};
constexpr Residence kResidences[] = {{4, 1, 128, 8},   {4, 8, 128, 5},   {8, 16, 128, 4},
                                     {32, 4, 128, 8},  {32, 8, 128, 5},  {128, 4, 128, 8},
                                     {256, 4, 256, 4}, {256, 8, 256, 4}, {256, 16, 256, 2}};
constexpr int kNumResidences = 9;
constexpr int kFirstInClusters = 7;  // shorter rows need none
constexpr int kLargestCluster = 16;

constexpr int kStreamedThreads = 256;
constexpr int kStreamedVectors = 4;  // of a thread at once
constexpr int kStridedThreads = 256;
constexpr int kTileClasses = 24;  // of a thread of kStrided at once

constexpr int kPackedThreads = 128;  // each has a row,
constexpr int kPackedBytes = 160;    // of so many at most

struct Plan {
  Path path;
  int residence;  // of kResident
  int64_t blocks;
  int threads;  // of a block
  int cluster;  // blocks
  // Of kStrided and kProbabilities: so many threads share a row,
  int class_lanes;
  int across;  // and each has so many neighbouring positions
};

// `largest_cluster` is what the chip can have, 1 where it knows none.
Plan PlanFor(const LossCall& call, int largest_cluster);

// Of the kernel of dlabels: one of kStrided, whatever runs the rest.
Plan PlanForLabelGradients(const LossCall& call);

// Blocks that sum `count` numbers; where there are several, one more block sums their sums.
int64_t SumBlocks(int64_t count);
constexpr int kSumThreads = 1024;
constexpr int kWeighedAtOnce = 8;  // labels of a thread
constexpr int64_t kMostSumBlocks = 1024;
// Threads that share a position while positions are weighed.
int WeighLanes(const LossCall& call);

}  // namespace onnxloss::cuda
