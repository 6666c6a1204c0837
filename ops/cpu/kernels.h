// SPDX-License-Identifier: MIT
// What the glue asks of the CPU kernels: plain data and one table of functions per instruction set.
#pragma once

#include <cstdint>

namespace onnxloss {

// The numbers are ONNX's own (TensorProto.DataType).
enum class ElementType : int { kFloat32 = 1, kFloat16 = 10, kFloat64 = 11, kBFloat16 = 16 };
constexpr int64_t BytesOf(ElementType type) {
  if (type == ElementType::kFloat64) return 8;
  return type == ElementType::kFloat32 ? 4 : 2;
}
enum class LabelKind : int { kIndex32, kIndex64, kProbabilities };
// The ignore_index of a problem that ignores no label: as a label it is bad like any other that is
// no class.
constexpr int64_t kNoIgnoredLabel = INT64_MIN;
// What becomes of probabilities: they are divided by their sum before or after they are clipped.
enum class Normalize : int { kNone, kBeforeClip, kAfterClip };
// What the denominator of a mean adds up.
enum class MeanOver : int { kWeights, kPositions, kValid, kNonzero };

// One call of an operator. `logits` is [outer, classes, inner]; a position is an (outer, inner)
// pair in row-major order, and there are outer * inner of them. S is the accumulator's type.
struct LossProblem {
  ElementType type;
  LabelKind label_kind;
  int64_t outer;
  int64_t classes;
  int64_t inner;
  double label_smoothing;
  int64_t ignore_index;
  const void* logits;   // T [outer, classes, inner]
  const void* labels;   // indices [outer, inner], or T as logits
  bool from_logits;     // else `logits` are probabilities
  Normalize normalize;  // of probabilities
  double epsilon;       // where they are clipped: to [epsilon, 1 - epsilon]
  double z_loss;
  double softcap;                // 0 for none
  const void* class_weights;     // S [classes], or null for ones
  double total_weight;           // sum of the class weights, `classes` without
  const void* sample_weights;    // S [positions], or null for ones
  bool class_weights_positions;  // they weigh positions, not the terms of their classes
  MeanOver mean_over;
  void* position_weights;  // S [positions], or null where nothing weighs positions
  const void* dloss;       // S: one number, or one per position; null without gradient
  bool dloss_per_position;
  double denominator;      // what dloss is divided by
  void* loss;              // S [positions], or null where only the sum is wanted
  void* lse;               // S [positions], or null
  double* partial_losses;  // one per positions_per_partial positions, zero at first, or null
  int64_t positions_per_partial;
  void* dlogits;  // T as logits, or null
  void* dlabels;  // T as labels, or null; with probabilities whose class weights weigh classes
  bool stream;    // write dlogits past the caches
};

// Labels of positions [first, last): their share of the denominator of a mean, and the first
// position whose label is neither a class nor ignored, or -1.
struct LabelScan {
  double weight;
  int64_t first_bad;
};

struct CpuKernels {
  const char* instruction_set;
  // Writes the position weights too.
  void (*scan_labels)(const LossProblem& problem, int64_t first, int64_t last, LabelScan* scan);
  // Loss and gradient of positions [first, last), a task as cut by PositionsPerTask.
  void (*run)(const LossProblem& problem, int64_t first, int64_t last);
};

// The kernels for this machine, or those that SetInstructionSet asked for.
const CpuKernels& Kernels();
// "v2", "v3", "v4" ("baseline" off x86-64), or "auto"; false, and no change, where this machine
// cannot run it. Meant for tests and benchmarks.
bool SetInstructionSet(const char* name);

// How many losses are summed before their sum joins that of the others: from the layout of a row
// alone, so that a reduced loss has the same bits however the work is cut.
int64_t PositionsPerPartial(int64_t classes, int64_t inner);
// How positions are cut into tasks, in whole partial sums.
int64_t PositionsPerTask(int64_t classes, int64_t inner, int64_t positions);
// Tasks of the pass over labels and weights.
int64_t PositionsPerScan(const LossProblem& problem);

// Rows no shorter than this are summed one by one, shorter ones many at a time.
constexpr int64_t kSmallestLongRow = 320;
// Rows of no more classes are turned on their side.
constexpr int64_t kFewClasses = 15;
// Positions that a tile handles side by side.
constexpr int64_t kTileLanes = 128;
// Where the class axis is not the last, classes are numbered in 32 bits, one of which is no class.
constexpr int64_t kMostInnerClasses = UINT32_MAX;

}  // namespace onnxloss
