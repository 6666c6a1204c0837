// SPDX-License-Identifier: MIT
// The machine's vectors of the accumulator's type, and their way from and to memory.
#pragma once

#include <cstring>
#include <type_traits>

#include "rows/math.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace onnxloss::ONNXLOSS_TARGET {

#if defined(__AVX512F__)
constexpr int64_t kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int64_t kVectorBytes = 32;
#else
constexpr int64_t kVectorBytes = 16;
#endif

template <class Acc>
struct VectorTypes;
template <>
struct VectorTypes<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
  typedef uint16_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
};
template <>
struct VectorTypes<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t Bits __attribute__((vector_size(kVectorBytes)));
};
// Vectors of the compiler's, with its operators; the row maths takes them for numbers.
template <class Acc>
using Vector = typename VectorTypes<Acc>::Vector;
template <class Acc>
using VectorBits = typename VectorTypes<Acc>::Bits;

template <class Acc>
constexpr int64_t kWidth = kVectorBytes / static_cast<int64_t>(sizeof(Acc));

template <>
struct NumberTypes<Vector<float>> {
  using Scalar = float;
  using Bits = VectorBits<float>;
};
template <>
struct NumberTypes<Vector<double>> {
  using Scalar = double;
  using Bits = VectorBits<double>;
};

#if defined(__AVX512F__)
// The forms with a mask throughout: gcc 12 warns of its own header in the others.
constexpr __mmask16 kAll = 0xffff;

// exp(x) = 2^n 2^(j/16) exp(r): the sixteen powers fit a register, and |r| <= ln 2 / 32 leaves a
// short polynomial. Below the lowest, scalef gives 0; it takes n + j/16 and leaves j out by itself.
// nan stays nan, since max gives its second operand then.
template <>
struct ExpOf<Vector<float>> {
  static SCE_HD Vector<float> NonPositive(Vector<float> x) {
    constexpr float kRound = 0x1.8p19f;
    const Vector<float> powers = {0x1p0f,        0x1.0b5586p0f, 0x1.172b84p0f, 0x1.2387a6p0f,
                                  0x1.306fep0f,  0x1.3dea64p0f, 0x1.4bfdaep0f, 0x1.5ab07ep0f,
                                  0x1.6a09e6p0f, 0x1.7a1148p0f, 0x1.8ace54p0f, 0x1.9c4918p0f,
                                  0x1.ae89fap0f, 0x1.c199bep0f, 0x1.d5818ep0f, 0x1.ea4afap0f};
    x = _mm512_maskz_max_ps(kAll, _mm512_set1_ps(-152.0f), x);
    const Vector<float> shifted = x * ExpConstants<float>::kLog2E + kRound;
    const Vector<float> n = shifted - kRound;
    const Vector<float> r = ExpConstants<float>::Reduced(x, n);
    const Vector<float> power =
        _mm512_maskz_permutexvar_ps(kAll, BitCast<__m512i>(shifted), powers);
    const Vector<float> q = ((1.666666716e-1f * r + 0.5f) * r + 1.0f) * r;
    return _mm512_maskz_scalef_ps(kAll, power * q + power, n);
  }
};
template <>
struct ExpOf<Vector<double>> {
  static SCE_HD Vector<double> NonPositive(Vector<double> x) {
    using K = ExpConstants<double>;
    x = _mm512_maskz_max_pd(kAll & 0xff, _mm512_set1_pd(-760.0), x);
    const Vector<double> shifted = x * K::kLog2E + K::kRound;
    const Vector<double> n = shifted - K::kRound;
    return _mm512_maskz_scalef_pd(kAll & 0xff, K::Polynomial(K::Reduced(x, n)), n);
  }
};
#endif

template <class V>
struct __attribute__((packed, may_alias)) Unaligned {
  V value;
};
template <class V, class T>
inline V LoadAs(const T* source) {
  return reinterpret_cast<const Unaligned<V>*>(source)->value;
}
template <class V, class T>
inline void StoreAs(T* target, V value) {
  reinterpret_cast<Unaligned<V>*>(target)->value = value;
}

using NarrowVector = VectorTypes<float>::Narrow;

