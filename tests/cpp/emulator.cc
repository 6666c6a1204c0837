// SPDX-License-Identifier: MIT
// Fibers for the threads of one cluster after the other. Compiled without instrumentation: to the
// thread sanitizer each fiber is a thread of its own, and the barriers alone order them.
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "cuda/device.h"

#if defined(ONNXLOSS_EMULATOR_TSAN)
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#else
static void* __tsan_get_current_fiber() { return nullptr; }
static void* __tsan_create_fiber(unsigned) { return nullptr; }
static void __tsan_destroy_fiber(void*) {}
static void __tsan_switch_to_fiber(void*, unsigned) {}
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif

namespace onnxloss::device::emulator {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr unsigned kNoSync = 1;  // a switch orders nothing
constexpr int kWarp = 32;
constexpr char kUnwritten = char(0xff);  // no number

// Threads that wait for one another, any number of times.
struct Barrier {
  int expected = 0;
  int arrived = 0;
  int64_t round = 0;
  char clock[2];  // what the thread sanitizer knows rounds by, in turn
};

// Bytes that lanes exchange; the sanitizer would see a call of memcpy.
struct Exchanged {
  alignas(16) char bytes[16];
};
void Copy(const char* from, size_t size, volatile char* to) {
  for (size_t i = 0; i < size; ++i) to[i] = from[i];
}

// What shows that the thread sanitizer can find a missing barrier: the blocks' order nothing.
const bool barriers_order = std::getenv("EMULATOR_BARRIERS_ORDER_NOTHING") == nullptr;

struct Fiber {
  ucontext_t beginning;
  jmp_buf place;  // a jump needs no system call, as a switch of contexts does
  bool has_begun = false;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* sanitizer = __tsan_create_fiber(0);
  Thread thread;
  Barrier* waits_for = nullptr;
  int64_t round = 0;          // of that
  int64_t cluster_round = 0;  // at which the thread arrived
  Exchanged exchanged;
  bool done = false;

