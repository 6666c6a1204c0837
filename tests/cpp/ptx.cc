// SPDX-License-Identifier: MIT
// Reads PTX, and runs a grid of blocks: cluster after cluster, in it each block as far as it can go
// before another, as does the emulator.
#include "ptx.h"

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <stdexcept>

namespace onnxloss::ptx {
namespace {

constexpr char kUnwritten = char(0xff);  // no number

// Registers that a kernel finds set.
enum Special : int {
  kThread,
  kBlockThreads,
  kBlock,
  kBlocks,
  kRank,
  kClusterBlocks,
  kCluster,
  kZero,
  kNumSpecial
};
const std::map<std::string, int> kSpecialNames = {
    {"%tid.x", kThread},        {"%ntid.x", kBlockThreads},  {"%ctaid.x", kBlock},
    {"%nctaid.x", kBlocks},     {"%cluster_ctarank", kRank}, {"%cluster_nctarank", kClusterBlocks},
    {"%clusterid.x", kCluster}, {"%clusterid.y", kZero},     {"%clusterid.z", kZero},
};

std::string WithoutComments(std::string_view text) {
  std::string rest;
  for (size_t begin = 0; begin < text.size();) {
    const std::string_view line = text.substr(begin, text.find('\n', begin) - begin);
    rest.append(line.substr(0, line.find("//"))).push_back('\n');
    begin += line.size() + 1;
  }
  return rest;
}

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == ','; }

// Words, and marks by themselves; commas say no more than spaces.
std::vector<std::string> Split(std::string_view statement) {
  std::vector<std::string> words;
  bool joined = false;
  for (const char c : statement) {
    const bool mark = std::string_view("{}[]|").find(c) != std::string_view::npos;
    if (!IsSpace(c) && (mark || !joined)) words.emplace_back();
    if (!IsSpace(c)) words.back().push_back(c);
    joined = !IsSpace(c) && !mark;
  }
  return words;
}

// The number in brackets after `name`.
size_t SizeAfter(std::string_view text, size_t name) {
  return std::stoul(std::string(text.substr(text.find('[', name) + 1, 20)));
}

// The statements of one kernel, one after the other.
class Reader {
 public:
  Reader(Kernel* kernel, const std::map<std::string, size_t>& shared)
      : kernel_(*kernel), symbols_(shared) {}

  void Read(std::string_view text) {
    const size_t name = text.find_first_not_of(" \t\n", 6);  // after ".entry"
    const size_t parameters = text.find('(', name);
    kernel_.name = text.substr(name, parameters - name);
    kernel_.parameter_bytes = SizeAfter(text, parameters);
    symbols_[kernel_.name + "_param_0"] = 0;
    kernel_.threads = std::stoi(std::string(text.substr(text.find(".maxntid") + 8, 10)));
    kernel_.registers = kNumSpecial;
    ReadBody(text.substr(text.find('{', parameters)));
    for (const auto& [at, label] : branches_) kernel_.code[at].target = labels_.at(label);
  }

 private:
  void ReadBody(std::string_view text) {
    int depth = 0;
    for (size_t at = 0; at < text.size();) {
      const char c = text[at];
      if (c == '{') ++depth;
      if (c == '}' && --depth == 0) return;
      if (IsSpace(c) || c == '{' || c == '}') {
        ++at;
        continue;
      }
      const size_t end = text.find_first_of(":;", at);
      const std::string statement(text.substr(at, end - at));
      if (text[end] == ':') {
        labels_[statement] = static_cast<int>(kernel_.code.size());
      } else {
        ReadStatement(statement);
      }
      at = end + 1;
    }
    throw std::runtime_error(kernel_.name + " has no end");
  }

  void ReadStatement(const std::string& statement) {
    const std::vector<std::string> words = Split(statement);
    // A name that is declared again, in braces, is another register.
    if (words[0] == ".reg") registers_.erase(words[2]);
    if (words[0][0] == '.') return;
    Instruction made;
    size_t at = 0;
    if (words[0][0] == '@') {
      made.guard_negated = words[0][1] == '!';
      made.guard = Register(words[0].substr(made.guard_negated ? 2 : 1));
      ++at;
    }
    const std::string& operation = words[at++];
    if (!ReadStep(operation, words, at, &made)) ReadWork(operation, words, at, &made);
    kernel_.code.push_back(made);
    kernel_.lines.push_back(statement);
  }

