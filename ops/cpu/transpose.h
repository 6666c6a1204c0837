// SPDX-License-Identifier: MIT
// Tiles of rows turned on their side, and back.
#pragma once

#include <type_traits>
#include <utility>

#include "cpu/vector_memory.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Vectors are made of pieces of 16 bytes. Elements change places within pieces; what crosses them
// goes through memory, which costs less, and where elements may be narrower.
constexpr int64_t kPieces = kVectorBytes / 16;
template <class Acc>
constexpr int64_t kPieceWidth = 16 / static_cast<int64_t>(sizeof(Acc));

// Of the addresses that follow from this one the compiler keeps none: it would form a loop's
// sixteen beforehand, and has not so many registers.
template <class T>
inline T* Opaque(T* address) {
  asm("" : "+r"(address));
  return address;
}

// Piece l from source + l * step. A load under a mask needs no shuffle; turning takes enough of
// them.
template <class T>
inline Vector<Accumulator<T>> LoadPieces(const T* source, int64_t step) {
  if constexpr (sizeof(T) == 2) {
    const auto piece = [=](int64_t l) { return LoadAs<int64_t>(source + l * step); };
#if defined(__AVX512F__)
    __m256i pieces = _mm256_zextsi128_si256(_mm_cvtsi64_si128(piece(0)));
    pieces = _mm256_mask_set1_epi64(pieces, 1 << 1, piece(1));
    pieces = _mm256_mask_set1_epi64(pieces, 1 << 2, piece(2));
    pieces = _mm256_mask_set1_epi64(pieces, 1 << 3, piece(3));
#elif defined(__AVX2__)
    const __m128i pieces = _mm_set_epi64x(piece(1), piece(0));
#else
    const int64_t pieces = piece(0);
#endif
    return Widened<T>(BitCast<NarrowVector>(pieces));
  } else {
#if defined(__AVX512F__)
    const auto piece = [=](int64_t l) { return LoadAs<__m128i>(source + l * step); };
    __m512i pieces = _mm512_zextsi128_si512(piece(0));
    pieces = _mm512_mask_broadcast_i32x4(pieces, 0xf0, piece(1));
    pieces = _mm512_mask_broadcast_i32x4(pieces, 0xf00, piece(2));
    pieces = _mm512_mask_broadcast_i32x4(pieces, 0xf000, piece(3));
    return BitCast<Vector<T>>(pieces);
#elif defined(__AVX2__)
    return BitCast<Vector<T>>(
        _mm256_set_m128i(LoadAs<__m128i>(source + step), LoadAs<__m128i>(source)));
#else
    static_assert(kPieces == 1, "a vector is a piece");
    (void)step;
    return Load(source);
#endif
  }
}

// To memory, where the elements have the size of T: piece kPiece of what Narrowed made.
template <int kPiece, class T, class Narrow>
inline void StorePiece(T* target, Narrow v) {
  if constexpr (sizeof(T) == 2) {
    // As doubles: the upper one of two is stored without a shuffle.
#if defined(__AVX512F__)
    const __m128d two = _mm256_extractf128_pd(BitCast<__m256d>(v), kPiece / 2);
    StoreAs(target, two[kPiece % 2]);
#else
    typedef double Pieces __attribute__((vector_size(sizeof(Narrow))));
    StoreAs(target, BitCast<Pieces>(v)[kPiece]);
#endif
  } else {
#if defined(__AVX512F__)
    // As integers it would take its way through a register.
    StoreAs(target, _mm512_maskz_extractf32x4_ps(0xf, BitCast<__m512>(v), kPiece));
#elif defined(__AVX2__)
    StoreAs(target, _mm256_extracti128_si256(BitCast<__m256i>(v), kPiece));
#else
    StoreAs(target, v);
#endif
  }
}

// In each piece, element i of vector j becomes element j of vector i.
template <class Acc>
inline void TransposePieces(Vector<Acc>* v) {
  constexpr int64_t p = kPieceWidth<Acc>;
  for (int64_t step = 1; step < p; step *= 2) {
    Vector<Acc> next[p];
    for (int64_t i = 0; i < p / 2; ++i) {
      next[2 * i] = Interleaved<0, 1, p>(v[i], v[i + p / 2]);
      next[2 * i + 1] = Interleaved<1, 1, p>(v[i], v[i + p / 2]);
    }
    for (int64_t i = 0; i < p; ++i) v[i] = next[i];
  }
}

// columns[c][i] = rows[i][c], for as many rows of n numbers as a vector has elements; there is room
// to read a piece more. Returns the rows' maxima.
template <class T>
inline Vector<Accumulator<T>> RowsToColumns(const T* rows, int64_t n, Accumulator<T>* columns) {
  using Acc = Accumulator<T>;
  constexpr int64_t p = kPieceWidth<Acc>;
  Vector<Acc> max = Splat(-Infinity<Acc>());
  const auto turn = [&](int64_t c, int64_t count) {
    Vector<Acc> v[p];
    const T* const from = Opaque(rows + c);
    for (int64_t i = 0; i < p; ++i) v[i] = LoadPieces(from + i * n, p * n);
    TransposePieces<Acc>(v);
    for (int64_t i = 0; i < count; ++i) {
      Store(columns + (c + i) * kWidth<Acc>, v[i]);
      max = Max(v[i], max);
    }
  };
  int64_t c = 0;
  for (; c + p <= n; c += p) turn(c, p);
  if (c < n) turn(c, n - c);
  return max;
}

template <class T, class Narrow, int... kPiece>
inline void StorePieces(const Narrow* v, int64_t p, T* target, int64_t n,
                        std::integer_sequence<int, kPiece...>) {
  const auto rows = [&](auto piece) {
    for (int64_t i = 0; i < p; ++i, target += n) StorePiece<piece.value>(target, v[i]);
  };
  (rows(std::integral_constant<int, kPiece>()), ...);
}

// The way back, of column(c). Rows ascend and classes descend: what a piece writes beyond its row
// is overwritten.
template <class T, class Column>
inline void ColumnsToRows(const Column& column, int64_t n, T* rows) {
  using Acc = Accumulator<T>;
  constexpr int64_t p = kPieceWidth<Acc>;
  const auto turn = [&](int64_t c, int64_t count) {
    Vector<Acc> v[p];
    for (int64_t i = 0; i < p; ++i) v[i] = i < count ? column(c + i) : Vector<Acc>{};
    TransposePieces<Acc>(v);
    decltype(Narrowed<T>(v[0])) narrow[p];
    for (int64_t i = 0; i < p; ++i) narrow[i] = Narrowed<T>(v[i]);
    StorePieces(narrow, p, Opaque(rows + c), n,
                std::make_integer_sequence<int, static_cast<int>(kPieces)>());
  };
  int64_t c = n / p * p;
  if (c < n) turn(c, n - c);
  for (c -= p; c >= 0; c -= p) turn(c, p);
}

}  // namespace onnxloss::ONNXLOSS_TARGET
