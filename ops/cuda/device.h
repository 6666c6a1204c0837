// SPDX-License-Identifier: MIT
// Threads, warps, blocks and clusters of a GPU, as thin as can be: in the device build every
// function is one intrinsic or two. tests/cpp/emulator.h has the same names for the host, where the
// tests run the kernels thread by thread.
#pragma once

// The namespace of the row maths in this build, see rows/math.h.
#define ONNXLOSS_TARGET cuda
#include "rows/math.h"

namespace onnxloss::device {

// Of a launch: blocks, threads of a block, and blocks of a cluster.
struct Grid {
  int64_t blocks;
  int threads;
  int cluster;
};

}  // namespace onnxloss::device

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#include <atomic>
#include <type_traits>

// Threads of a block and, where the kernel says it, how many blocks must fit a multiprocessor.
#define ONNXLOSS_KERNEL(...) __global__ void __launch_bounds__(__VA_ARGS__)
#define ONNXLOSS_DEVICE __device__ __forceinline__

namespace onnxloss::device {

struct alignas(16) Bytes16 {
  uint32_t words[4];
};

ONNXLOSS_DEVICE int ThreadIndex() { return static_cast<int>(threadIdx.x); }
ONNXLOSS_DEVICE int BlockThreads() { return static_cast<int>(blockDim.x); }
ONNXLOSS_DEVICE int64_t BlockIndex() { return blockIdx.x; }
ONNXLOSS_DEVICE int64_t GridBlocks() { return gridDim.x; }

// Shuffled, which shows the compiler that a warp's lanes have the same.
ONNXLOSS_DEVICE int WarpIndex() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
}

// All threads of the block, with what they wrote.
ONNXLOSS_DEVICE void SyncBlock() { __syncthreads(); }

// All 32 lanes take part.
template <class Value>
ONNXLOSS_DEVICE Value ShuffleXor(Value value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// One object per block and per type.
template <class Value>
ONNXLOSS_DEVICE Value& Shared() {
  __shared__ alignas(16) char storage[sizeof(Value)];
  return *reinterpret_cast<Value*>(storage);
}

// Clusters of blocks came with sm_90; before, each block is a cluster of its own.
ONNXLOSS_DEVICE int ClusterBlocks() {
#if __CUDA_ARCH__ >= 900
  return static_cast<int>(__clusterSizeInBlocks());
#else
  return 1;
#endif
}

ONNXLOSS_DEVICE int ClusterRank() {
#if __CUDA_ARCH__ >= 900
  return static_cast<int>(__clusterRelativeBlockRank());
#else
  return 0;
#endif
}

ONNXLOSS_DEVICE int64_t ClusterIndex() {
#if __CUDA_ARCH__ >= 900
  if (ClusterBlocks() > 1) return __clusterIdx().x;
#endif
  return BlockIndex();
}

// All threads of the cluster, with what they wrote.
ONNXLOSS_DEVICE void SyncCluster() {
#if __CUDA_ARCH__ >= 900
  if (ClusterBlocks() > 1) {
    __cluster_barrier_arrive();
    __cluster_barrier_wait();
    return;
  }
#endif
  SyncBlock();
}

// A barrier of the cluster in two halves, which orders nothing that was written: a block that may
// be read by others stays until all threads have arrived.
ONNXLOSS_DEVICE void ArriveAtCluster() {
#if __CUDA_ARCH__ >= 900
  if (ClusterBlocks() > 1) __cluster_barrier_arrive_relaxed();
#endif
}
ONNXLOSS_DEVICE void AwaitCluster() {
#if __CUDA_ARCH__ >= 900
  if (ClusterBlocks() > 1) __cluster_barrier_wait();
#endif
}

// Launches of one call may overlap, from sm_90 on: the next one's blocks may begin as soon as all
// blocks of this one have said so, and wait for its end before they touch what it writes.
ONNXLOSS_DEVICE void StartNext() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
ONNXLOSS_DEVICE void AwaitPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The object of another block of the cluster that lies where `own` lies in this one.
template <class Value>
ONNXLOSS_DEVICE const Value& InBlock(const Value& own, int rank) {
#if __CUDA_ARCH__ >= 900
  return *static_cast<const Value*>(
      __cluster_map_shared_rank(const_cast<Value*>(&own), static_cast<unsigned>(rank)));
#else
  return own;
#endif
}

// What is read once need not stay in the caches; what no one writes meanwhile may take the
// read-only path.
ONNXLOSS_DEVICE Bytes16 LoadOnce(const void* from) {
  const uint4 v = __ldcs(static_cast<const uint4*>(from));
  return {{v.x, v.y, v.z, v.w}};
}
ONNXLOSS_DEVICE Bytes16 Load(const void* from) {
  const uint4 v = __ldg(static_cast<const uint4*>(from));
  return {{v.x, v.y, v.z, v.w}};
}
ONNXLOSS_DEVICE void StoreOnce(void* to, const Bytes16& bytes) {
  __stcs(static_cast<uint4*>(to),
         make_uint4(bytes.words[0], bytes.words[1], bytes.words[2], bytes.words[3]));
}

// exp(x) for x <= 0 or nan by the special-function unit: error 2^-22 + |x| 2^-24 relative, results
// below 2^-126 become 0. Enough where what comes of it is rounded to 16 bits, and the terms of a
// sum shrink as their errors grow.
ONNXLOSS_DEVICE float ExpApproximate(float x) {
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * 0x1.715476p+0f));
  return e;
}
// Max error 2 ulp.
ONNXLOSS_DEVICE float ExpExact(float x) { return ::expf(x); }