// To the low 16 bits of each 32.
inline VectorBits<float> WidenBits(NarrowVector bits) {
#if defined(__AVX512F__)
  return BitCast<VectorBits<float>>(_mm512_maskz_cvtepu16_epi32(kAll, BitCast<__m256i>(bits)));
#elif defined(__AVX2__)
  return BitCast<VectorBits<float>>(_mm256_cvtepu16_epi32(BitCast<__m128i>(bits)));
#else
  return __builtin_convertvector(bits, VectorBits<float>);
#endif
}

inline Vector<float> WidenHalves(NarrowVector halves) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(kAll, BitCast<__m256i>(halves));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(BitCast<__m128i>(halves));
#else
  return HalfToFloat<Vector<float>>(WidenBits(halves));
#endif
}

#if defined(__AVX512F__)
// Moves 16-bit elements about in one step; those without a bit in kUsed become 0.
template <uint32_t kUsed>
inline __m512i Permute16(__m512i places, __m512i elements) {
  return _mm512_maskz_permutexvar_epi16(kUsed, places, elements);
}
#endif

inline Vector<float> WidenBFloat16(NarrowVector bits) {
#if defined(__AVX512F__)
  // Element i to the high half of number i.
  const VectorBits<float> places = {0 << 16,  1 << 16,  2 << 16,  3 << 16, 4 << 16,  5 << 16,
                                    6 << 16,  7 << 16,  8 << 16,  9 << 16, 10 << 16, 11 << 16,
                                    12 << 16, 13 << 16, 14 << 16, 15 << 16};
  const __m512i elements = _mm512_castsi256_si512(BitCast<__m256i>(bits));
  return BitCast<Vector<float>>(Permute16<0xaaaaaaaa>(BitCast<__m512i>(places), elements));
#else
  return BitCast<Vector<float>>(WidenBits(bits) << 16);
#endif
}

inline NarrowVector NarrowToBFloat16(Vector<float> values) {
#if defined(__AVX512F__)
  // The high half of number i to element i.
  const VectorBits<float> places = {0x00030001, 0x00070005, 0x000b0009, 0x000f000d,
                                    0x00130011, 0x00170015, 0x001b0019, 0x001f001d};
  const __m512i rounded = BitCast<__m512i>(BFloat16Bits(values));
  const __m512i packed = Permute16<0xffff>(BitCast<__m512i>(places), rounded);
  return BitCast<NarrowVector>(_mm512_maskz_extracti64x4_epi64(0xf, packed, 0));
#else
  return __builtin_convertvector(BFloat16Bits(values) >> 16, NarrowVector);
#endif
}

inline NarrowVector NarrowToHalves(Vector<float> values) {
#if defined(__AVX512F__)
  return BitCast<NarrowVector>(_mm512_maskz_cvtps_ph(kAll, values, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  return BitCast<NarrowVector>(_mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
#else
  return __builtin_convertvector(HalfBits(values), NarrowVector);
#endif
}

// kWidth elements from memory of any alignment.
template <class T>
inline Vector<Accumulator<T>> Load(const T* source) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    return LoadAs<Vector<T>>(source);
  } else {
    const NarrowVector narrow = LoadAs<NarrowVector>(source);
    if constexpr (std::is_same_v<T, BFloat16>) {
      return WidenBFloat16(narrow);
    } else {
      return WidenHalves(narrow);
    }
  }
}

// The first `count` elements, then `filler`.
template <class T>
inline Vector<Accumulator<T>> LoadFirst(const T* source, int64_t count, T filler) {
  constexpr int64_t n = kWidth<Accumulator<T>>;
  if (count == n) return Load(source);
  alignas(kVectorBytes) T part[n];
#if defined(__AVX512F__)
  // One load that skips the others, which may not be there.
  const __mmask16 first = static_cast<__mmask16>((1u << count) - 1);
  if constexpr (std::is_same_v<T, float>) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(filler), first, source);
  } else if constexpr (std::is_same_v<T, double>) {
    return _mm512_mask_loadu_pd(_mm512_set1_pd(filler), static_cast<__mmask8>(first), source);
  } else {
    const __m256i others = _mm256_set1_epi16(BitCast<int16_t>(filler));
    StoreAs(part, _mm256_mask_loadu_epi16(others, first, source));
    return Load(part);
  }