  ~Fiber() { __tsan_destroy_fiber(sanitizer); }
};

struct Cluster {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<char> shared;
  std::vector<int> running;  // threads of each block
  std::vector<Barrier> warps;
  std::vector<Barrier> blocks;
  Barrier all;
  jmp_buf scheduler;
  void* sanitizer = nullptr;
  Fiber* current = nullptr;
  const std::function<void()>* kernel = nullptr;
  char begin;  // orders the launch before the threads, and them before what follows
  char end;
};

Cluster cluster;
size_t reserved = 0;  // of each block's shared memory

void Yield() {
  Fiber* own = cluster.current;
  if (_setjmp(own->place) != 0) return;
  __tsan_switch_to_fiber(cluster.sanitizer, kNoSync);
  _longjmp(cluster.scheduler, 1);
}

void Resume(Fiber* fiber) {
  cluster.current = fiber;
  if (_setjmp(cluster.scheduler) != 0) return;
  __tsan_switch_to_fiber(fiber->sanitizer, kNoSync);
  if (fiber->has_begun) _longjmp(fiber->place, 1);
  fiber->has_begun = true;
  setcontext(&fiber->beginning);
}

char* ClockOf(Barrier* barrier, int64_t round) { return &barrier->clock[round % 2]; }

// The round of the barrier that the thread is in.
int64_t Arrive(Barrier* barrier, bool orders) {
  const int64_t round = barrier->round;
  if (orders) __tsan_release(ClockOf(barrier, round));
  if (++barrier->arrived == barrier->expected) {
    barrier->arrived = 0;
    ++barrier->round;
  }
  return round;
}

void Await(Barrier* barrier, int64_t round, bool orders) {
  Fiber* own = cluster.current;
  if (barrier->round == round) {
    own->round = round;
    own->waits_for = barrier;
    Yield();
    own->waits_for = nullptr;
  }
  if (orders) __tsan_acquire(ClockOf(barrier, round));
}

void Wait(Barrier* barrier, bool orders) { Await(barrier, Arrive(barrier, orders), orders); }

void Main() {
  __tsan_acquire(&cluster.begin);
  (*cluster.kernel)();
  __tsan_release(&cluster.end);
  cluster.current->done = true;
  Yield();
}

bool IsReady(const Fiber& fiber) {
  if (fiber.done) return false;
  return fiber.waits_for == nullptr || fiber.waits_for->round != fiber.round;
}

void Prepare(int64_t first_block, int64_t blocks, int threads, int cluster_blocks) {
  const size_t count = static_cast<size_t>(threads) * static_cast<size_t>(cluster_blocks);
  while (cluster.fibers.size() < count) cluster.fibers.emplace_back(new Fiber);
  cluster.shared.assign(kSharedBytes * static_cast<size_t>(cluster_blocks), kUnwritten);
  cluster.running.assign(static_cast<size_t>(cluster_blocks), threads);
  cluster.warps.assign(count / kWarp, Barrier{});
  cluster.blocks.assign(static_cast<size_t>(cluster_blocks), Barrier{});
  for (Barrier& barrier : cluster.warps) barrier.expected = kWarp;
  for (Barrier& barrier : cluster.blocks) barrier.expected = threads;
  cluster.all = Barrier{};
  cluster.all.expected = static_cast<int>(count);
  for (size_t i = 0; i < count; ++i) {
    Fiber& fiber = *cluster.fibers[i];
    const int rank = static_cast<int>(i) / threads;
    fiber.thread = {static_cast<int>(i) % threads,
                    threads,
                    first_block + rank,
                    blocks,
                    rank,
                    cluster_blocks,
                    cluster.shared.data() + static_cast<size_t>(rank) * kSharedBytes};
    fiber.waits_for = nullptr;
    fiber.done = false;
    fiber.has_begun = false;
    getcontext(&fiber.beginning);
    fiber.beginning.uc_stack.ss_sp = fiber.stack.get();
    fiber.beginning.uc_stack.ss_size = kStackBytes;
    fiber.beginning.uc_link = nullptr;
    makecontext(&fiber.beginning, Main, 0);
  }
}

// No other block may read the shared memory of one that has ended. The sanitizer would see a call
// of memset.
void EndThread(const Fiber& fiber) {
  const bool ends = --cluster.running[static_cast<size_t>(fiber.thread.cluster_rank)] == 0;
  if (!ends || fiber.thread.cluster_blocks == 1) return;
  volatile char* shared = fiber.thread.shared;
  for (size_t i = 0; i < reserved; ++i) shared[i] = kUnwritten;
}

// Runs each of the threads until it waits or ends; whether there was one to run. Every other round
// goes backwards, so that no order of threads is the only one tried.
bool RunOnce(size_t first, size_t count, size_t round) {
  bool moved = false;
  for (size_t i = 0; i < count; ++i) {
    Fiber& fiber = *cluster.fibers[first + (round % 2 == 0 ? i : count - 1 - i)];
    if (!IsReady(fiber)) continue;
    moved = true;
    Resume(&fiber);
    if (fiber.done) EndThread(fiber);
  }
  return moved;
}

// A block goes on until only others can let it: what another may not have reached or left yet, it
// has not.
void RunPrepared(size_t threads, size_t blocks) {
  const auto is_running = [](int count) { return count > 0; };
  const auto& running = cluster.running;
  for (size_t round = 0; std::any_of(running.begin(), running.end(), is_running); ++round) {
    bool moved = false;
    for (size_t i = 0; i < blocks; ++i) {
      const size_t block = round % 2 == 0 ? i : blocks - 1 - i;
      for (size_t own = 0; RunOnce(block * threads, threads, own); ++own) moved = true;
    }
    if (!moved) {
      std::fprintf(stderr, "emulator: a barrier waits for threads that do not come\n");
      std::abort();
    }
  }
}

Barrier* OwnBlock() { return &cluster.blocks[static_cast<size_t>(Current().cluster_rank)]; }

size_t OwnPlace() {
  const Thread& own = Current();
  return static_cast<size_t>(own.cluster_rank * own.block_threads + own.index);
}

}  // namespace

size_t ReserveShared(size_t size) {
  const size_t place = reserved;
  reserved += (size + 15) / 16 * 16;
  if (reserved > kSharedBytes) {
    std::fprintf(stderr, "emulator: kSharedBytes is too small\n");
    std::abort();
  }
  return place;
}

const Thread& Current() { return cluster.current->thread; }
void SyncBlock() { Wait(OwnBlock(), barriers_order); }
void SyncCluster() { Wait(&cluster.all, barriers_order); }
void ArriveAtCluster() { cluster.current->cluster_round = Arrive(&cluster.all, false); }
void AwaitCluster() { Await(&cluster.all, cluster.current->cluster_round, false); }

// Orders no memory: a shuffle is no barrier to what threads wrote.
void Exchange(void* value, size_t size, int mask) {
  const size_t place = OwnPlace();
  Barrier* warp = &cluster.warps[place / kWarp];
  Copy(static_cast<const char*>(value), size, cluster.current->exchanged.bytes);
  Wait(warp, false);
  Copy(cluster.fibers[place ^ static_cast<size_t>(mask)]->exchanged.bytes, size,
       static_cast<char*>(value));
  Wait(warp, false);
}

void Run(int64_t blocks, int threads, int cluster_blocks, const std::function<void()>& kernel) {
  cluster.sanitizer = __tsan_get_current_fiber();
  cluster.kernel = &kernel;
  for (int64_t first = 0; first < blocks; first += cluster_blocks) {
    Prepare(first, blocks, threads, cluster_blocks);
    __tsan_release(&cluster.begin);
    RunPrepared(static_cast<size_t>(threads), static_cast<size_t>(cluster_blocks));
    __tsan_acquire(&cluster.end);
  }
}

}  // namespace onnxloss::device::emulator
