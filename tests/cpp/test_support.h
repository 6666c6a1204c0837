// SPDX-License-Identifier: MIT
// What the C++ tests share: random choices, buffers of numbers, tasks on threads, and failures.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cpu/kernels.h"
#include "elements.h"
#include "guarded_buffer.h"

namespace onnxloss::tests {

// What CTest takes for "skipped".
constexpr int kSkipped = 77;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  int64_t Below(int64_t count) {
    return static_cast<int64_t>(engine_() % static_cast<uint64_t>(count));
  }
  bool OneIn(int64_t count) { return Below(count) == 0; }
  // Sixteenths, which every element type holds.
  double Sixteenths(int64_t low, int64_t high) {
    return static_cast<double>(low + Below(high - low + 1)) / 16;
  }
  template <class Choice, size_t kCount>
  Choice One(const Choice (&choices)[kCount]) {
    return choices[Below(static_cast<int64_t>(kCount))];
  }

 private:
  std::mt19937_64 engine_;
};

// A guarded tensor.
class Numbers {
 public:
  Numbers(ElementType type, size_t count, Place place)
      : type_(type), count_(count), buffer_(count * SizeOf(type), SizeOf(type), place) {}
  Numbers(ElementType type, const std::vector<double>& values, Place place)
      : Numbers(type, values.size(), place) {
    for (size_t i = 0; i < count_; ++i) Encode(type, values[i], data(), static_cast<int64_t>(i));
    buffer_.Seal();
  }

  void* data() const { return buffer_.data(); }
  double at(size_t i) const { return Decode(type_, data(), static_cast<int64_t>(i)); }
  size_t count() const { return count_; }
  ElementType type() const { return type_; }
  bool NeighboursIntact() const { return buffer_.NeighboursIntact(); }

 private:
  ElementType type_;
  size_t count_;
  GuardedBuffer buffer_;
};

// body(first, last) for [0, count) in steps, by this many threads that take what comes next, as
// ONNX Runtime's do.
template <class Body>
void ForTasks(int64_t count, int64_t step, int threads, Body body) {
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t first = 0; (first = next.fetch_add(1) * step) < count;) {
      body(first, first + step < count ? first + step : count);
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
}

[[noreturn]] __attribute__((format(printf, 2, 3))) inline void Fail(const std::string& what,
                                                                    const char* format, ...) {
  std::fprintf(stderr, "%s: ", what.c_str());
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::exit(1);
}

inline void ExpectNear(const std::string& what, const char* name, size_t i, double result,
                       double truth, double allowed) {
  const bool same_kind = std::isfinite(truth)
                             ? std::isfinite(result) && std::fabs(result - truth) <= allowed
                         : std::isnan(truth) ? std::isnan(result)
                                             : result == truth;
  if (same_kind) return;
  Fail(what, "%s[%zu] is %.17g; expected %.17g within %.3g", name, i, result, truth, allowed);
}

// truth / divisor, within `units` of the type's epsilon times the greatest of 1, the truth, and the
// `terms` that it was formed from. Precision is the subject of tests/test_accuracy.py; this finds
// numbers that are wrong.
inline void ExpectNumbers(const std::string& what, const char* name, const Numbers& result,
                          const std::vector<double>& truth, const std::vector<double>& terms,
                          double divisor, double units) {
  if (!result.NeighboursIntact()) Fail(what, "%s: memory around it was written", name);
  for (size_t i = 0; i < result.count(); ++i) {
    double scale = 1;
    for (const double number : {truth[i] / divisor, terms[i] / divisor}) {
      if (std::isfinite(number)) scale = std::fmax(scale, std::fabs(number));
    }
    ExpectNear(what, name, i, result.at(i), truth[i] / divisor,
               units * EpsilonOf(result.type()) * scale);
  }
}

// Chooses the instruction set named on the command line; exits where this machine lacks it.
inline void ChooseInstructionSet(int argc, char** argv) {
  if (argc != 2) Fail(argv[0], "expected the name of an instruction set");
  if (SetInstructionSet(argv[1])) return;
  std::printf("this machine does not run %s\n", argv[1]);
  std::exit(kSkipped);
}

}  // namespace onnxloss::tests
