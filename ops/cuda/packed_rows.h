// SPDX-License-Identifier: MIT
// Rows of few classes: a block moves those of its threads, as vectors that rows share, by way of
// its shared memory, where each thread has a row of its own. What finishes a row would take most of
// the time if several threads did it.
#pragma once

#include "cuda/strided_rows.h"

namespace onnxloss::cuda {

// The rows of a block's threads, one after the other as in the arrays. Between rows that many of a
// warp would find in the same banks there is a vector more.
template <class T, class Row>
struct PackedTile {
  static constexpr int kBytes = kPackedThreads * (kPackedBytes + 16);
  static constexpr int kElements = kBytes / static_cast<int>(sizeof(T));

  alignas(16) T logits[kElements];  // and dlogits in their place
  alignas(16) T labels[Row::kHasTarget ? 1 : kElements];
};

// Where a block's rows, so many, are in its tile.
template <class T>
struct PackedRowsOf {
  static constexpr int kVectors = kPackedBytes / 16;  // of a thread, at most

  int classes;
  int elements;         // of all rows
  bool is_spaced;       // there is a vector between them
  uint32_t per_vector;  // row of vector v: v * per_vector >> 32, where they are spaced

  ONNXLOSS_DEVICE PackedRowsOf(int64_t given, int rows)
      : classes(static_cast<int>(given)),
        elements(rows * classes),
        is_spaced(classes * static_cast<int>(sizeof(T)) % 32 == 0),
        per_vector(is_spaced ? ~0u / static_cast<uint32_t>(classes / kWidth<T>) + 1 : 0) {}

  ONNXLOSS_DEVICE int FirstOf(int row) const {
    return row * (classes + (is_spaced ? kWidth<T> : 0));
  }
  // Calls visit(i, place, place in the tile) for each vector of a thread.
  template <class Visitor>
  ONNXLOSS_DEVICE void ForVectors(Visitor visit) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int vector = i * kPackedThreads + device::ThreadIndex();
      if ((vector + 1) * kWidth<T> > elements) break;
      const auto row = static_cast<int>(uint64_t{per_vector} * static_cast<uint32_t>(vector) >> 32);
      visit(i, vector * kWidth<T>, (vector + row) * kWidth<T>);
    }
  }
  // Calls visit(place) for the elements behind the last vector. Spaced rows have none.
  template <class Visitor>
  ONNXLOSS_DEVICE void ForRest(Visitor visit) const {
    const int place = elements / kWidth<T> * kWidth<T> + device::ThreadIndex();
    if (place < elements) visit(place);
  }

  // All vectors on their way at once.
  ONNXLOSS_DEVICE void Read(const T* from, T* tile) const {
    device::Bytes16 vectors[kVectors];
    ForVectors([&](int i, int place, int) { vectors[i] = device::LoadOnce(from + place); });
    ForVectors([&](int i, int, int place) {
      *reinterpret_cast<device::Bytes16*>(tile + place) = vectors[i];
    });
    ForRest([&](int place) { tile[place] = from[place]; });
  }
  ONNXLOSS_DEVICE void Write(const T* tile, T* to) const {
    ForVectors([&](int, int place, int in_tile) {
      device::StoreOnce(to + place, *reinterpret_cast<const device::Bytes16*>(tile + in_tile));
    });
    ForRest([&](int place) { to[place] = tile[place]; });
  }
};

// A thread's row in its block's tile.
template <class T, class Row>
struct RowInTile {
  using Place = int;
  PackedTile<T, Row>& tile;
  const Place first;

  ONNXLOSS_DEVICE const T* logits() const { return tile.logits; }
  ONNXLOSS_DEVICE const T* probabilities() const { return tile.labels; }
  ONNXLOSS_DEVICE T* dlogits() const { return tile.logits; }
  ONNXLOSS_DEVICE static constexpr Place inner() { return 1; }
};

// Dense coefficients, and labels beside the logits, take registers.
template <class Row>
constexpr int PackedBlocksAtOnce() {
  if (!Row::kHasTarget) return 4;
  return Row::kDense ? 5 : 6;
}

// logits are [outer, C], and begin on a boundary of 16 bytes.
template <class T, class Row>
ONNXLOSS_KERNEL(kPackedThreads, PackedBlocksAtOnce<Row>())
PackedRows(const Arguments arguments) {
  device::StartNext();
  const Problem<T, Row> problem(arguments);
  const int thread = device::ThreadIndex();
  const int64_t first = device::BlockIndex() * kPackedThreads;
  const int64_t left = problem.call.outer - first;
  const int count = left < kPackedThreads ? static_cast<int>(left) : kPackedThreads;
  const bool has_row = thread < count;
  const TileSeat seat = {first + (has_row ? thread : 0), thread, kPackedThreads, 0, 1};
  const Label<Accumulator<T>> labels[1] = {problem.LabelOf(seat.position)};

  auto& tile = device::Shared<PackedTile<T, Row>>();
  const PackedRowsOf<T> rows(problem.call.classes, count);
  const int64_t begin = first * problem.call.classes;
  rows.Read(problem.logits() + begin, tile.logits);
  if constexpr (!Row::kHasTarget) rows.Read(problem.probabilities() + begin, tile.labels);
  device::SyncBlock();  // every row is in the tile
  const RowInTile<T, Row> row = {tile, rows.FirstOf(thread)};
  RunTile<Cap::kNone>(problem, seat, has_row, row, labels);
  if (problem.call.dlogits == nullptr) return;
  device::SyncBlock();  // every row has become its gradient
  rows.Write(tile.logits, problem.dlogits() + begin);
}

}  // namespace onnxloss::cuda
