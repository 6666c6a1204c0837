// SPDX-License-Identifier: MIT
// Launches of one call, on one stream, and its scratch memory.
#pragma once

#include "cuda/plan.h"
#include "cuda/sums.h"

namespace onnxloss::cuda {

// Cuts parts out of a piece of memory, each aligned; counts only where there is none.
struct Scratch {
  char* base;
  int64_t bytes = 0;

  explicit Scratch(void* memory) : base(static_cast<char*>(memory)) {}

  void* Take(bool wanted, int64_t size) {
    constexpr int64_t kAlignment = 256;
    if (!wanted) return nullptr;
    void* place = base == nullptr ? nullptr : base + bytes;
    bytes += (size + kAlignment - 1) / kAlignment * kAlignment;
    return place;
  }
};

// The first failure stops what follows.
class Queue {
 public:
  // `wide`: S is double. `partials` has room for kMostSumBlocks.
  Queue(device::Stream stream, bool wide, double* partials)
      : stream_(stream), wide_(wide), partials_(partials) {}

  const char* failure() const { return failure_; }
  void Check(const char* failure) {
    if (failure_ == nullptr) failure_ = failure;
  }

  // From here on a launch may begin before the one that was started before it has ended.
  void LetOverlap() { overlaps_ = true; }

  template <class Given>
  void Start(void (*kernel)(Given), const device::Grid& grid, const Given& given) {
    constexpr int64_t kMostBlocks = (int64_t{1} << 31) - 1;
    if (grid.blocks > kMostBlocks) Check("more positions than a grid of blocks has room for");
    if (failure_ == nullptr) {
      // The first may not: what others launched says nothing of its end.
      Check(device::Launch(kernel, grid, overlaps_ && started_, stream_, given));
    }
    started_ = true;
  }

  // Of what must be done anew each time.
  void RefuseCapture() {
    bool captured = false;
    Check(device::IsCaptured(stream_, &captured));
    if (captured) Check("seed is 0; expected another in a CUDA graph, which cannot draw anew");
  }

  // Where there is something to copy, and a place for it.
  void Copy(void* to, const void* from, int64_t bytes) {
    if (failure_ != nullptr || to == nullptr || bytes == 0) return;
    Check(device::Copy(to, from, bytes, stream_));
  }

  // The sum of S `values`.
  void SumTo(const SumTarget& target, const void* values, int64_t count) {
    const int64_t blocks = SumBlocks(count);
    SumTarget first = target;
    if (blocks > 1) first.partials = partials_;
    Start(wide_ ? Sum<double, double> : Sum<float, float>, {blocks, kSumThreads, 1},
          SumArguments{values, count, first});
    if (blocks > 1) SumPartials(target, blocks);
  }

  // The sum of `count` partial sums, in their memory already.
  void SumPartials(const SumTarget& target, int64_t count) {
    Start(wide_ ? Sum<double, double> : Sum<double, float>, {1, kSumThreads, 1},
          SumArguments{partials_, count, target});
  }

 private:
  const device::Stream stream_;
  const bool wide_;
  double* const partials_;
  bool overlaps_ = false;
  bool started_ = false;
  const char* failure_ = nullptr;
};

}  // namespace onnxloss::cuda