  // What decides where a lane goes on.
  bool ReadStep(const std::string& operation, const std::vector<std::string>& words, size_t at,
                Instruction* made) {
    static const std::map<std::string, Step> kSteps = {
        {"bra", Step::kBranch},
        {"bra.uni", Step::kBranch},
        {"ret", Step::kExit},
        {"bar.sync", Step::kSyncBlock},
        {"barrier.cluster.arrive", Step::kArriveAtCluster},
        {"barrier.cluster.arrive.relaxed", Step::kArriveAtCluster},
        {"barrier.cluster.wait", Step::kAwaitCluster},
        {"griddepcontrol.launch_dependents", Step::kStartNext},
        {"griddepcontrol.wait", Step::kAwaitPrevious},
    };
    const auto found = kSteps.find(operation);
    if (found == kSteps.end()) return false;
    made->step = found->second;
    if (made->step == Step::kBranch) branches_[kernel_.code.size()] = words[at];
    if (made->step == Step::kSyncBlock && words[at] != "0") {
      throw std::runtime_error("bar.sync " + words[at] + "; expected 0");
    }
    return true;
  }

  void ReadWork(std::string operation, const std::vector<std::string>& words, size_t at,
                Instruction* made) {
    const bool stores = operation.compare(0, 3, "st.") == 0;
    const bool loads = operation.compare(0, 3, "ld.") == 0;
    if (loads || stores) operation = ReadMemory(operation, made);
    if (operation.compare(0, 5, "shfl.") == 0) made->step = Step::kShuffle;
    int results = 0;
    if (!stores) results = ReadOperands(words, &at, made->to);
    int given = 0;
    while (at < words.size()) given += ReadOperands(words, &at, made->from + given, made);
    if (operation == "mov.b64" && results == 2) operation = "unpack.b64";
    if (operation == "mov.b64" && given == 2) operation = "pack.b64";
    made->cost = CostOf(operation, made->space);
    made->work = WorkOf(operation);
    if (made->work == nullptr) throw std::runtime_error("PTX has an unknown " + operation);
  }

  static int CostOf(const std::string& operation, Space space) {
    const auto begins = [&](const char* word) { return operation.rfind(word, 0) == 0; };
    if (begins("mov.") || begins("pack.") || begins("unpack.") || space == Space::kParameters) {
      return 0;
    }
    return begins("div.") ? 10 : 1;
  }

  // ld.space.cache.vector.type: what the table knows is ld.type.
  static std::string ReadMemory(const std::string& operation, Instruction* made) {
    std::string rest = operation.substr(3);
    const auto skip = [&](const char* word) {
      const bool found = rest.compare(0, std::strlen(word), word) == 0;
      if (found) rest = rest.substr(std::strlen(word));
      return found;
    };
    if (skip("shared.")) made->space = Space::kShared;
    if (skip("param.")) made->space = Space::kParameters;
    skip("global.");
    if (!skip("nc.")) skip("cs.");
    if (skip("v2.")) made->elements = 2;
    if (skip("v4.")) made->elements = 4;
    return operation.substr(0, 3) + rest;
  }

  // One operand, or some in braces, or two with a bar between; returns how many.
  int ReadOperands(const std::vector<std::string>& words, size_t* at, int* registers,
                   Instruction* address_of = nullptr) {
    int count = 0;
    const bool braced = words[*at] == "{";
    if (braced) {
      while (words[++*at] != "}") registers[count++] = Register(words[*at]);
      ++*at;
    } else if (words[*at] == "[") {
      registers[count++] = Address(words[*at + 1], address_of);
      *at += 3;
    } else {
      registers[count++] = Register(words[(*at)++]);
    }
    if (*at < words.size() && words[*at] == "|") {
      registers[count++] = Register(words[*at + 1]);
      *at += 2;
    }
    return count;
  }

  int Address(const std::string& word, Instruction* made) {
    const size_t plus = word.find('+');
    if (plus != std::string::npos) made->offset = std::stoll(word.substr(plus + 1));
    return Register(word.substr(0, plus));
  }

  // The register of a name; a constant has one that holds it from the start.
  int Register(const std::string& word) {
    const auto special = kSpecialNames.find(word);
    if (special != kSpecialNames.end()) return special->second;
    const auto [known, is_new] = registers_.try_emplace(word, kernel_.registers);
    if (is_new) {
      const bool variable = word[0] == '%' || word == "_";
      if (!variable) kernel_.constants.emplace_back(kernel_.registers, Constant(word));
      ++kernel_.registers;
    }
    return known->second;
  }

