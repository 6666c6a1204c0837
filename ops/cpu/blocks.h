// SPDX-License-Identifier: MIT
// Elements in the accumulator's type, and rows on their side.
#pragma once

#include "rows/math.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace onnxloss::ONNXLOSS_TARGET {

template <class T>
inline void Widen(const T* __restrict source, int64_t n, Accumulator<T>* __restrict target) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) target[i] = ToFloat(source[i]);
}

#if defined(__F16C__)
template <>
inline void Widen<Half>(const Half* __restrict source, int64_t n, float* __restrict target) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i));
    _mm256_storeu_ps(target + i, _mm256_cvtph_ps(half));
  }
  for (; i < n; ++i) target[i] = ToFloat(source[i]);
}
#endif

inline void Transpose4x4(const float* source, int64_t source_stride, float* target,
                         int64_t target_stride) {
  typedef float Vector __attribute__((vector_size(16), aligned(4), may_alias));
  const auto load = [&](int64_t r) {
    return *reinterpret_cast<const Vector*>(source + r * source_stride);
  };
  const auto store = [&](int64_t r, Vector v) {
    *reinterpret_cast<Vector*>(target + r * target_stride) = v;
  };
  const Vector a = load(0);
  const Vector b = load(1);
  const Vector c = load(2);
  const Vector d = load(3);
  const Vector ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Vector ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Vector cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Vector cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  store(0, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
  store(1, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
  store(2, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
  store(3, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
}

// target[c][r] = source[r][c]. The last squares of a row or column overlap those before them.
template <class Acc>
inline void Transpose(const Acc* source, int64_t rows, int64_t columns, int64_t source_stride,
                      Acc* target, int64_t target_stride) {
  if constexpr (sizeof(Acc) == sizeof(float)) {
    if (rows >= 4 && columns >= 4) {
      for (int64_t r = 0; r < rows; r += 4) {
        const int64_t top = r + 4 <= rows ? r : rows - 4;
        for (int64_t c = 0; c < columns; c += 4) {
          const int64_t left = c + 4 <= columns ? c : columns - 4;
          Transpose4x4(source + top * source_stride + left, source_stride,
                       target + left * target_stride + top, target_stride);
        }
      }
      return;
    }
  }
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      target[c * target_stride + r] = source[r * source_stride + c];
    }
  }
}

}  // namespace onnxloss::ONNXLOSS_TARGET
