// SPDX-License-Identifier: MIT
// Draws of the log-uniform distribution, see rows/log_uniform.h.
#pragma once

#include <cstdint>
#include <vector>

namespace onnxloss {

class LogUniform {
 public:
  explicit LogUniform(int64_t classes);

  double ExpectedCount(int64_t value, int64_t num_samples, int64_t num_tries) const;
  // The value that `uniform` in [0, 1) is mapped to.
  int64_t Value(double uniform) const;
  int64_t classes() const { return classes_; }

 private:
  int64_t classes_;
  double log_range_;
};

struct Draws {
  std::vector<int64_t> values;  // distinct, in the order in which they came
  int64_t num_tries = 0;        // draws, those of values that had come before counted too
};

// `num_samples` <= K distinct values by std::mt19937_64(seed), bit by bit those of Paddle's
// sample_logits operator; seed 0 stands for a random one. Memory O(num_samples).
Draws DrawDistinct(const LogUniform& distribution, int64_t num_samples, uint32_t seed);

}  // namespace onnxloss
