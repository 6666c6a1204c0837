// SPDX-License-Identifier: MIT
// CUDA's runtime without a GPU: what nvcc's code and ops/cuda call of it, over ptx.h. It stands in
// the place of cudart, so that the kernels' launches run as they are.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <unordered_map>

#include "ptx.h"

namespace {

using onnxloss::ptx::Kernel;
using onnxloss::ptx::Module;

constexpr int kPortableCluster = 8;

struct Function {
  Module* module;
  std::string name;
  bool any_cluster = false;
};

std::unordered_map<const void*, Function>& Functions() {
  static std::unordered_map<const void*, Function> functions;
  return functions;
}

int chosen_largest_cluster = 16;
bool chosen_capture = false;
onnxloss::ptx::Traffic traffic;
std::vector<onnxloss::ptx::Area> areas;
std::string last_failure;

// Of the launch, or null.
const cudaLaunchAttributeValue* Attribute(const cudaLaunchConfig_t& config,
                                          cudaLaunchAttributeID id) {
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    if (config.attrs[i].id == id) return &config.attrs[i].val;
  }
  return nullptr;
}

void LaunchKernel(const cudaLaunchConfig_t& config, const void* function, void** arguments) {
  const Function& launched = Functions().at(function);
  const Kernel& kernel = launched.module->Find(launched.name);
  const auto refuse = [&](const char* what) {
    throw std::runtime_error(kernel.name + " is launched " + what);
  };
  const auto* dimension = Attribute(config, cudaLaunchAttributeClusterDimension);
  const unsigned cluster = dimension == nullptr ? 1 : dimension->clusterDim.x;
  const bool overlaps =
      Attribute(config, cudaLaunchAttributeProgrammaticStreamSerialization) != nullptr;
  const unsigned blocks = config.gridDim.x;
  const unsigned threads = config.blockDim.x;
  if (blocks == 0 || threads == 0) refuse("with no threads");
  if (threads > static_cast<unsigned>(kernel.threads)) refuse("with more threads than it allows");
  if (cluster == 0 || blocks % cluster != 0) refuse("with blocks that make no whole clusters");
  if (cluster > static_cast<unsigned>(chosen_largest_cluster)) refuse("in too large clusters");
  if (cluster > kPortableCluster && !launched.any_cluster) {
    refuse("in clusters that it has not been allowed");
  }
  if (overlaps && chosen_largest_cluster == 1) refuse("as only newer chips can");
  if (config.dynamicSmemBytes != 0) refuse("with dynamic shared memory");
  const onnxloss::ptx::Launch launch = {
      blocks, static_cast<int>(threads), static_cast<int>(cluster), overlaps, arguments[0], areas};
  onnxloss::ptx::Run(kernel, launch, &traffic);
}

// As the linker leaves it, and at its begin the data: without compression the PTX is a text in it.
struct FatBinary {
  int magic;
  int version;
  const char* data;
  void* file;
};
struct FatHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t header_bytes;
  uint64_t bytes;
};

}  // namespace

extern "C" {

// The tests choose these. Each is a device of its own.
void SetLargestCluster(int blocks) { chosen_largest_cluster = blocks; }
void SetCapture(int captured) { chosen_capture = captured != 0; }

// [begin, bytes] of each that the kernels may touch from now on; none: they may touch all.
void SetAreas(const uint64_t* given, int count) {
  areas.clear();
  for (int i = 0; i < count; ++i) areas.push_back({given[2 * i], given[2 * i + 1]});
}

// [sectors read, written, instructions] since the last call.
void TakeTraffic(int64_t* taken) {
  taken[0] = traffic.sectors_read;
  taken[1] = traffic.sectors_written;
  taken[2] = traffic.instructions;
  traffic.sectors_read = traffic.sectors_written = traffic.instructions = 0;
}

void** __cudaRegisterFatBinary(void* fat) {
  const char* data = static_cast<const FatBinary*>(fat)->data;
  FatHeader header;
  std::memcpy(&header, data, sizeof(header));
  const std::string_view bytes(data, header.header_bytes + header.bytes);
  const size_t begin = bytes.find(".version");
  if (begin == std::string_view::npos) {
    std::fputs("ptx_runtime: no PTX; compile it with -no-compress\n", stderr);
    std::abort();
  }
  return reinterpret_cast<void**>(new Module(bytes.substr(begin, std::strlen(data + begin))));
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void** module) { delete reinterpret_cast<Module*>(module); }

void __cudaRegisterFunction(void** module, const char* function, char*, const char* name, int,
                            uint3*, uint3*, dim3*, dim3*, int*) {
  Functions()[function] = {reinterpret_cast<Module*>(module), name};
}

// Those of kernel<<<...>>>, which ops/cuda does not use.
cudaError_t __cudaGetKernel(cudaKernel_t*, const void*) { std::abort(); }
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) {
  std::abort();
}
cudaError_t __cudaPopCallConfiguration(dim3*, dim3*, size_t*, void*) { std::abort(); }

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
  try {
    LaunchKernel(*config, function, arguments);
    return cudaSuccess;
  } catch (const std::exception& failure) {
    last_failure = failure.what();
    return cudaErrorLaunchFailure;
  }
}

const char* cudaGetErrorString(cudaError_t) { return last_failure.c_str(); }

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeNonPortableClusterSizeAllowed) std::abort();
  Functions().at(function).any_cluster = value != 0;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->ptxVersion = ONNXLOSS_CHIP;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = chosen_largest_cluster;
  return cudaSuccess;
}

// As strict as may be: the clusters that the grid can be made of.
cudaError_t cudaOccupancyMaxPotentialClusterSize(int* blocks, const void* function,
                                                 const cudaLaunchConfig_t* config) {
  const int portable = std::min(kPortableCluster, chosen_largest_cluster);
  *blocks = Functions().at(function).any_cluster ? chosen_largest_cluster : portable;
  while (config->gridDim.x % static_cast<unsigned>(*blocks) != 0) *blocks /= 2;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = chosen_capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
}