// Two numbers of 16 bits in one register, the first in its low half.
template <class T>
struct Pair {
  uint32_t bits;
};

// The greater and the lesser of `best`, which is no nan, and x. A nan is the lesser. Those of pairs
// are of each with its like.
ONNXLOSS_DEVICE double Greater(double best, double x) { return x > best ? x : best; }
ONNXLOSS_DEVICE double Lesser(double best, double x) { return x > best ? best : x; }
ONNXLOSS_DEVICE float Greater(float best, float x) { return ::fmaxf(best, x); }
ONNXLOSS_DEVICE float Lesser(float best, float x) {
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(best) : "f"(x));
  return best;
}
template <class T>
ONNXLOSS_DEVICE Pair<T> Greater(Pair<T> best, Pair<T> x) {
  if constexpr (std::is_same_v<T, cuda::Half>) {
    asm("max.f16x2 %0, %0, %1;" : "+r"(best.bits) : "r"(x.bits));
  } else {
    asm("max.bf16x2 %0, %0, %1;" : "+r"(best.bits) : "r"(x.bits));
  }
  return best;
}
template <class T>
ONNXLOSS_DEVICE Pair<T> Lesser(Pair<T> best, Pair<T> x) {
  if constexpr (std::is_same_v<T, cuda::Half>) {
    asm("min.NaN.f16x2 %0, %0, %1;" : "+r"(best.bits) : "r"(x.bits));
  } else {
    asm("min.NaN.bf16x2 %0, %0, %1;" : "+r"(best.bits) : "r"(x.bits));
  }
  return best;
}

// Keeps the compiler from remembering what it made of a value, which would take more registers than
// to make it again; or from making the value anew, which would take more instructions than to keep
// it.
template <class Value>
ONNXLOSS_DEVICE void Forget(Value* value) {
  if constexpr (sizeof(Value) == 4) asm volatile("" : "+r"(*value));
  if constexpr (sizeof(Value) == 8) asm volatile("" : "+l"(*value));
}

ONNXLOSS_DEVICE float Widen(uint16_t half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}
// Two numbers in one word, the first in its low half; round to nearest even.
ONNXLOSS_DEVICE uint32_t NarrowToHalves(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
ONNXLOSS_DEVICE uint32_t NarrowToBFloat16s(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

using Stream = cudaStream_t;

// Null, or what went wrong.
inline const char* TextOf(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <class Arguments>
const char* AllowAnyCluster(void (*kernel)(Arguments)) {
  return TextOf(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
}

// What every chip with clusters has; a kernel asks for more.
constexpr int kPortableCluster = 8;

// Runs kernel(arguments); `overlaps`: with the launch before, for which the kernel waits.
template <class Arguments>
const char* Launch(void (*kernel)(Arguments), const Grid& grid, bool overlaps, Stream stream,
                   const Arguments& arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (grid.cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(grid.cluster);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
  }
  if (overlaps) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (grid.cluster > kPortableCluster) {
    const char* failure = AllowAnyCluster(kernel);
    if (failure != nullptr) return failure;
  }
  return TextOf(cudaLaunchKernelEx(&config, kernel, arguments));
}

// Within the GPU's memory, or to it from the host's, which is read before this returns, and again
// whenever a graph runs that captured it.
inline const char* Copy(void* to, const void* from, int64_t bytes, Stream stream) {
  return TextOf(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream));
}

inline const char* IsCaptured(Stream stream, bool* captured) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(stream, &status);
  *captured = status != cudaStreamCaptureStatusNone;
  return TextOf(error);
}

// The most blocks, of `most`, that a cluster of this kernel can have. Where it was compiled as PTX
// for an older chip, it knows nothing of clusters, whatever the device has.
template <class Arguments>
const char* FindLargestCluster(void (*kernel)(Arguments), int threads, int most, int* blocks) {
  constexpr int kFirstWithClusters = 90;  // as in sm_90
  *blocks = 1;
  cudaFuncAttributes attributes = {};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess || attributes.ptxVersion < kFirstWithClusters) return TextOf(error);
  const char* failure = AllowAnyCluster(kernel);
  if (failure != nullptr) return failure;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(most));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  return TextOf(cudaOccupancyMaxPotentialClusterSize(blocks, kernel, &config));
}

// The same of the current device, found once: of its first kernel.
template <class Arguments>
const char* LargestCluster(void (*kernel)(Arguments), int threads, int most, int* blocks) {
  constexpr int kMostDevices = 64;
  static std::atomic<int> known[kMostDevices];  // 0 before the first call
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return TextOf(error);
  const bool keeps = device < kMostDevices;
  *blocks = keeps ? known[device].load(std::memory_order_relaxed) : 0;
  if (*blocks != 0) return nullptr;
  const char* failure = FindLargestCluster(kernel, threads, most, blocks);
  if (keeps && failure == nullptr) known[device].store(*blocks, std::memory_order_relaxed);
  return failure;
}

}  // namespace onnxloss::device

#else
#include "emulator.h"
#endif
