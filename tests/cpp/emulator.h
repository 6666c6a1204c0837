// SPDX-License-Identifier: MIT
// The names of ops/cuda/device.h for the host: the threads of a cluster are fibers, which take
// turns wherever they meet. A barrier that some threads never reach ends the program with a
// message.
#pragma once

#include <math.h>

#include <cstddef>
#include <cstring>
#include <functional>

#define ONNXLOSS_KERNEL(...) void
#define ONNXLOSS_DEVICE inline

namespace onnxloss::device {

struct alignas(16) Bytes16 {
  uint32_t words[4];
};

namespace emulator {

constexpr size_t kMostShared = 48 << 10;    // of one object: as much as every GPU has
constexpr size_t kSharedBytes = 768 << 10;  // a place for every type of every kernel

struct Thread {
  int index;
  int block_threads;
  int64_t block;
  int64_t blocks;
  int cluster_rank;
  int cluster_blocks;
  char* shared;  // of its block; those of the cluster's blocks follow one another
};

const Thread& Current();
// Where a type's objects lie in the shared memory of any block.
size_t ReserveShared(size_t size);
void SyncBlock();
void SyncCluster();
void ArriveAtCluster();
void AwaitCluster();
// Gives every lane of the warp the value of lane ^ mask.
void Exchange(void* value, size_t size, int mask);
void Run(int64_t blocks, int threads, int cluster, const std::function<void()>& kernel);

}  // namespace emulator

inline int ThreadIndex() { return emulator::Current().index; }
inline int WarpIndex() { return ThreadIndex() / 32; }
inline int BlockThreads() { return emulator::Current().block_threads; }
inline int64_t BlockIndex() { return emulator::Current().block; }
inline int64_t GridBlocks() { return emulator::Current().blocks; }
inline int ClusterBlocks() { return emulator::Current().cluster_blocks; }
inline int ClusterRank() { return emulator::Current().cluster_rank; }
inline int64_t ClusterIndex() { return BlockIndex() / ClusterBlocks(); }
inline void SyncBlock() { emulator::SyncBlock(); }
inline void SyncCluster() { emulator::SyncCluster(); }
inline void ArriveAtCluster() { emulator::ArriveAtCluster(); }
inline void AwaitCluster() { emulator::AwaitCluster(); }
// Each launch has ended before the next.
inline void StartNext() {}
inline void AwaitPrevious() {}

template <class Value>
Value ShuffleXor(Value value, int mask) {
  emulator::Exchange(&value, sizeof(value), mask);
  return value;
}

template <class Value>
Value& Shared() {
  static_assert(sizeof(Value) <= emulator::kMostShared, "too much for one block");
  static const size_t place = emulator::ReserveShared(sizeof(Value));
  return *reinterpret_cast<Value*>(emulator::Current().shared + place);
}

template <class Value>
const Value& InBlock(const Value& own, int rank) {
  const std::ptrdiff_t blocks = rank - ClusterRank();
  const std::ptrdiff_t bytes = blocks * static_cast<std::ptrdiff_t>(emulator::kSharedBytes);
  return *reinterpret_cast<const Value*>(reinterpret_cast<const char*>(&own) + bytes);
}

// Typed accesses, so that the sanitizers see them.
inline Bytes16 Load(const void* from) { return *static_cast<const Bytes16*>(from); }
inline Bytes16 LoadOnce(const void* from) { return Load(from); }
inline void StoreOnce(void* to, const Bytes16& bytes) { *static_cast<Bytes16*>(to) = bytes; }

inline float ExpApproximate(float x) { return ::exp2f(x * 0x1.715476p+0f); }
inline float ExpExact(float x) { return ::expf(x); }
inline float Widen(uint16_t half) { return cuda::ToFloat(cuda::Half{half}); }
template <class T>
uint32_t NarrowPair(float low, float high) {
  return uint32_t{cuda::FromFloat<T>(low).bits} | uint32_t{cuda::FromFloat<T>(high).bits} << 16;
}
inline uint32_t NarrowToHalves(float low, float high) { return NarrowPair<cuda::Half>(low, high); }
inline uint32_t NarrowToBFloat16s(float low, float high) {
  return NarrowPair<cuda::BFloat16>(low, high);
}
template <class Value>
void Forget(Value*) {}

template <class T>
struct Pair {
  uint32_t bits;
};
inline double Greater(double best, double x) { return x > best ? x : best; }
inline double Lesser(double best, double x) { return x > best ? best : x; }
inline float Greater(float best, float x) { return x > best ? x : best; }
inline float Lesser(float best, float x) { return x > best ? best : x; }
// Of each number of a pair.
template <class T>
Pair<T> OfEach(float (*function)(float, float), Pair<T> a, Pair<T> b) {
  const auto of = [&](int shift) {
    const auto at = [&](Pair<T> pair) {
      return cuda::ToFloat(T{static_cast<uint16_t>(pair.bits >> shift)});
    };
    return function(at(a), at(b));
  };
  return {NarrowPair<T>(of(0), of(16))};
}
template <class T>
Pair<T> Greater(Pair<T> best, Pair<T> x) {
  return OfEach<T>(Greater, best, x);
}
template <class T>
Pair<T> Lesser(Pair<T> best, Pair<T> x) {
  return OfEach<T>(Lesser, best, x);
}

using Stream = void*;

template <class Arguments>
const char* Launch(void (*kernel)(Arguments), const Grid& grid, bool, Stream,
                   const Arguments& arguments) {
  emulator::Run(grid.blocks, grid.threads, grid.cluster, [&] { kernel(arguments); });
  return nullptr;
}

inline const char* Copy(void* to, const void* from, int64_t bytes, Stream) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
  return nullptr;
}

// The tests choose these.
int ChosenLargestCluster();
bool ChosenCapture();

inline const char* IsCaptured(Stream, bool* captured) {
  *captured = ChosenCapture();
  return nullptr;
}

template <class Arguments>
const char* LargestCluster(void (*)(Arguments), int, int, int* blocks) {
  *blocks = ChosenLargestCluster();
  return nullptr;
}

}  // namespace onnxloss::device
