// SPDX-License-Identifier: MIT
// Fibers for the threads of one cluster after the other. Compiled without instrumentation: to the
// thread sanitizer each fiber is a thread of its own, and the barriers alone order them.
#include <setjmp.h>
#include <ucontext.h>

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
  void* sanitizer = nullptr;
  Thread thread;
  Barrier* waits_for = nullptr;
  int64_t round = 0;
  Exchanged exchanged;
  bool done = false;
};

struct Cluster {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<char> shared;
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

void Wait(Barrier* barrier, bool orders) {
  Fiber* own = cluster.current;
  char* clock = &barrier->clock[barrier->round % 2];
  if (orders) __tsan_release(clock);
  own->round = barrier->round;
  if (++barrier->arrived == barrier->expected) {
    barrier->arrived = 0;
    ++barrier->round;
  } else {
    own->waits_for = barrier;
    Yield();
    own->waits_for = nullptr;
  }
  if (orders) __tsan_acquire(clock);
}

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
  // What no thread wrote is not a number.
  cluster.shared.assign(kSharedBytes * static_cast<size_t>(cluster_blocks), char(0xff));
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
    fiber.sanitizer = __tsan_create_fiber(0);
    getcontext(&fiber.beginning);
    fiber.beginning.uc_stack.ss_sp = fiber.stack.get();
    fiber.beginning.uc_stack.ss_size = kStackBytes;
    fiber.beginning.uc_link = nullptr;
    makecontext(&fiber.beginning, Main, 0);
  }
}

// Every other round goes backwards, so that no order of threads is the only one tried.
void RunPrepared(size_t count) {
  size_t done = 0;
  for (size_t round = 0; done < count; ++round) {
    bool moved = false;
    for (size_t i = 0; i < count; ++i) {
      Fiber& fiber = *cluster.fibers[round % 2 == 0 ? i : count - 1 - i];
      if (!IsReady(fiber)) continue;
      moved = true;
      Resume(&fiber);
      done += fiber.done ? 1 : 0;
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
  static size_t reserved = 0;
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
  const size_t count = static_cast<size_t>(threads) * static_cast<size_t>(cluster_blocks);
  cluster.sanitizer = __tsan_get_current_fiber();
  cluster.kernel = &kernel;
  for (int64_t first = 0; first < blocks; first += cluster_blocks) {
    Prepare(first, blocks, threads, cluster_blocks);
    __tsan_release(&cluster.begin);
    RunPrepared(count);
    __tsan_acquire(&cluster.end);
    for (size_t i = 0; i < count; ++i) __tsan_destroy_fiber(cluster.fibers[i]->sanitizer);
  }
}

}  // namespace onnxloss::device::emulator
