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
constexpr int64_t kManyRows = 4096;
constexpr int64_t kLongestShortRow = 128;  // vectors; with a cap, longer rows are streamed

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t BytesOfElement(const LossCall& call) {
  return BytesOf(static_cast<ElementType>(call.type));
}

// The whole ones of a row, at most.
int64_t VectorsOf(const LossCall& call) {
  return call.classes * BytesOfElement(call) / kVectorBytes;
}

// Whether visit(address) is true of all arrays of the shape of logits.
template <class Visitor>
bool OfAllArrays(const LossCall& call, Visitor visit) {
  const auto is = [&](const void* array) {
    return array == nullptr || visit(reinterpret_cast<uintptr_t>(array));
  };
  const bool probabilities = call.label_kind == static_cast<int64_t>(LabelKind::kProbabilities);
  return is(call.logits) && is(call.dlogits) && (!probabilities || is(call.labels));
}

bool AreAligned(const LossCall& call, uintptr_t bytes) {
  return OfAllArrays(call, [=](uintptr_t array) { return array % bytes == 0; });
}

// Whether a row begins on the same side of a boundary in all arrays.
bool HasVectors(const LossCall& call) {
  const uintptr_t side = reinterpret_cast<uintptr_t>(call.logits) % kVectorBytes;
  return OfAllArrays(call, [&](uintptr_t array) { return array % kVectorBytes == side; });
}

bool Fits(int64_t vectors, const Residence& residence, int cluster) {
  return vectors <= static_cast<int64_t>(residence.lanes) * residence.vectors * cluster;
}

// Rows that share a warp share the instructions that finish them; but a thread has more to do then,
// and of few rows there is nothing else to hide that.
bool IsForManyRows(const Residence& residence) {
  return residence.lanes < 32 && residence.vectors > 1;
}

Plan Resident(int64_t rows, int index, int cluster) {
  const Residence& residence = kResidences[index];
  const int64_t blocks = CeilDiv(rows * residence.lanes, residence.threads) * cluster;
  return {Path::kResident, index, blocks, residence.threads, cluster, 0, 1};
}

// Whether a thread has a row, moved by way of shared memory. There is no such kernel of float64.
bool IsPacked(const LossCall& call) {
  const int64_t bytes = BytesOfElement(call);
  return call.positions() >= kManyRows && bytes < 8 && call.classes * bytes <= kPackedBytes &&
         AreAligned(call, kVectorBytes);
}

Plan Packed(int64_t rows) {
  return {Path::kPacked, 0, CeilDiv(rows, kPackedThreads), kPackedThreads, 1, 1, 1};
}

Plan Streamed(int64_t rows) { return {Path::kStreamed, 0, rows, kStreamedThreads, 1, 0, 1}; }

// Whether two neighbouring positions always share a word of 32 bits.
bool HasPairs(const LossCall& call) {
  return BytesOfElement(call) == 2 && call.inner % 2 == 0 && AreAligned(call, 4);
}

// Neighbouring threads have neighbouring positions; several share a row that has more classes than
// one has room for. Not so many that a tile is narrower than the 32 bytes that move at once.
Plan PlanTiles(const LossCall& call, Path path, int across) {
  constexpr int64_t kSectorBytes = 32;
  const int64_t bytes = BytesOfElement(call) * across;
  const int64_t most = std::min<int64_t>(32, kStridedThreads * bytes / kSectorBytes);
  int lanes = call.inner == 1 ? 32 : 1;
  while (lanes < most && lanes * kTileClasses < call.classes) lanes *= 2;
  const int64_t blocks = CeilDiv(call.positions() / across * lanes, kStridedThreads);
  return {path, 0, blocks, kStridedThreads, 1, lanes, across};
}

Plan PlanStrided(const LossCall& call) {
  const bool pairs = call.softcap <= 0 && HasPairs(call);
  return PlanTiles(call, Path::kStrided, pairs ? 2 : 1);
}

Plan PlanLastAxis(const LossCall& call, int largest_cluster) {
  const int64_t vectors = VectorsOf(call);
  const int64_t rows = call.positions();
  if (!HasVectors(call)) return PlanStrided(call);
  // The arithmetic of a cap would take the registers of a resident row.
  if (call.softcap > 0 && vectors <= kLongestShortRow) return PlanStrided(call);
  if (call.softcap > 0) return Streamed(rows);
  if (IsPacked(call)) return Packed(rows);
  const bool is_long = vectors > kLongestLoadedAtOnce && rows > kFewRows;
  if (call.dlogits == nullptr && is_long) return Streamed(rows);
  // Small blocks in a cluster go before a large one: of those, more share a multiprocessor, and
  // while one waits for memory another computes.
  const int largest = largest_cluster < kLargestCluster ? largest_cluster : kLargestCluster;
  for (int i = 0; i < kNumResidences; ++i) {
    if (IsForManyRows(kResidences[i]) && rows < kManyRows) continue;
    const int most = i >= kFirstInClusters ? largest : 1;
    for (int cluster = 1; cluster <= most; cluster *= 2) {
      if (Fits(vectors, kResidences[i], cluster)) return Resident(rows, i, cluster);
    }
  }
  return Streamed(rows);
}

}  // namespace

Plan PlanFor(const LossCall& call, int largest_cluster) {
  if (call.positions() == 0) return {Path::kNothing, 0, 0, 0, 1, 0, 1};
  if (call.from_logits == 0) return PlanTiles(call, Path::kProbabilities, 1);
  if (call.inner > 1) return PlanStrided(call);
  return PlanLastAxis(call, largest_cluster);
}

Plan PlanForLabelGradients(const LossCall& call) { return PlanTiles(call, Path::kStrided, 1); }

int64_t SumBlocks(int64_t count) {
  constexpr int64_t kPerBlock = int64_t{kWeighedAtOnce} * kSumThreads;
  const int64_t blocks = CeilDiv(count, kPerBlock);
  return blocks < kMostSumBlocks ? (blocks > 0 ? blocks : 1) : kMostSumBlocks;
}

int WeighLanes(const LossCall& call) {
  const bool reads_rows = call.label_kind == static_cast<int64_t>(LabelKind::kProbabilities) &&
                          call.class_weights_positions != 0;
  return reads_rows ? 32 : 1;
}

}  // namespace onnxloss::cuda