  uint64_t Constant(const std::string& word) const {
    const auto symbol = symbols_.find(word);
    if (symbol != symbols_.end()) return symbol->second;
    // Bits of a float or a double.
    const bool bits = word[0] == '0' && word.size() > 2 && (word[1] == 'f' || word[1] == 'd');
    if (bits) return std::stoull(word.substr(2), nullptr, 16);
    const bool negative = word[0] == '-';
    const char* digits = word.c_str() + (negative ? 1 : 0);
    char* end = nullptr;
    const uint64_t value = std::strtoull(digits, &end, 0);
    if (end == digits || *end != 0) throw std::runtime_error("PTX has an unknown " + word);
    return negative ? 0 - value : value;
  }

  Kernel& kernel_;
  std::map<std::string, size_t> symbols_;
  std::map<std::string, int> registers_;
  std::map<std::string, int> labels_;
  std::map<size_t, std::string> branches_;
};

}  // namespace

Module::Module(std::string_view text) : text_(WithoutComments(text)) {
  constexpr std::string_view kShared = ".shared .align 16 .b8 ";
  size_t at = text_.find(".shared");
  for (; at != std::string::npos; at = text_.find(".shared ", at + 1)) {
    if (text_.compare(at, kShared.size(), kShared) != 0) {
      throw std::runtime_error("PTX has shared memory of an unknown kind");
    }
    const size_t name = at + kShared.size();
    shared_[text_.substr(name, text_.find('[', name) - name)] = shared_bytes_;
    shared_bytes_ += (SizeAfter(text_, name) + 15) / 16 * 16;
  }
}

const Kernel& Module::Find(const std::string& name) {
  const auto [found, is_new] = kernels_.try_emplace(name);
  if (is_new) {
    const size_t at = text_.find(".entry " + name + "(");
    if (at == std::string::npos) throw std::runtime_error("PTX has no kernel " + name);
    found->second.shared_bytes = shared_bytes_;
    Reader(&found->second, shared_).Read(std::string_view(text_).substr(at));
  }
  return found->second;
}

Warp::Warp(const Kernel& kernel, const Launch& launch, std::vector<Block>& cluster, int64_t block,
           int first_thread, Traffic* traffic)
    : kernel_(kernel),
      launch_(launch),
      cluster_(cluster),
      traffic_(*traffic),
      rank_(static_cast<int>(block % launch.cluster)),
      registers_(static_cast<size_t>(kernel.registers) * kWarp) {
  for (int lane = 0; lane < kWarp; ++lane) {
    const int thread = first_thread + lane;
    states_[lane] = thread < launch.threads ? State::kRunning : State::kDone;
    Set(kThread, lane, thread);
    Set(kBlockThreads, lane, launch.threads);
    Set(kBlock, lane, block);
    Set(kBlocks, lane, launch.blocks);
    Set(kRank, lane, rank_);
    Set(kClusterBlocks, lane, launch.cluster);
    Set(kCluster, lane, block / launch.cluster);
    for (const auto& [reg, value] : kernel.constants) Set(reg, lane, value);
  }
}

// Of the running lanes those that are behind go on, until they have caught up with others: so lanes
// that parted meet again.
void Warp::Run() {
  for (;;) {
    const uint32_t running = Lanes(State::kRunning);
    if (running == 0) {
      const uint32_t waiting = Lanes(State::kAtShuffle);
      if (waiting == 0) return;
      nothing_else_runs_ = true;
      Release(State::kAtShuffle, waiting);
      continue;
    }
    int first = INT_MAX;
    int next = INT_MAX;
    uint32_t lanes = 0;
    ForEach(running, [&](int lane) { first = std::min(first, pc_[lane]); });
    ForEach(running, [&](int lane) {
      if (pc_[lane] == first) lanes |= uint32_t{1} << lane;
      if (pc_[lane] != first) next = std::min(next, pc_[lane]);
    });
    int pc = first;
    while (pc < next && kernel_.code[static_cast<size_t>(pc)].step == Step::kWork) {
      const Instruction& at = kernel_.code[static_cast<size_t>(pc)];
      at.work(*this, at, Unguarded(at, lanes));
      traffic_.instructions += at.cost;
      ++pc;
    }
    ForEach(lanes, [&](int lane) { pc_[lane] = pc; });
    if (pc < next) Decide(kernel_.code[static_cast<size_t>(pc)], lanes);
  }
}

