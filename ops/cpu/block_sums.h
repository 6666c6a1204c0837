// SPDX-License-Identifier: MIT
// The vector loops over one block of a long row.
#pragma once

#include "cpu/blocks.h"
#include "rows/cross_entropy.h"

namespace onnxloss::ONNXLOSS_TARGET {

template <class Acc>
struct BlockSums {
  Acc max = -Infinity<Acc>();
  Acc count_max = 0;
  Acc rest = 0;
  Acc gap = 0;
  Acc total = 0;
};

template <class Acc>
inline Acc MaxOf(const Acc* __restrict x, int64_t n) {
  const int64_t whole = n / kGroup * kGroup;
  Acc max = -Infinity<Acc>();
#pragma omp simd reduction(max : max)
  for (int64_t i = 0; i < whole; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

template <class Acc>
inline void ExpOf(const Acc* __restrict x, int64_t n, Acc max, Acc* __restrict e) {
  const int64_t whole = n / kGroup * kGroup;
#pragma omp simd
  for (int64_t i = 0; i < whole; ++i) e[i] = ExpNonPositive(x[i] - max);
}

// factor * exp(x - max), line by line from the registers to memory.
template <class Acc>
inline void StreamScaledExp(const Acc* __restrict x, int64_t n, Acc max, Acc factor, char* target) {
  constexpr int64_t kPerLine = kLine / static_cast<int64_t>(sizeof(Acc));
  for (int64_t i = 0; i < n; i += kPerLine) {
    alignas(kLine) Acc line[kPerLine];
#pragma omp simd
    for (int64_t j = 0; j < kPerLine; ++j) line[j] = ExpNonPositive(x[i + j] - max) * factor;
    StreamLine(target + i * static_cast<int64_t>(sizeof(Acc)), reinterpret_cast<const char*>(line));
  }
}

enum class Sum { kBelowMax, kWithMax };
enum class Keep { kNothing, kExponentials };
// Whose dense coefficients a block has: none, one number for all its classes, or one for each.
enum class Dense { kNone, kUniform, kEach };

// n is a whole number of groups. kBelowMax supposes every element below `max` and reports the
// greatest that it met; kWithMax tells those equal to `max` from the others.
template <Sum kSum, Keep kKeep, Dense kDense, class Acc>
inline BlockSums<Acc> SumBlock(const Acc* __restrict x, const Acc* __restrict coefficients,
                               int64_t n, Acc max, Acc* __restrict kept) {
  const Acc shift = Shift(max);
  const int64_t whole = n / kGroup * kGroup;
  Acc greatest = -Infinity<Acc>();
  Acc count = 0;
  Acc rest = 0;
  Acc gap = 0;
  Acc total = 0;
#pragma omp simd reduction(+ : count, rest, gap, total) reduction(max : greatest)
  for (int64_t i = 0; i < whole; ++i) {
    const Acc e = ScaledExp(x[i] - shift);
    if constexpr (kKeep == Keep::kExponentials) kept[i] = e * kExpScale<Acc>;
    if constexpr (kSum == Sum::kBelowMax) {
      greatest = x[i] > greatest ? x[i] : greatest;
      rest += e;
    } else {
      const bool is_max = x[i] == max;
      count += is_max ? Acc{1} : Acc{0};
      rest += is_max ? Acc{0} : e;
    }
    if constexpr (kDense == Dense::kUniform) gap += shift - x[i];
    if constexpr (kDense == Dense::kEach) {
      const Acc a = coefficients[i];
      gap += a == 0 ? Acc{0} : a * (shift - x[i]);
      total += a;
    }
  }
  if constexpr (kDense == Dense::kUniform) {
    gap *= coefficients[0];
    total = coefficients[0] * static_cast<Acc>(whole);
  }
  return {kSum == Sum::kBelowMax ? greatest : max, count, rest * kExpScale<Acc>, gap, total};
}

}  // namespace onnxloss::ONNXLOSS_TARGET
