// SPDX-License-Identifier: MIT
// Memory whose neighbourhood is watched: what reads or writes beyond it is caught without the help
// of a sanitizer, in hand-written vector code too.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace onnxloss::tests {

// Where a buffer lies between the two pages that nobody may touch.
enum class Place { kAfterGuard, kBeforeGuard, kOffLine };

// Bytes between two inaccessible pages; the rest of the pages between them holds a pattern.
class GuardedBuffer {
 public:
  // `step` is the size of an element, to which the buffer stays aligned, and no further when it
  // lies kOffLine or ends where the guard begins.
  GuardedBuffer(size_t bytes, size_t step, Place place) : bytes_(bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    inside_ = (bytes + step + page) / page * page;
    void* mapped = mmap(nullptr, inside_ + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) Give("mmap");
    mapped_ = static_cast<unsigned char*>(mapped);
    begin_ = mapped_ + page;
    Allow(PROT_READ | PROT_WRITE);
    for (size_t i = 0; i < inside_; ++i) begin_[i] = kPattern;
    const size_t offset = place == Place::kBeforeGuard ? inside_ - bytes
                          : place == Place::kOffLine   ? step
                                                       : 0;
    data_ = begin_ + offset;
  }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;
  ~GuardedBuffer() { munmap(mapped_, inside_ + 2 * static_cast<size_t>(begin_ - mapped_)); }

  void* data() const { return data_; }

  // From here on a write is a crash.
  void Seal() { Allow(PROT_READ); }

  // Whether the bytes around the buffer are as they were.
  bool NeighboursIntact() const {
    for (const unsigned char* at = begin_; at < begin_ + inside_; ++at) {
      if ((at < data_ || at >= data_ + bytes_) && *at != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr unsigned char kPattern = 0xff;  // nan in every type

  [[noreturn]] static void Give(const char* what) {
    std::perror(what);
    std::exit(2);
  }
  void Allow(int protection) {
    if (mprotect(begin_, inside_, protection) != 0) Give("mprotect");
  }

  size_t bytes_;
  size_t inside_;  // bytes between the guards
  unsigned char* mapped_;
  unsigned char* begin_;
  unsigned char* data_;
};

}  // namespace onnxloss::tests