// A step of lanes that are at the same place, which decides where they go on, or when.
void Warp::Decide(const Instruction& at, uint32_t lanes) {
  const uint32_t taking = Unguarded(at, lanes);
  traffic_.instructions += at.cost;
  ForEach(lanes, [&](int lane) { ++pc_[lane]; });
  switch (at.step) {
    case Step::kWork:
      break;
    case Step::kBranch:
      ForEach(taking, [&](int lane) { pc_[lane] = at.target; });
      break;
    case Step::kExit:
      SetStates(taking, State::kDone);
      break;
    case Step::kShuffle:
      ShuffleOrWait(at, taking);
      break;
    case Step::kSyncBlock:
      SetStates(taking, State::kAtBlock);
      break;
    case Step::kArriveAtCluster:
      ForEach(taking, [&](int lane) {
        if (arrivals_[lane]++ != waits_[lane]) Fail(at, "arrives where it has arrived");
      });
      break;
    case Step::kAwaitCluster:
      ForEach(taking, [&](int lane) {
        if (arrivals_[lane] != ++waits_[lane]) Fail(at, "waits where it has not arrived");
      });
      SetStates(taking, State::kAtCluster);
      break;
    case Step::kStartNext:
      break;
    case Step::kAwaitPrevious:
      block().has_waited = true;
      break;
  }
}

void Warp::ShuffleOrWait(const Instruction& at, uint32_t lanes) {
  constexpr int kMembers = 3;  // the operand that names them
  uint32_t members = 0;
  ForEach(lanes, [&](int lane) { members = Get<uint32_t>(at.from[kMembers], lane); });
  if (lanes == members) {
    at.work(*this, at, lanes);
    nothing_else_runs_ = false;
    return;
  }
  if (nothing_else_runs_) Fail(at, "waits for lanes that do not come");
  SetStates(lanes, State::kAtShuffle);
  ForEach(lanes, [&](int lane) { --pc_[lane]; });
}

uint32_t Warp::Unguarded(const Instruction& at, uint32_t lanes) const {
  if (at.guard < 0) return lanes;
  uint32_t taking = 0;
  ForEach(lanes, [&](int lane) {
    if (Get<bool>(at.guard, lane) != at.guard_negated) taking |= uint32_t{1} << lane;
  });
  return taking;
}

uint32_t Warp::Lanes(State state) const {
  uint32_t lanes = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (states_[lane] == state) lanes |= uint32_t{1} << lane;
  }
  return lanes;
}

void Warp::SetStates(uint32_t lanes, State state) {
  ForEach(lanes, [&](int lane) { states_[lane] = state; });
}

uint64_t Warp::Address(const Instruction& at, int lane) const {
  return Get<uint64_t>(at.from[0], lane) + static_cast<uint64_t>(at.offset);
}

char* Warp::Place(const Instruction& at, int lane, size_t bytes) {
  const uint64_t address = Address(at, lane);
  if (address % bytes != 0) Fail(at, "has an address on no boundary of its size");
  std::vector<char>& shared = block().shared;
  switch (at.space) {
    case Space::kGlobal:
      if (!MayTouch(address, bytes)) Fail(at, "touches what is in no array");
      break;
    case Space::kShared:
      if (address + bytes > shared.size()) Fail(at, "is beyond the shared memory");
      return shared.data() + address;
    case Space::kParameters:
      if (address + bytes > kernel_.parameter_bytes) Fail(at, "is beyond the parameters");
      // Which no instruction writes.
      return const_cast<char*>(static_cast<const char*>(launch_.parameters)) + address;
  }
  return reinterpret_cast<char*>(address);
}

bool Warp::IsShared(uint64_t generic) const {
  return std::any_of(cluster_.begin(), cluster_.end(), [&](const Block& block) {
    const uint64_t begin = reinterpret_cast<uint64_t>(block.shared.data());
    return generic >= begin && generic < begin + block.shared.size();
  });
}

bool Warp::MayTouch(uint64_t generic, size_t bytes) const {
  if (launch_.areas.empty() || IsShared(generic)) return true;
  return std::any_of(launch_.areas.begin(), launch_.areas.end(), [&](const Area& area) {
    return generic >= area.begin && generic + bytes <= area.begin + area.bytes;
  });
}

// What is on a boundary of its size lies in one sector.
std::vector<uint64_t> Warp::SectorsOf(const Instruction& at, uint32_t lanes) const {
  constexpr uint64_t kSectorBytes = 32;
  std::vector<uint64_t> sectors;
  ForEach(lanes, [&](int lane) {
    const uint64_t address = Address(at, lane);
    if (at.space == Space::kGlobal && !IsShared(address)) sectors.push_back(address / kSectorBytes);
  });
  std::sort(sectors.begin(), sectors.end());
  sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
  const bool waits = launch_.overlaps && !block().has_waited;
  for (const uint64_t sector : sectors) {
    if (waits && traffic_.in_flight.count(sector) != 0) {
      Fail(at, "touches what a launch before may be writing still");
    }
  }
  return sectors;
}