#endif
  for (int64_t i = 0; i < n; ++i) part[i] = i < count ? source[i] : filler;
  return Load(part);
}

// What memory gets of a vector: rounded to nearest even where T is narrower.
template <class T>
inline auto Narrowed(Vector<Accumulator<T>> values) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    return values;
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return NarrowToBFloat16(values);
  } else {
    return NarrowToHalves(values);
  }
}

template <class T>
inline void Store(T* target, Vector<Accumulator<T>> values) {
  StoreAs(target, Narrowed<T>(values));
}

// Past the caches; `target` is aligned to the bytes written.
template <class T>
inline void Stream(T* target, Vector<Accumulator<T>> values) {
  const auto narrowed = Narrowed<T>(values);
#if defined(__AVX512F__)
  if constexpr (sizeof(narrowed) == 64) {
    return _mm512_stream_si512(reinterpret_cast<__m512i*>(target), BitCast<__m512i>(narrowed));
  }
#endif
#if defined(__AVX__)
  if constexpr (sizeof(narrowed) == 32) {
    return _mm256_stream_si256(reinterpret_cast<__m256i*>(target), BitCast<__m256i>(narrowed));
  }
#endif
#if defined(__SSE2__)
  if constexpr (sizeof(narrowed) == 16) {
    return _mm_stream_si128(reinterpret_cast<__m128i*>(target), BitCast<__m128i>(narrowed));
  }
  if constexpr (sizeof(narrowed) == 8) {
    return _mm_stream_si64(reinterpret_cast<long long*>(target), BitCast<long long>(narrowed));
  }
#endif
  StoreAs(target, narrowed);
}

// Fetches to the second cache what a loop will read soon. Without it a stream from memory waits for
// the stores between its loads.
template <class T>
inline void FetchAhead(const T* source) {
  constexpr int64_t kAheadBytes = 8192;
  __builtin_prefetch(reinterpret_cast<const char*>(source) + kAheadBytes, 0, 2);
}

template <class Acc>
inline Vector<Acc> Splat(Acc value) {
  return value - Vector<Acc>{};
}

template <class V>
inline V Max(V a, V b) {
  return a > b ? a : b;
}

// The upper half of the first 2 * kHalf elements, moved down.
template <int kHalf, class V>
inline V UpperHalf(V v) {
  constexpr int h = kHalf;
  if constexpr (sizeof(v) / sizeof(v[0]) == 16) {
    return __builtin_shufflevector(v, v, h, h + 1, h + 2, h + 3, h + 4, h + 5, h + 6, h + 7, 0, 0,
                                   0, 0, 0, 0, 0, 0);
  } else if constexpr (sizeof(v) / sizeof(v[0]) == 8) {
    return __builtin_shufflevector(v, v, h, (h + 1) % 8, (h + 2) % 8, (h + 3) % 8, 0, 0, 0, 0);
  } else if constexpr (sizeof(v) / sizeof(v[0]) == 4) {
    return __builtin_shufflevector(v, v, h, (h + 1) % 4, 0, 0);
  } else {
    return __builtin_shufflevector(v, v, h, 0);
  }
}

// Joins all elements of a vector in as few steps as halving takes.
template <class V, class Join>
inline auto Reduced(V v, const Join& join) {
  constexpr int n = static_cast<int>(sizeof(v) / sizeof(v[0]));
  if constexpr (n >= 16) v = join(UpperHalf<8>(v), v);
  if constexpr (n >= 8) v = join(UpperHalf<4>(v), v);
  if constexpr (n >= 4) v = join(UpperHalf<2>(v), v);
  return join(UpperHalf<1>(v), v)[0];
}

template <class V>
inline auto GreatestOf(V v) {
  return Reduced(v, [](V a, V b) { return Max(a, b); });
}

template <class V>
inline double SumOf(V v) {
  return static_cast<double>(Reduced(v, [](V a, V b) { return a + b; }));
}

}  // namespace onnxloss::ONNXLOSS_TARGET
