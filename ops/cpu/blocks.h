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

// Copies past the caches, for outputs that no cache could hold until they are read. The target may
// have any alignment. Call Fence before another thread reads it.
inline void Stream(void* target, const void* source, int64_t bytes) {
  char* to = static_cast<char*>(target);
  const char* from = static_cast<const char*>(source);
#if defined(__SSE2__)
  const int64_t to_line = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(to) & 63);
  const int64_t head = to_line < bytes ? to_line : bytes;
  std::memcpy(to, from, static_cast<size_t>(head));
  int64_t i = head;
  for (; i + 64 <= bytes; i += 64) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
#else
    for (int64_t j = 0; j < 64; j += 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i + j),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i + j)));
    }
#endif
  }
  std::memcpy(to + i, from + i, static_cast<size_t>(bytes - i));
#else
  std::memcpy(to, from, static_cast<size_t>(bytes));
#endif
}

inline void Fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

constexpr int64_t kStoreBlock = 1024;

template <class T>
inline void Store(const Accumulator<T>* source, int64_t n, T* target, bool stream) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    const int64_t bytes = n * static_cast<int64_t>(sizeof(T));
    if (stream) {
      Stream(target, source, bytes);
    } else {
      std::memcpy(target, source, static_cast<size_t>(bytes));
    }
  } else {
    alignas(64) T narrow[kStoreBlock];
    for (int64_t i = 0; i < n; i += kStoreBlock) {
      const int64_t count = n - i < kStoreBlock ? n - i : kStoreBlock;
      if (!stream) {
        Narrow(source + i, count, target + i);
        continue;
      }
      Narrow(source + i, count, narrow);
      Stream(target + i, narrow, count * static_cast<int64_t>(sizeof(T)));
    }
  }
}

template <class T>
inline void StoreZeros(int64_t n, T* target, bool stream) {
  alignas(64) static constexpr char kZeros[1024] = {};
  char* to = reinterpret_cast<char*>(target);
  const int64_t bytes = n * static_cast<int64_t>(sizeof(T));
  if (!stream) {
    std::memset(to, 0, static_cast<size_t>(bytes));
    return;
  }
  for (int64_t i = 0; i < bytes; i += 1024) {
    Stream(to + i, kZeros, bytes - i < 1024 ? bytes - i : 1024);
  }
}

}  // namespace onnxloss::ONNXLOSS_TARGET
