// SPDX-License-Identifier: MIT
// The vectors of short rows, several of which share a vector.
#pragma once

#include <type_traits>

#include "cpu/vector_memory.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Element i is element places[i] of `values`.
template <class V, class Bits>
inline V Permuted(V values, Bits places) {
#if defined(__AVX512F__)
  const __m512i all = BitCast<__m512i>(places);
  if constexpr (sizeof(values[0]) == sizeof(float)) {
    return _mm512_maskz_permutexvar_ps(kAll, all, values);
  } else {
    return _mm512_maskz_permutexvar_pd(kAll & 0xff, all, values);
  }
#else
#if defined(__AVX2__)
  if constexpr (sizeof(values[0]) == sizeof(float)) {
    return _mm256_permutevar8x32_ps(values, BitCast<__m256i>(places));
  }
#elif defined(__SSSE3__)
  if constexpr (sizeof(values[0]) == sizeof(float)) {
    // Of each place, the four bytes of its element.
    const __m128i to_each = _mm_set_epi8(12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0);
    const __m128i in_each = _mm_set1_epi32(0x03020100);
    const __m128i first = _mm_shuffle_epi8(BitCast<__m128i>(places << 2), to_each);
    const __m128i bytes = _mm_add_epi8(first, in_each);
    return BitCast<V>(_mm_shuffle_epi8(BitCast<__m128i>(values), bytes));
  }
#endif
  V permuted = values;
  for (int i = 0; i < kElements<V>; ++i) permuted[i] = values[places[i]];
  return permuted;
#endif
}

// What rows are read in.
template <class Number, int64_t kCount>
struct RowTypes {
  typedef Number Vector __attribute__((vector_size(kCount * sizeof(Number))));
};
template <class Number, int64_t kCount>
using RowVector = typename RowTypes<Number, kCount>::Vector;

// Calls visit(type) with a vector of the type for rows of n elements: a whole one, unless half of a
// row's last would be empty.
template <class Acc, class Visitor>
inline void WithRowVector(int64_t n, const Visitor& visit) {
  constexpr int64_t half = 8;
  if constexpr (kWidth<Acc> > half) {
    if ((n + half - 1) / half % 2 != 0) return visit(RowVector<Acc, half>{});
  }
  visit(Vector<Acc>{});
}

// A row's vector from memory of any alignment, where a whole vector can be read.
template <class R, class T>
inline R LoadRow(const T* source) {
  if constexpr (sizeof(T) == sizeof(Accumulator<T>)) {
    return LoadAs<R>(source);
  } else {
    const Vector<float> numbers = Load(source);
    return LoadAs<R>(&numbers);
  }
}

// Element i of the result joins the elements of v[i]; there are as many vectors as elements.
template <int kUnit = 1, class V, class Join>
SCE_HD V JoinedEach(V* v, const Join& join) {
  constexpr int width = kElements<V>;
  if constexpr (kUnit == width) {
    return v[0];
  } else {
    constexpr int in_16_bytes = 16 / static_cast<int>(sizeof(v[0][0]));
    constexpr int block = in_16_bytes < 2 * kUnit ? 2 * kUnit : in_16_bytes;
#pragma GCC unroll 8
    for (int i = 0; i < width / kUnit / 2; ++i) {
      v[i] = join(Interleaved<0, kUnit, block>(v[2 * i], v[2 * i + 1]),
                  Interleaved<1, kUnit, block>(v[2 * i], v[2 * i + 1]));
    }
    return JoinedEach<2 * kUnit>(v, join);
  }
}

// Of as many rows as a vector has elements, of n elements each, which are no fewer: of(r, i) is the
// vector of row r that begins i elements after the first row does. Vectors of a row may overlap,
// and join(a, a) is a.
template <class R, class Of, class Join>
SCE_HD R JoinedRows(int64_t n, const Of& of, const Join& join) {
  constexpr int64_t w = kElements<R>;
  R row[w];
#pragma GCC unroll 16
  for (int64_t r = 0; r < w; ++r) row[r] = of(r, r * n);
  for (int64_t c = w; c < n; c += w) {
    int64_t i = c + w <= n ? c : n - w;
#pragma GCC unroll 16
    for (int64_t r = 0; r < w; ++r, i += n) row[r] = join(of(r, i), row[r]);
  }
  return JoinedEach(row, join);
}

