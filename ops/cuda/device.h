// SPDX-License-Identifier: MIT
// Threads, warps, blocks and clusters of a GPU, as thin as can be: in the device build every
// function is one intrinsic or two. tests/cpp/emulator.h has the same names for the host, where the
// tests run the kernels thread by thread.
#pragma once

// The namespace of the row maths in this build, see rows/math.h.
#define ONNXLOSS_TARGET cuda
#include "rows/math.h"

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#include <atomic>

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

// Keeps the compiler from remembering what it made of a word, which would take more registers than
// to make it again.
template <class Word>
ONNXLOSS_DEVICE void Forget(Word* word) {
  asm volatile("" : "+r"(*word));
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

// Runs kernel(arguments) on `blocks` times `threads`, in clusters of `cluster` blocks.
template <class Arguments>
const char* Launch(void (*kernel)(Arguments), int64_t blocks, int threads, int cluster,
                   Stream stream, const Arguments& arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = cluster > 1 ? 1 : 0;
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

// What the kernels that the current device runs were compiled for, as in sm_90. Where that is PTX
// for an older chip, they know nothing of clusters, whatever the device has.
template <class Arguments>
const char* Architecture(void (*kernel)(Arguments), int* architecture) {
  constexpr int kMostDevices = 64;
  static std::atomic<int> known[kMostDevices];  // 0 before the first call
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return TextOf(error);
  const bool keeps = device < kMostDevices;
  *architecture = keeps ? known[device].load(std::memory_order_relaxed) : 0;
  if (*architecture != 0) return nullptr;
  cudaFuncAttributes attributes = {};
  error = cudaFuncGetAttributes(&attributes, kernel);
  *architecture = attributes.ptxVersion;
  if (keeps && error == cudaSuccess) known[device].store(*architecture, std::memory_order_relaxed);
  return TextOf(error);
}

}  // namespace onnxloss::device

#else
#include "emulator.h"
#endif
