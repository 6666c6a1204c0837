// SPDX-License-Identifier: MIT
// Runs PTX, which is what nvcc makes of a kernel before a GPU's own assembler, on the host: warp by
// warp, lane by lane, after NVIDIA's "PTX ISA". It knows the instructions of this project's kernels
// and refuses others by their names. The memory of the GPU is that of the host.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

namespace onnxloss::ptx {

constexpr int kWarp = 32;

class Warp;
struct Instruction;
// `lanes` has a bit for each lane of the warp that takes part.
using Work = void (*)(Warp& warp, const Instruction& at, uint32_t lanes);
// What "add.s32" does; null where it is unknown.
Work WorkOf(const std::string& operation);

template <class Visitor>
void ForEach(uint32_t lanes, Visitor visitor) {
  for (int lane = 0; lane < kWarp; ++lane) {
    if (lanes >> lane & 1) visitor(lane);
  }
}

enum class Step {
  kWork,
  kBranch,
  kExit,
  kShuffle,
  kSyncBlock,
  kArriveAtCluster,
  kAwaitCluster,
  kStartNext,
  kAwaitPrevious,
};
enum class Space { kGlobal, kShared, kParameters };

// Operands are registers by their numbers; constants and addresses of variables have registers too.
struct Instruction {
  Step step = Step::kWork;
  Work work = nullptr;
  int guard = -1;  // a predicate, or none
  bool guard_negated = false;
  int to[4] = {};
  int from[5] = {};
  int elements = 1;  // of a vector in memory
  Space space = Space::kGlobal;
  int64_t offset = 0;  // of an address
  int target = 0;      // of a branch
  int cost = 1;        // see Traffic
};

struct Kernel {
  std::string name;
  std::vector<Instruction> code;
  std::vector<std::string> lines;                   // of which the code was made
  std::vector<std::pair<int, uint64_t>> constants;  // in which register, which
  int registers = 0;
  int threads = 0;  // at most, of a block
  size_t parameter_bytes = 0;
  size_t shared_bytes = 0;
};

// The kernels of a PTX file, each read when it is first asked for.
class Module {
 public:
  explicit Module(std::string_view text);
  const Kernel& Find(const std::string& name);

 private:
  std::string text_;
  std::map<std::string, size_t> shared_;  // where a variable lies
  size_t shared_bytes_ = 0;
  std::map<std::string, Kernel> kernels_;
};

// What moves between the memory of a GPU and its caches, were nothing kept there: parts of 32 bytes
// that the lanes of a warp touch at once. And about how many instructions the warps take for it: a
// GPU's assembler makes none of what only moves registers, and several of a division.
struct Traffic {
  int64_t sectors_read = 0;
  int64_t sectors_written = 0;
  int64_t instructions = 0;
  // What this launch writes, and what those before it wrote that may be running still: one that
  // does not overlap has awaited all.
  std::unordered_set<uint64_t> written;
  std::unordered_set<uint64_t> in_flight;
};

// A piece of the GPU's memory.
struct Area {
  uint64_t begin;
  uint64_t bytes;
};

struct Launch {
  int64_t blocks;
  int threads;
  int cluster;
  bool overlaps;  // with the launches before
  const void* parameters;
  std::vector<Area> areas;  // that it may touch; none where it may touch all
};

// Throws std::runtime_error of what a GPU would not do, or not surely.
void Run(const Kernel& kernel, const Launch& launch, Traffic* traffic);

struct Block {
  bool has_waited = false;  // for the launches before
  std::vector<char> shared;
  std::vector<std::unique_ptr<Warp>> warps;
};

class Warp {
 public:
  enum class State : uint8_t { kRunning, kAtShuffle, kAtBlock, kAtCluster, kDone };

  Warp(const Kernel& kernel, const Launch& launch, std::vector<Block>& cluster, int64_t block,
       int first_thread, Traffic* traffic);

  // Until no lane can go on by itself.
  void Run();
  // Lanes in a state, as bits.
  uint32_t Lanes(State state) const;
  // Those of `lanes` that are in the state `from` go on.
  void Release(State from, uint32_t lanes) { SetStates(Lanes(from) & lanes, State::kRunning); }
  // How often the lane has arrived at a barrier of the cluster.
  int arrivals(int lane) const { return arrivals_[lane]; }

  template <class T>
  T Get(int reg, int lane) const {
    const uint64_t& bits = registers_[static_cast<size_t>(reg * kWarp + lane)];
    if constexpr (std::is_same_v<T, bool>) return bits != 0;
    T value;
    std::memcpy(&value, &bits, sizeof(T));
    return value;
  }
  template <class T>
  void Set(int reg, int lane, T value) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    registers_[static_cast<size_t>(reg * kWarp + lane)] = bits;
  }

  // Where the `bytes` of an instruction that reads or writes lie.
  char* Place(const Instruction& at, int lane, size_t bytes);
  // Counts those of all `lanes` together.
  void CountRead(const Instruction& at, uint32_t lanes);
  void CountWritten(const Instruction& at, uint32_t lanes);
  // Shared memory as an address for any space, and the same of another block of the cluster.
  uint64_t GenericOfShared(uint64_t offset) const;
  uint64_t InBlock(uint64_t generic, uint32_t rank) const;

 private:
  void Decide(const Instruction& at, uint32_t lanes);
  uint64_t Address(const Instruction& at, int lane) const;
  bool IsShared(uint64_t generic) const;
  bool MayTouch(uint64_t generic, size_t bytes) const;
  std::vector<uint64_t> SectorsOf(const Instruction& at, uint32_t lanes) const;
  Block& block() const { return cluster_[static_cast<size_t>(rank_)]; }
  void ShuffleOrWait(const Instruction& at, uint32_t lanes);
  uint32_t Unguarded(const Instruction& at, uint32_t lanes) const;
  void SetStates(uint32_t lanes, State state);
  [[noreturn]] void Fail(const Instruction& at, const std::string& what) const;

  const Kernel& kernel_;
  const Launch& launch_;
  std::vector<Block>& cluster_;
  Traffic& traffic_;
  const int rank_;  // of the block in its cluster
  std::vector<uint64_t> registers_;
  int pc_[kWarp] = {};
  State states_[kWarp];
  int arrivals_[kWarp] = {};
  int waits_[kWarp] = {};
  bool nothing_else_runs_ = false;  // so lanes at a shuffle wait for no others
};

}  // namespace onnxloss::ptx