// The same of sums, where what is beyond its row counts as 0.
template <class R, class Of>
SCE_HD R SumOfRows(int64_t n, const Of& of) {
  using Acc = std::decay_t<decltype(R{}[0])>;
  constexpr int64_t w = kElements<R>;
  R sum[w] = {};
  int64_t c = 0;
  for (; c + w <= n; c += w) {
    int64_t i = c;
#pragma GCC unroll 16
    for (int64_t r = 0; r < w; ++r, i += n) sum[r] += of(r, i);
  }
  if (c < n) {
    R place;
    for (int64_t l = 0; l < w; ++l) place[l] = static_cast<Acc>(l);
    const auto used = place < R{} + static_cast<Acc>(n - c);
    int64_t i = c;
#pragma GCC unroll 16
    for (int64_t r = 0; r < w; ++r, i += n) sum[r] += used ? of(r, i) : R{};
  }
  return JoinedEach(sum, [](R a, R b) { return a + b; });
}

// Which elements of a vector differ from others, and how many those of many vectors are. CountMarks
// counts those of elements [first, first + n) of vectors that follow each other, and may read
// kBeyondMarks more.
#if defined(__AVX512F__)
template <class Acc>
struct Marks {
  std::conditional_t<std::is_same_v<Acc, float>, __mmask16, __mmask8> bits;

  static Marks Different(Vector<Acc> a, Vector<Acc> b) {
    if constexpr (std::is_same_v<Acc, float>) {
      // gcc 12 would take k0 for the intrinsic's result, which cannot select, and copy it.
      Marks different;
      asm("vcmpneqps %2, %1, %0" : "=Yk"(different.bits) : "v"(a), "v"(b));
      return different;
    } else {
      return {_mm512_cmp_pd_mask(a, b, _CMP_NEQ_UQ)};
    }
  }
  bool Any() const { return bits != 0; }
  Vector<Acc> Choose(Vector<Acc> marked, Vector<Acc> other) const {
    if constexpr (std::is_same_v<Acc, float>) {
      return _mm512_mask_mov_ps(other, bits, marked);
    } else {
      return _mm512_mask_mov_pd(other, bits, marked);
    }
  }
  // The others are 0.
  template <class T>
  Vector<Acc> ScaledExpOf(Vector<Acc> x) const {
    return ScaledExp<T>(x, bits);
  }
};
template <class Acc>
struct MarkCount {
  int64_t count = 0;

  void Add(Marks<Acc> marks) { count += __builtin_popcount(marks.bits); }
  int64_t Total() const { return count; }
};
template <class Acc>
constexpr int64_t kBeyondMarks = 8 / static_cast<int64_t>(sizeof(Marks<Acc>));
template <class Acc>
inline int64_t CountMarks(const Marks<Acc>* marks, int64_t first, int64_t n) {
  constexpr int64_t kStep = 56;  // bits of 8 bytes, wherever in the first one they begin
  const char* bytes = reinterpret_cast<const char*>(marks);
  int64_t count = 0;
  for (const int64_t last = first + n; first < last; first += kStep) {
    const int64_t few = last - first < kStep ? last - first : kStep;
    const uint64_t bits = LoadAs<uint64_t>(bytes + first / 8) >> first % 8;
    count += __builtin_popcountll(bits << (64 - few));
  }
  return count;
}
#else
template <class Acc>
struct Marks {
  VectorBits<Acc> bits;

  static Marks Different(Vector<Acc> a, Vector<Acc> b) {
    return {BitCast<VectorBits<Acc>>(a != b)};
  }
  bool Any() const {
    const auto pairs = BitCast<VectorBits<double>>(bits);
    uint64_t any = 0;
    for (int64_t i = 0; i < kWidth<double>; ++i) any |= pairs[i];
    return any != 0;
  }
  Vector<Acc> Choose(Vector<Acc> marked, Vector<Acc> other) const { return bits ? marked : other; }
  template <class T>
  Vector<Acc> ScaledExpOf(Vector<Acc> x) const {
    return Choose(ScaledExp<T>(x), Vector<Acc>{});
  }
};
template <class Acc>
struct MarkCount {
  VectorBits<Acc> negative = {};  // a mark is -1

  void Add(Marks<Acc> marks) { negative += marks.bits; }
  int64_t Total() const {
    int64_t total = 0;
    for (int64_t i = 0; i < kWidth<Acc>; ++i) total += static_cast<int64_t>(0 - negative[i]);
    return total;
  }
};
template <class Acc>
constexpr int64_t kBeyondMarks = 0;
template <class Acc>
inline int64_t CountMarks(const Marks<Acc>* marks, int64_t first, int64_t n) {
  using Bits = typename NumberTypes<Acc>::Bits;
  const Bits* set = reinterpret_cast<const Bits*>(marks) + first;
  Bits count = 0;
#pragma omp simd reduction(+ : count)
  for (int64_t i = 0; i < n; ++i) count -= LoadAs<Bits>(set + i);
  return static_cast<int64_t>(count);
}
#endif

}  // namespace onnxloss::ONNXLOSS_TARGET
