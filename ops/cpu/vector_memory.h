// SPDX-License-Identifier: MIT
// The way of vectors from and to memory, where numbers may be narrower.
#pragma once

#include <type_traits>

#include "cpu/vectors.h"

namespace onnxloss::ONNXLOSS_TARGET {

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

// Of pairs of 16-bit elements the second ones, which are the high halves of numbers, or the first:
// sorted in one step for both.
inline NarrowVector OfPairs(VectorBits<float> pairs, bool second) {
#if defined(__AVX512F__)
  const VectorBits<float> places = {0x00030001, 0x00070005, 0x000b0009, 0x000f000d,
                                    0x00130011, 0x00170015, 0x001b0019, 0x001f001d,
                                    0x00020000, 0x00060004, 0x000a0008, 0x000e000c,
                                    0x00120010, 0x00160014, 0x001a0018, 0x001e001c};
  const __m512i sorted = Permute16<~0u>(BitCast<__m512i>(places), BitCast<__m512i>(pairs));
  return BitCast<NarrowVector>(second ? _mm512_maskz_extracti64x4_epi64(0xf, sorted, 0)
                                      : _mm512_maskz_extracti64x4_epi64(0xf, sorted, 1));
#elif defined(__AVX2__)
  const __m256i places = _mm256_broadcastsi128_si256(
      _mm_set_epi8(13, 12, 9, 8, 5, 4, 1, 0, 15, 14, 11, 10, 7, 6, 3, 2));
  const __m256i in_pieces = _mm256_shuffle_epi8(BitCast<__m256i>(pairs), places);
  const __m256i sorted = _mm256_permute4x64_epi64(in_pieces, 0xd8);
  return BitCast<NarrowVector>(second ? _mm256_castsi256_si128(sorted)
                                      : _mm256_extracti128_si256(sorted, 1));
#else
  return __builtin_convertvector(second ? pairs >> 16 : pairs, NarrowVector);
#endif
}

// Rounded in the high halves. Of what arithmetic gave: its nans are quiet, and stay nan if they are
// not rounded.
inline VectorBits<float> RoundedToBFloat16(Vector<float> values) {
#if defined(__AVX512F__)
  const __m512i bits = BitCast<__m512i>(values);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i to_even = _mm512_set1_epi32(0x7fff);
  const __m512i half = _mm512_mask_mov_epi32(to_even, odd, _mm512_set1_epi32(0x8000));
  const __mmask16 number = _mm512_cmp_ps_mask(values, values, _CMP_ORD_Q);
  return BitCast<VectorBits<float>>(_mm512_mask_add_epi32(bits, number, bits, half));
#else
  return BFloat16Bits(values);
#endif
}
inline NarrowVector NarrowToBFloat16(Vector<float> values) {
  return OfPairs(RoundedToBFloat16(values), true);
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

template <class T>
inline Vector<float> Widened(NarrowVector narrow) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return WidenBFloat16(narrow);
  } else {
    return WidenHalves(narrow);
  }
}

// What numbers are that may be pairs of 16-bit elements, and the way back.
template <class T, class V>
inline V Unpacked(V numbers, bool second) {
  if constexpr (sizeof(T) == sizeof(numbers[0])) {
    return numbers;
  } else {
    const VectorBits<float> pairs = BitCast<VectorBits<float>>(numbers);
    if constexpr (std::is_same_v<T, Half>) return WidenHalves(OfPairs(pairs, second));
    return BitCast<V>(second ? pairs & 0xffff0000u : pairs << 16);
  }
}
template <class T>
inline Vector<float> Packed(Vector<float> first, Vector<float> second) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const VectorBits<float> low = RoundedToBFloat16(first) >> 16;
    return BitCast<Vector<float>>(low | (RoundedToBFloat16(second) & 0xffff0000u));
  } else {
    const VectorBits<float> high = WidenBits(NarrowToHalves(second)) << 16;
    return BitCast<Vector<float>>(WidenBits(NarrowToHalves(first)) | high);
  }
}

// kWidth elements from memory of any alignment.
template <class T>
inline Vector<Accumulator<T>> Load(const T* source) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    return LoadAs<Vector<T>>(source);
  } else {
    return Widened<T>(LoadAs<NarrowVector>(source));
  }
}

// The first `count` elements, then `filler`.
template <class T>
inline Vector<Accumulator<T>> LoadFirst(const T* source, int64_t count, T filler) {
  constexpr int64_t n = kWidth<Accumulator<T>>;
  if (count == n) return Load(source);
#if defined(__AVX512F__)
  // One load that skips the others, which may not be there.
  const __mmask16 first = static_cast<__mmask16>((1u << count) - 1);
  if constexpr (std::is_same_v<T, float>) {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(filler), first, source);
  } else if constexpr (std::is_same_v<T, double>) {
    return _mm512_mask_loadu_pd(_mm512_set1_pd(filler), static_cast<__mmask8>(first), source);
  } else {
    const __m256i others = _mm256_set1_epi16(BitCast<int16_t>(filler));
    return Widened<T>(BitCast<NarrowVector>(_mm256_mask_loadu_epi16(others, first, source)));
  }
#else
  alignas(kVectorBytes) T part[n];
  for (int64_t i = 0; i < n; ++i) part[i] = i < count ? source[i] : filler;
  return Load(part);
#endif
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

// The first `count` elements, and no others.
template <class T>
inline void StoreFirst(T* target, int64_t count, Vector<Accumulator<T>> values) {
  constexpr int64_t n = kWidth<Accumulator<T>>;
  if (count == n) return Store(target, values);
  alignas(kVectorBytes) T part[n];
  Store(part, values);
  for (int64_t i = 0; i < count; ++i) target[i] = part[i];
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

constexpr int64_t kLineBytes = 64;
template <class T>
constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(T));

// Fetches to the second cache what a loop will read soon. Without it a stream from memory waits for
// the stores between its loads.
template <class T>
inline void FetchAhead(const T* source, int64_t bytes = 8192) {
  __builtin_prefetch(reinterpret_cast<const char*>(source) + bytes, 0, 2);
}

// Fetches to the first cache what a loop will write soon: stores wait for their lines, in turn.
constexpr int64_t kAheadOfStores = 2048;  // bytes
template <class T>
inline void FetchToWrite(T* target) {
  __builtin_prefetch(reinterpret_cast<char*>(target) + kAheadOfStores, 1, 3);
}

}  // namespace onnxloss::ONNXLOSS_TARGET
