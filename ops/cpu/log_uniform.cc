// SPDX-License-Identifier: MIT
#include "cpu/log_uniform.h"

#include <sys/random.h>

#include <cmath>
#include <cstddef>
#include <random>
#include <stdexcept>

#include "rows/log_uniform.h"

namespace onnxloss {
namespace {

// Open addressing over a power of two of slots, half of them empty at the end.
class DistinctValues {
 public:
  explicit DistinctValues(int64_t count) {
    size_t slots = 8;
    while (slots < 2 * static_cast<size_t>(count)) slots *= 2;
    slots_.assign(slots, kEmpty);
  }

  bool Insert(int64_t value) {
    const size_t mask = slots_.size() - 1;
    const uint64_t mixed = static_cast<uint64_t>(value) * 0x9e3779b97f4a7c15u;
    size_t slot = static_cast<size_t>(mixed >> 32) & mask;
    while (slots_[slot] != kEmpty) {
      if (slots_[slot] == value) return false;
      slot = (slot + 1) & mask;
    }
    slots_[slot] = value;
    return true;
  }

 private:
  static constexpr int64_t kEmpty = -1;
  std::vector<int64_t> slots_;
};

// std::uniform_real_distribution<double>(0, 1) of libstdc++, whatever the library at hand: the
// draw of 64 bits rounded to double and scaled; what rounds to 1 is the largest number below.
double Uniform(std::mt19937_64& engine) {
  const double uniform = static_cast<double>(engine()) * 0x1p-64;
  return uniform < 1 ? uniform : 1 - 0x1p-53;
}

// std::random_device is not in it: that of a new libstdc++ asks for a C library as new.
uint32_t RandomSeed() {
  uint32_t seed = 0;
  if (getentropy(&seed, sizeof seed) != 0) {
    throw std::runtime_error("the system has no random numbers for seed 0; give another seed");
  }
  return seed;
}

}  // namespace

LogUniform::LogUniform(int64_t classes)
    : classes_(classes), log_range_(generic::LogRange(classes)) {}

double LogUniform::ExpectedCount(int64_t value, int64_t num_samples, int64_t num_tries) const {
  return generic::ExpectedCount(value, log_range_, num_samples, num_tries);
}

int64_t LogUniform::Value(double uniform) const {
  const double exponent = uniform * log_range_;
  // The rounded log_range_ can lead to K itself.
  return (static_cast<int64_t>(std::exp(exponent)) - 1) % classes_;
}

Draws DrawDistinct(const LogUniform& distribution, int64_t num_samples, uint32_t seed) {
  std::mt19937_64 engine(seed != 0 ? seed : RandomSeed());
  DistinctValues seen(num_samples);
  Draws draws;
  draws.values.reserve(static_cast<size_t>(num_samples));
  while (static_cast<int64_t>(draws.values.size()) < num_samples) {
    const int64_t value = distribution.Value(Uniform(engine));
    ++draws.num_tries;
    if (seen.Insert(value)) draws.values.push_back(value);
  }
  return draws;
}

}  // namespace onnxloss
