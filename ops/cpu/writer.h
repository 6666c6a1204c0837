// SPDX-License-Identifier: MIT
// Outputs written from beginning to end, past the caches where no cache could hold them.
#pragma once

#include "cpu/vector_memory.h"

namespace onnxloss::ONNXLOSS_TARGET {

inline void Fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Fetches those lines of n elements that a Writer will write in part: such stores wait for memory.
template <class T>
inline void FetchEnds(T* target, int64_t n) {
  const auto fetch = [](T* end) {
    if (reinterpret_cast<uintptr_t>(end) % kLineBytes != 0) __builtin_prefetch(end, 1, 3);
  };
  fetch(target);
  fetch(target + n);
}

// Writes an output from its beginning to its end, with `stream` past the caches. The target may
// have any alignment; what does not fill a line waits for the next piece, so that only the first
// and last line are written in part. Call Finish at the end, and Fence before another thread reads
// the output.
template <class T>
class Writer {
 public:
  using Acc = Accumulator<T>;

  Writer() = default;
  Writer(T* target, bool stream)
      : target_(target),
        stream_(stream && reinterpret_cast<uintptr_t>(target) % sizeof(T) == 0),
        before_(static_cast<int64_t>(reinterpret_cast<uintptr_t>(target) % kLineBytes / sizeof(T))),
        filled_(before_) {}

  // The next n elements: values(i, count) are those from i on, of which the first `count` count.
  // A call for each vector would cost more than the vector does, and so would what `values` has if
  // each store could change it.
  template <class Values>
  __attribute__((flatten)) void Write(int64_t n, Values values) {
    if (!stream_) {
      StoreAll(n, values);
      return;
    }
    int64_t i = 0;
    if (filled_ > 0) i = Fill(0, n < kLine<T> - filled_ ? n : kLine<T> - filled_, values);
    T* target = target_;
    for (; i + kLine<T> <= n; i += kLine<T>, target += kLine<T>) {
      for (int64_t j = 0; j < kLine<T>; j += kWidth<Acc>) {
        Stream(target + j, values(i + j, kWidth<Acc>));
      }
    }
    target_ = target;
    if (i < n) Fill(i, n, values);
  }

  void WriteZeros(int64_t n) {
    Write(n, [](int64_t, int64_t) { return Vector<Acc>{}; });
  }

  // Where the next n elements go, which the caller writes: without `stream`.
  T* Skip(int64_t n) {
    target_ += n;
    return target_ - n;
  }

  void Finish() {
    for (int64_t i = before_; i < filled_; ++i) target_[i - before_] = line_[i];
    filled_ = 0;
  }

 private:
  template <class Values>
  void StoreAll(int64_t n, const Values& values) {
    int64_t i = 0;
    for (; i + kWidth<Acc> <= n; i += kWidth<Acc>) {
      FetchToWrite(target_ + i);
      Store(target_ + i, values(i, kWidth<Acc>));
    }
    if (i < n) StoreFirst(target_ + i, n - i, values(i, n - i));
    target_ += n;
  }

  // Adds the elements [first, last) to the waiting line, and sends it off where they fill it.
  template <class Values>
  int64_t Fill(int64_t first, int64_t last, const Values& values) {
    for (int64_t i = first; i < last; i += kWidth<Acc>) {
      const int64_t count = last - i < kWidth<Acc> ? last - i : kWidth<Acc>;
      Store(line_ + filled_, values(i, count));
      filled_ += count;
    }
    if (filled_ == kLine<T>) SendLine();
    return last;
  }

  void SendLine() {
    const int64_t n = kLine<T> - before_;
    if (before_ > 0) {
      Finish();
    } else {
      for (int64_t j = 0; j < kLine<T>; j += kWidth<Acc>) Stream(target_ + j, Load(line_ + j));
    }
    target_ += n;
    before_ = 0;
    filled_ = 0;
  }

  T* target_;
  bool stream_;
  int64_t before_;  // elements of the first line that are not the output's
  int64_t filled_;  // elements in line_, those before the output included
  alignas(kLineBytes) T line_[kLine<T> + kWidth<Acc>];
};

}  // namespace onnxloss::ONNXLOSS_TARGET
