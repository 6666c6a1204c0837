// SPDX-License-Identifier: MIT
#include "cuda/plan.h"

#include <algorithm>

namespace onnxloss::cuda {
namespace {

constexpr int64_t kVectorBytes = 16;
// A loss alone is streamed, but for rows of which a block has no more than it loads at once, and
// where so few rows would leave the chip idle.
constexpr int64_t kLongestLoadedAtOnce = int64_t{kStreamedThreads} * kStreamedVectors;
constexpr int64_t kFewRows = 256;
constexpr int64_t kLongestShortRow = 128;  // vectors; with a cap, longer rows are streamed

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Vectors that a row touches, however it lies.
int64_t VectorsOf(const LossCall& call) {
  const int64_t bytes = BytesOf(static_cast<ElementType>(call.type));
  const int64_t row = call.classes * bytes;
  const bool aligned =
      row % kVectorBytes == 0 && reinterpret_cast<uintptr_t>(call.logits) % kVectorBytes == 0;
  return CeilDiv(row + (aligned ? 0 : kVectorBytes - bytes), kVectorBytes);
}

bool Fits(int64_t vectors, const Residence& residence, int cluster) {
  return vectors <= static_cast<int64_t>(residence.lanes) * residence.vectors * cluster;
}

Plan Resident(int64_t rows, int index, int cluster) {
  const Residence& residence = kResidences[index];
  const int64_t blocks = CeilDiv(rows * residence.lanes, residence.threads) * cluster;
  return {Path::kResident, index, blocks, residence.threads, cluster, 0};
}

Plan Streamed(int64_t rows) { return {Path::kStreamed, 0, rows, kStreamedThreads, 1, 0}; }

// Neighbouring threads have neighbouring positions; more than one of them share a row where the
// positions alone would leave the chip idle, or the row is long. Not so many that a tile is
// narrower than the 32 bytes that move at once.
Plan PlanTiles(const LossCall& call, Path path) {
  constexpr int64_t kEnoughPositions = 1 << 17;
  constexpr int64_t kClassesPerLane = 16;
  constexpr int64_t kSectorBytes = 32;
  const int64_t bytes = BytesOf(static_cast<ElementType>(call.type));
  const bool many = call.positions() >= kEnoughPositions;
  const int64_t most = many ? 4 : std::min<int64_t>(32, kStridedThreads * bytes / kSectorBytes);
  int lanes = call.inner == 1 ? 32 : 1;
  while (lanes < most && lanes * kClassesPerLane < call.classes) lanes *= 2;
  const int64_t blocks = CeilDiv(call.positions() * lanes, kStridedThreads);
  return {path, 0, blocks, kStridedThreads, 1, lanes};
}

Plan PlanLastAxis(const LossCall& call, int largest_cluster) {
  const int64_t vectors = VectorsOf(call);
  const int64_t rows = call.positions();
  // The arithmetic of a cap would take the registers of a resident row.
  if (call.softcap > 0 && vectors <= kLongestShortRow) return PlanTiles(call, Path::kStrided);
  if (call.softcap > 0) return Streamed(rows);
  const bool is_long = vectors > kLongestLoadedAtOnce && rows > kFewRows;
  if (call.dlogits == nullptr && is_long) return Streamed(rows);
  // Small blocks in a cluster go before a large one: of those, several share a multiprocessor, and
  // while one waits for memory another computes.
  const int largest = largest_cluster < kLargestCluster ? largest_cluster : kLargestCluster;
  for (int i = 0; i < kNumResidences; ++i) {
    const int most = i >= kFirstInClusters ? largest : 1;
    for (int cluster = 1; cluster <= most; cluster *= 2) {
      if (Fits(vectors, kResidences[i], cluster)) return Resident(rows, i, cluster);
    }
  }
  return Streamed(rows);
}

}  // namespace

Plan PlanFor(const LossCall& call, int largest_cluster) {
  if (call.positions() == 0) return {Path::kNothing, 0, 0, 0, 1, 0};
  if (call.from_logits == 0) return PlanTiles(call, Path::kProbabilities);
  if (call.inner > 1) return PlanTiles(call, Path::kStrided);
  return PlanLastAxis(call, largest_cluster);
}

Plan PlanForLabelGradients(const LossCall& call) { return PlanTiles(call, Path::kStrided); }

int64_t SumBlocks(int64_t count) {
  constexpr int64_t kPerBlock = int64_t{8} * kSumThreads;
  const int64_t blocks = CeilDiv(count, kPerBlock);
  return blocks < kMostSumBlocks ? (blocks > 0 ? blocks : 1) : kMostSumBlocks;
}

int WeighLanes(const LossCall& call) {
  const bool reads_rows = call.label_kind == static_cast<int64_t>(LabelKind::kProbabilities) &&
                          call.class_weights_positions != 0;
  return reads_rows ? 32 : 1;
}

}  // namespace onnxloss::cuda
