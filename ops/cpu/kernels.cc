// SPDX-License-Identifier: MIT
// The choice of an instruction set, and the shape of the work.
#include "cpu/kernels.h"

#include <atomic>
#include <cstring>

namespace onnxloss {

#if defined(__x86_64__)
namespace v2 {
extern const CpuKernels kKernels;
}
namespace v3 {
extern const CpuKernels kKernels;
}
namespace v4 {
extern const CpuKernels kKernels;
}
#else
namespace baseline {
extern const CpuKernels kKernels;
}
#endif

namespace {

struct Candidate {
  const CpuKernels* kernels;
  bool runs;
};

#if defined(__x86_64__)
bool RunsV2() { return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"); }
bool RunsV3() {
  return RunsV2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
         __builtin_cpu_supports("f16c");
}
bool RunsV4() {
  return RunsV3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

// Fastest first.
template <class Visitor>
const CpuKernels* FirstThat(Visitor accepts) {
#if defined(__x86_64__)
  const Candidate candidates[] = {
      {&v4::kKernels, RunsV4()}, {&v3::kKernels, RunsV3()}, {&v2::kKernels, RunsV2()}};
#else
  const Candidate candidates[] = {{&baseline::kKernels, true}};
#endif
  for (const Candidate& candidate : candidates) {
    if (candidate.runs && accepts(*candidate.kernels)) return candidate.kernels;
  }
  return nullptr;
}

std::atomic<const CpuKernels*> chosen{nullptr};

constexpr int64_t kElementsPerPartial = 32768;
constexpr int64_t kMostPartialsPerTask = 8;
// So many tasks are enough to share, and so few where more would leave lanes of their tiles idle.
constexpr int64_t kManyTasks = 64;
constexpr int64_t kFewTasks = 8;
// Of a class, fewer neighbours than these would not fill lines.
constexpr int64_t kFewestLanes = 32;

}  // namespace

const CpuKernels* BestKernels() {
  return FirstThat([](const CpuKernels&) { return true; });
}

const CpuKernels& Kernels() {
  const CpuKernels* kernels = chosen.load(std::memory_order_acquire);
  if (kernels == nullptr) {
    kernels = BestKernels();
    chosen.store(kernels, std::memory_order_release);
  }
  return *kernels;
}

bool SetInstructionSet(const char* name) {
  const CpuKernels* kernels =
      std::strcmp(name, "auto") == 0 ? BestKernels() : FirstThat([name](const CpuKernels& k) {
        return std::strcmp(k.instruction_set, name) == 0;
      });
  if (kernels == nullptr) return false;
  chosen.store(kernels, std::memory_order_release);
  return true;
}

int64_t PositionsPerPartial(int64_t classes, int64_t inner) {
  const int64_t positions = kElementsPerPartial / (classes > 0 ? classes : 1);
  if (positions > kTileLanes / 2) return (positions + kTileLanes - 1) / kTileLanes * kTileLanes;
  // Powers of two, so that no tile ends within a partial sum. Long rows make no tiles.
  const int64_t least = inner == 1 ? 1 : kFewestLanes;
  int64_t unit = kTileLanes / 2;
  while (unit > positions && unit > least) unit /= 2;
  return unit;
}

int64_t PositionsPerTask(int64_t classes, int64_t inner, int64_t positions) {
  const int64_t unit = PositionsPerPartial(classes, inner);
  const int64_t partials = positions / unit;
  const bool fills_tile = inner == 1 || unit >= kTileLanes;
  const int64_t most = fills_tile ? kMostPartialsPerTask : kTileLanes / unit;
  const int64_t together = partials / (fills_tile ? kManyTasks : kFewTasks);
  return unit * (together < 1 ? 1 : together < most ? together : most);
}

int64_t PositionsPerScan(const LossProblem& problem) {
  constexpr int64_t kLabels = 16384;
  const bool reads_rows = problem.label_kind == LabelKind::kProbabilities && problem.classes > 0;
  const int64_t positions = reads_rows ? kLabels / problem.classes : kLabels;
  return positions > 0 ? positions : 1;
}

}  // namespace onnxloss