void Warp::CountRead(const Instruction& at, uint32_t lanes) {
  traffic_.sectors_read += static_cast<int64_t>(SectorsOf(at, lanes).size());
}

void Warp::CountWritten(const Instruction& at, uint32_t lanes) {
  const std::vector<uint64_t> sectors = SectorsOf(at, lanes);
  traffic_.sectors_written += static_cast<int64_t>(sectors.size());
  traffic_.written.insert(sectors.begin(), sectors.end());
}

uint64_t Warp::GenericOfShared(uint64_t offset) const {
  return reinterpret_cast<uint64_t>(block().shared.data()) + offset;
}

uint64_t Warp::InBlock(uint64_t generic, uint32_t rank) const {
  if (rank >= cluster_.size()) throw std::runtime_error("mapa of a block beyond the cluster");
  return generic - GenericOfShared(0) + reinterpret_cast<uint64_t>(cluster_[rank].shared.data());
}

void Warp::Fail(const Instruction& at, const std::string& what) const {
  const size_t line = static_cast<size_t>(&at - kernel_.code.data());
  throw std::runtime_error(kernel_.name + ": " + kernel_.lines[line] + " " + what);
}

namespace {

using State = Warp::State;

bool IsDone(const Block& block) {
  return std::all_of(block.warps.begin(), block.warps.end(),
                     [](const auto& warp) { return warp->Lanes(State::kDone) == ~uint32_t{0}; });
}

// Until its threads wait for those of other blocks, or have ended; whether any has moved.
bool RunBlock(Block& block) {
  bool moved = false;
  for (bool goes_on = true; goes_on;) {
    bool all_wait = true;
    for (const auto& warp : block.warps) {
      moved |= warp->Lanes(State::kRunning) != 0;
      warp->Run();
      all_wait &= (warp->Lanes(State::kAtBlock) | warp->Lanes(State::kDone)) == ~uint32_t{0};
    }
    goes_on = all_wait && !IsDone(block);
    if (goes_on) {
      for (const auto& warp : block.warps) warp->Release(State::kAtBlock, ~uint32_t{0});
    }
  }
  return moved;
}

// How often all threads of the cluster have arrived that have not ended.
int Rounds(const std::vector<Block>& cluster) {
  int rounds = INT_MAX;
  for (const Block& block : cluster) {
    for (const auto& warp : block.warps) {
      ForEach(~warp->Lanes(State::kDone),
              [&](int lane) { rounds = std::min(rounds, warp->arrivals(lane)); });
    }
  }
  return rounds;
}

void ReleaseAtCluster(const std::vector<Block>& cluster) {
  const int rounds = Rounds(cluster);
  for (const Block& block : cluster) {
    for (const auto& warp : block.warps) {
      ForEach(warp->Lanes(State::kAtCluster), [&](int lane) {
        if (warp->arrivals(lane) <= rounds) warp->Release(State::kAtCluster, uint32_t{1} << lane);
      });
    }
  }
}

}  // namespace

void Run(const Kernel& kernel, const Launch& launch, Traffic* traffic) {
  if (!launch.overlaps) traffic->in_flight.clear();
  for (int64_t first = 0; first < launch.blocks; first += launch.cluster) {
    std::vector<Block> cluster(static_cast<size_t>(launch.cluster));
    for (size_t rank = 0; rank < cluster.size(); ++rank) {
      cluster[rank].shared.assign(kernel.shared_bytes, kUnwritten);
      for (int thread = 0; thread < launch.threads; thread += kWarp) {
        cluster[rank].warps.push_back(std::make_unique<Warp>(
            kernel, launch, cluster, first + static_cast<int64_t>(rank), thread, traffic));
      }
    }
    const auto is_done = [&] { return std::all_of(cluster.begin(), cluster.end(), IsDone); };
    while (!is_done()) {
      bool moved = false;
      for (Block& block : cluster) {
        moved |= RunBlock(block);
        if (!IsDone(block)) continue;
        // Its memory is another's now.
        std::fill(block.shared.begin(), block.shared.end(), kUnwritten);
        // Who awaits this launch counts on it for those before.
        if (launch.overlaps && !block.has_waited) {
          throw std::runtime_error(kernel.name + " ends before the launch before it");
        }
      }
      if (!moved) throw std::runtime_error(kernel.name + ": some threads never reach a barrier");
      ReleaseAtCluster(cluster);
    }
  }
  traffic->in_flight.merge(traffic->written);
  traffic->written.clear();
}

}  // namespace onnxloss::ptx
