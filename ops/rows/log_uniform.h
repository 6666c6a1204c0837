// SPDX-License-Identifier: MIT
// The log-uniform distribution over K classes that are sorted by falling frequency:
//
//   p(v) = log((v + 2) / (v + 1)) / log(K + 1), v in [0, K)
#pragma once

#include "rows/math.h"

namespace onnxloss::ONNXLOSS_TARGET {

// log(K + 1), rounded to float: Paddle holds it so, and it takes part in the draws.
SCE_HD double LogRange(int64_t classes) {
  return static_cast<double>(static_cast<float>(::log(static_cast<double>(classes + 1))));
}

// How often `value` is expected among `num_samples` distinct ones that `num_tries` draws gave.
SCE_HD double ExpectedCount(int64_t value, double log_range, int64_t num_samples,
                            int64_t num_tries) {
  const double v = static_cast<double>(value);
  const double p = ::log((v + 2) / (v + 1)) / log_range;
  if (num_tries == num_samples) return p * static_cast<double>(num_samples);
  return -::expm1(static_cast<double>(num_tries) * ::log1p(-p));
}

}  // namespace onnxloss::ONNXLOSS_TARGET
