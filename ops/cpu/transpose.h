// SPDX-License-Identifier: MIT
// Tiles of rows turned on their side, and back.
#pragma once

#include <type_traits>
#include <utility>

#include "cpu/vector_memory.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Vectors are made of pieces of 16 bytes. What crosses them goes through memory, which costs less.
// Within pieces numbers of the accumulator's size change places: two of 16 bits are one of them.
constexpr int64_t kPieces = kVectorBytes / 16;
template <class T>
constexpr int64_t kPieceWidth = 16 / static_cast<int64_t>(sizeof(T));
// As types, so that loops know how long they are.
template <class T>
constexpr std::integral_constant<int64_t, kPieceWidth<T>> kWhole = {};
template <class T>
constexpr std::integral_constant<int64_t, kPieceWidth<T> / 2> kHalf = {};

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
  using V = Vector<Accumulator<T>>;
#if defined(__AVX512F__)
  const auto piece = [=](int64_t l) { return LoadAs<__m128i>(source + l * step); };
  __m512i pieces = _mm512_zextsi128_si512(piece(0));
  pieces = _mm512_mask_broadcast_i32x4(pieces, 0xf0, piece(1));
  pieces = _mm512_mask_broadcast_i32x4(pieces, 0xf00, piece(2));
  pieces = _mm512_mask_broadcast_i32x4(pieces, 0xf000, piece(3));
  return BitCast<V>(pieces);
#elif defined(__AVX2__)
  return BitCast<V>(_mm256_set_m128i(LoadAs<__m128i>(source + step), LoadAs<__m128i>(source)));
#else
  static_assert(kPieces == 1, "a vector is a piece");
  (void)step;
  return LoadAs<V>(source);
#endif
}

template <int kPiece, class V>
inline auto PieceOf(V pieces) {
#if defined(__AVX512F__)
  // As integers it would take its way through a register.
  return _mm512_maskz_extractf32x4_ps(0xf, BitCast<__m512>(pieces), kPiece);
#elif defined(__AVX2__)
  return _mm256_extracti128_si256(BitCast<__m256i>(pieces), kPiece);
#else
  return pieces;
#endif
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

// The same of half as many vectors: element i of vector j becomes element j of half i, of which a
// vector has two.
template <class Acc>
inline void TransposeHalves(Vector<Acc>* v) {
  constexpr int64_t p = kPieceWidth<Acc>;
  if constexpr (p > 2) {
    static_assert(p == 4, "two vectors");
    const Vector<Acc> first = Interleaved<0, 1, p>(v[0], v[1]);
    v[1] = Interleaved<1, 1, p>(v[0], v[1]);
    v[0] = first;
  }
}

// columns[c][i] = rows[i][c], for as many rows of n numbers as a vector has elements; there is room
// to read a piece more. Returns the rows' maxima.
template <class T>
inline Vector<Accumulator<T>> RowsToColumns(const T* rows, int64_t n, Accumulator<T>* columns) {
  using Acc = Accumulator<T>;
  constexpr int64_t p = kPieceWidth<T>;
  constexpr int64_t turned = kPieceWidth<Acc>;
  constexpr int64_t each = p / turned;
  Vector<Acc> max = Splat(-Infinity<Acc>());
  // At most `most` classes: the steps that only others need are left out.
  const auto turn = [&](int64_t c, int64_t count, auto most) {
    Vector<Acc> v[turned];
    const T* const from = Opaque(rows + c);
    for (int64_t i = 0; i < turned; ++i) v[i] = LoadPieces(from + i * n, turned * n);
    TransposePieces<Acc>(v);
    for (int64_t i = 0; i < most.value && i < count; ++i) {
      const Vector<Acc> column = Unpacked<T>(v[i / each], i % each);
      Store(columns + (c + i) * kWidth<Acc>, column);
      max = Max(column, max);
    }
  };
  int64_t c = 0;
  for (; c + p <= n; c += p) turn(c, p, kWhole<T>);
  if (c + p / 2 < n) {
    turn(c, n - c, kWhole<T>);
  } else if (c < n) {
    turn(c, n - c, kHalf<T>);
  }
  return max;
}

// Whole pieces of `turned` vectors to rows of n numbers, the first piece of each vector first, or,
// of half as many vectors, half pieces.
template <bool kHalves, class T, class V, int... kPiece>
inline void StorePieces(const V* v, int64_t turned, T* target, int64_t n,
                        std::integer_sequence<int, kPiece...>) {
  typedef double Halves __attribute__((vector_size(16)));
  const auto rows = [&](auto number) {
    for (int64_t i = 0; i < turned; ++i, target += n) {
      if constexpr (kHalves) {
        StoreAs(target, BitCast<Halves>(PieceOf<number.value>(v[i / 2]))[i % 2]);
      } else {
        StoreAs(target, PieceOf<number.value>(v[i]));
      }
    }
  };
  (rows(std::integral_constant<int, kPiece>()), ...);
}

// The way back, of column(c). Rows ascend and classes descend: what a piece writes beyond its row
// is overwritten.
template <class T, class Column>
inline void ColumnsToRows(const Column& column, int64_t n, T* rows) {
  using Acc = Accumulator<T>;
  constexpr int64_t p = kPieceWidth<T>;
  constexpr int64_t turned = kPieceWidth<Acc>;
  constexpr auto pieces = std::make_integer_sequence<int, static_cast<int>(kPieces)>();
  const auto turn = [&](int64_t c, int64_t count) {
    const auto known = [&](int64_t i) { return i < count ? column(c + i) : Vector<Acc>{}; };
    const auto numbers = [&](int64_t i) {
      if constexpr (p == turned) {
        return known(i);
      } else {
        return 2 * i < count ? Packed<T>(column(c + 2 * i), known(2 * i + 1)) : Vector<Acc>{};
      }
    };
    Vector<Acc> v[turned];
    if (count > p / 2) {
      for (int64_t i = 0; i < turned; ++i) v[i] = numbers(i);
      TransposePieces<Acc>(v);
      StorePieces<false>(v, turned, Opaque(rows + c), n, pieces);
      return;
    }
    for (int64_t i = 0; i < turned / 2; ++i) v[i] = numbers(i);
    TransposeHalves<Acc>(v);
    StorePieces<true>(v, turned, Opaque(rows + c), n, pieces);
  };
  int64_t c = n / p * p;
  if (c < n) turn(c, n - c);
  for (c -= p; c >= 0; c -= p) turn(c, p);
}

}  // namespace onnxloss::ONNXLOSS_TARGET
