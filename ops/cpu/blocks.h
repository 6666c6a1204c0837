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

// One cache line past the caches; `target` is aligned.
inline void StreamLine(char* target, const char* source) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(target), _mm512_loadu_si512(source));
#elif defined(__SSE2__)
  for (int64_t i = 0; i < kLine; i += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(target + i),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i)));
  }
#else
  std::memcpy(target, source, kLine);
#endif
}

inline void Fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Writes an output from its beginning to its end, with `stream` past the caches: for outputs that
// no cache could hold until they are read. The target may have any alignment; what does not fill a
// line waits for the next piece, so that only the first and last line are written in part. Call
// Finish at the end, and Fence before another thread reads the output.
template <class T>
class Writer {
 public:
  Writer(T* target, bool stream) : target_(reinterpret_cast<char*>(target)), stream_(stream) {}

  void Write(const Accumulator<T>* source, int64_t n) {
    if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
      Put(reinterpret_cast<const char*>(source), n * static_cast<int64_t>(sizeof(T)));
    } else {
      alignas(64) T narrow[kPiece];
      for (int64_t i = 0; i < n; i += kPiece) {
        const int64_t count = n - i < kPiece ? n - i : kPiece;
        Narrow(source + i, count, narrow);
        Put(reinterpret_cast<const char*>(narrow), count * static_cast<int64_t>(sizeof(T)));
      }
    }
  }

  void WriteZeros(int64_t n) {
    alignas(64) static constexpr char kZeros[kPiece] = {};
    const int64_t bytes = n * static_cast<int64_t>(sizeof(T));
    for (int64_t i = 0; i < bytes; i += kPiece) {
      Put(kZeros, bytes - i < kPiece ? bytes - i : kPiece);
    }
  }

  // The place of the next n elements, which the caller then streams itself; null unless they are
  // whole lines.
  char* TakeLines(int64_t n) {
    const int64_t bytes = n * static_cast<int64_t>(sizeof(T));
    const bool whole = waiting_ == 0 && bytes % kLine == 0 &&
                       (reinterpret_cast<uintptr_t>(target_) & (kLine - 1)) == 0;
    if (!stream_ || !whole) return nullptr;
    char* taken = target_;
    target_ += bytes;
    return taken;
  }

  void Finish() {
    if (waiting_ == 0) return;
    std::memcpy(target_, line_, static_cast<size_t>(waiting_));
    target_ += waiting_;
    waiting_ = 0;
  }

 private:
  static constexpr int64_t kPiece = 1024;

  void Put(const char* source, int64_t bytes) {
    if (!stream_) {
      std::memcpy(target_, source, static_cast<size_t>(bytes));
      target_ += bytes;
      return;
    }
    const int64_t offset = static_cast<int64_t>(reinterpret_cast<uintptr_t>(target_) & (kLine - 1));
    if (offset + waiting_ > 0) {
      const int64_t room = kLine - offset - waiting_;
      const int64_t taken = bytes < room ? bytes : room;
      std::memcpy(line_ + waiting_, source, static_cast<size_t>(taken));
      waiting_ += taken;
      source += taken;
      bytes -= taken;
      if (taken < room) return;
      if (offset > 0) {
        std::memcpy(target_, line_, static_cast<size_t>(waiting_));
      } else {
        StreamLine(target_, line_);
      }
      target_ += waiting_;
      waiting_ = 0;
    }
    for (; bytes >= kLine; bytes -= kLine) {
      StreamLine(target_, source);
      target_ += kLine;
      source += kLine;
    }
    std::memcpy(line_, source, static_cast<size_t>(bytes));
    waiting_ = bytes;
  }

  char* target_;
  bool stream_;
  int64_t waiting_ = 0;  // bytes in line_, which belong at target_
  alignas(64) char line_[kLine];
};

}  // namespace onnxloss::ONNXLOSS_TARGET
