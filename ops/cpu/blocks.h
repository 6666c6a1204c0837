// SPDX-License-Identifier: MIT
// Blocks of elements between memory and the accumulator's type.
#pragma once

#include <cstring>

#include "rows/math.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace onnxloss::ONNXLOSS_TARGET {

// Loops run over whole groups of this many elements, so that no scalar remainder is left.
constexpr int64_t kGroup = 16;

constexpr int64_t kLine = 64;

inline int64_t RoundUp(int64_t n) { return (n + kGroup - 1) / kGroup * kGroup; }

template <class T>
inline void Widen(const T* __restrict source, int64_t n, Accumulator<T>* __restrict target) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) target[i] = ToFloat(source[i]);
}

template <class T>
inline void Narrow(const Accumulator<T>* __restrict source, int64_t n, T* __restrict target) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) target[i] = FromFloat<T>(source[i]);
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

template <>
inline void Narrow<Half>(const float* __restrict source, int64_t n, Half* __restrict target) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), half);
  }
  for (; i < n; ++i) target[i] = FromFloat<Half>(source[i]);
}
#endif

// `n` elements of `source` in the accumulator's type and a whole number of groups: the source
// itself where it is that already, else a copy in `scratch` that ends in `filler`.
template <class T>
inline const Accumulator<T>* Load(const T* source, int64_t n, Accumulator<T> filler,
                                  Accumulator<T>* scratch) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    if (n % kGroup == 0) return source;
    std::memcpy(scratch, source, static_cast<size_t>(n) * sizeof(T));
  } else {
    Widen(source, n, scratch);
  }
  for (int64_t i = n; i < RoundUp(n); ++i) scratch[i] = filler;
  return scratch;
}

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
