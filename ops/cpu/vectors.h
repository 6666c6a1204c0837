// SPDX-License-Identifier: MIT
// The machine's vectors of the accumulator's type.
#pragma once

#include <type_traits>
#include <utility>

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

template <class V>
constexpr int kElements = static_cast<int>(sizeof(V) / sizeof(V{}[0]));

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

// Which elements among some are not below `least`, as nan is not.
inline __mmask16 NotBelow(float least, __m512 x, __mmask16 among) {
  // gcc 12 would take k0 for the intrinsic's result, which cannot select, and copy it.
  __mmask16 marks;
  asm("vcmpnltps %2, %1, %0%{%3%}"
      : "=Yk"(marks)
      : "v"(x), "v"(_mm512_set1_ps(least)), "Yk"(among));
  return marks;
}
inline __mmask8 NotBelow(double least, __m512d x, __mmask8 among) {
  return _mm512_mask_cmp_pd_mask(among, x, _mm512_set1_pd(least), _CMP_NLT_UQ);
}

// exp(x) = 2^n 2^(j/32) exp(r): the powers fit two registers, and |r| <= ln 2 / 64 leaves a short
// polynomial; scalef takes n + j/32 and leaves j out by itself. What is below the lowest, where r
// may be anything, is 0, and so are all elements but those asked for: masked, they cost nothing,
// where scalef would take a hundred times as long for what is subnormal.
template <>
struct ExpOf<Vector<float>> {
  using V = Vector<float>;
  using K = ExpConstants<float>;
  static constexpr float kScale = 0x1p24f;
  static constexpr float kRound = 0x1.8p18f;
  static constexpr float kLowest = -103.97f;

  static SCE_HD V Scaled(V x, __mmask16 among = kAll) {
    const V shifted = x * K::kLog2E + kRound;
    const V n = shifted - kRound;
    const V r = K::Reduced(x, n);
    const V power = Power(shifted, V{} + 1, V{} + 1);
    const V exp_minus_one = (0.5f * r + 0x1.0000f6p0f) * r;
    return _mm512_maskz_scalef_ps(NotBelow(kLowest, x, among), power * exp_minus_one + power, n);
  }

  // To 20 bits in a step less, and exactly where x = 0: exp(r) is close to a ((r + b)^2 + c), and
  // with b = 46/32 ln 2 it is n less 46/32 that leaves r + b of x. The powers have a, and the 2
  // octaves that scalef then takes too many, 1 from step 14 on.
  static SCE_HD V ScaledTo20Bits(V x, __mmask16 among = kAll) {
    constexpr float a = 0x1.00ee28p-1f;
    constexpr float c = 0x1.fff918p-1f;
    V octaves;
    for (int j = 0; j < kElements<V>; ++j) octaves[j] = j < 14 ? 4 : 2;
    const V shifted = x * K::kLog2E + kRound;
    const V n = shifted - (kRound + 46 / 32.0f);
    const V r_plus_b = K::Reduced(x, n);
    const V power = Power(shifted, octaves * a, V{} + 2 * a);
    return _mm512_maskz_scalef_ps(NotBelow(kLowest, x, among), power * (r_plus_b * r_plus_b + c),
                                  n);
  }

 private:
  // kScale 2^(j/32), j the low bits of `shifted`, times a factor for j < 16 and one for the others.
  static SCE_HD V Power(V shifted, V of_low, V of_high) {
    const V low = {0x1p24f,        0x1.059b0ep24f, 0x1.0b5586p24f, 0x1.11301ep24f,
                   0x1.172b84p24f, 0x1.1d4874p24f, 0x1.2387a6p24f, 0x1.29e9ep24f,
                   0x1.306fep24f,  0x1.371a74p24f, 0x1.3dea64p24f, 0x1.44e086p24f,
                   0x1.4bfdaep24f, 0x1.5342b6p24f, 0x1.5ab07ep24f, 0x1.6247ecp24f};
    const V high = {0x1.6a09e6p24f, 0x1.71f75ep24f, 0x1.7a1148p24f, 0x1.82589ap24f,
                    0x1.8ace54p24f, 0x1.93737cp24f, 0x1.9c4918p24f, 0x1.a5503cp24f,
                    0x1.ae89fap24f, 0x1.b7f77p24f,  0x1.c199bep24f, 0x1.cb720ep24f,
                    0x1.d5818ep24f, 0x1.dfc974p24f, 0x1.ea4afap24f, 0x1.f50766p24f};
    return _mm512_maskz_permutex2var_ps(kAll, low * of_low, BitCast<__m512i>(shifted),
                                        high * of_high);
  }
};
// Doubles have no scale: none that a logit should have has a subnormal exponential.
template <>
struct ExpOf<Vector<double>> {
  static constexpr double kScale = 1;
  static SCE_HD Vector<double> Scaled(Vector<double> x, __mmask8 among = kAll & 0xff) {
    using K = ExpConstants<double>;
    constexpr double kLowest = -745.133;
    const Vector<double> shifted = x * K::kLog2E + K::kRound;
    const Vector<double> n = shifted - K::kRound;
    return _mm512_maskz_scalef_pd(NotBelow(kLowest, x, among), K::Polynomial(K::Reduced(x, n)), n);
  }
};
#elif defined(__AVX2__)
// exp(x) = 2^n 2^(j/8) exp(r): the powers fit a register, and |r| <= ln 2 / 16 leaves a short
// polynomial. The low bits of a sum hold 8 n + j; shifted, they are n for the exponent and a share
// of j, which the powers lack.
template <>
struct ExpOf<Vector<float>> {
  using K = ExpConstants<float>;
  static constexpr float kScale = K::kScale;
  static SCE_HD Vector<float> Scaled(Vector<float> x) {
    constexpr float kRound = 0x1.8p20f;
    constexpr int kShift = K::kMantissa - 3;
    const Vector<float> eighths = {0x1p24f,        0x1.172b84p24f, 0x1.306fep24f,  0x1.4bfdaep24f,
                                   0x1.6a09e6p24f, 0x1.8ace54p24f, 0x1.ae89fap24f, 0x1.d5818ep24f};
    const VectorBits<float> j = {0, 1, 2, 3, 4, 5, 6, 7};
    const VectorBits<float> powers = BitCast<VectorBits<float>>(eighths) - (j << kShift);
    x = _mm256_max_ps(_mm256_set1_ps(K::kLowest), x);
    const Vector<float> shifted = x * K::kLog2E + kRound;
    const Vector<float> r = K::Reduced(x, shifted - kRound);
    const __m256i steps = BitCast<__m256i>(shifted);
    const VectorBits<float> of_j =
        BitCast<VectorBits<float>>(_mm256_permutevar8x32_epi32(BitCast<__m256i>(powers), steps));
    const Vector<float> power =
        BitCast<Vector<float>>(of_j + (BitCast<VectorBits<float>>(shifted) << kShift));
    const Vector<float> slope = (0x1.555656p-3f * r + 0x1.000874p-1f) * r + 1.0f;
    return power * (r * slope) + power;
  }
};
#endif

// exp(x) * kExpScale, for logits of type T. Exponentials of logits have this scale until the sums
// of their rows are complete: so none is subnormal.
template <class T, class... Among>
inline Vector<Accumulator<T>> ScaledExp(Vector<Accumulator<T>> x, Among... among) {
  using Exp = ExpOf<Vector<Accumulator<T>>>;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 2) return Exp::ScaledTo20Bits(x, among...);
#endif
  return Exp::Scaled(x, among...);
}
template <class Acc>
constexpr Acc kExpScale = ExpOf<Vector<Acc>>::kScale;
template <class Acc>
constexpr Acc kPerExpScale = 1 / kExpScale<Acc>;

template <class Acc>
inline Vector<Acc> Splat(Acc value) {
  return value - Vector<Acc>{};
}

// `vector` with `value` in one lane. Assigned by its index, that lane would send every vector that
// might have it through memory.
template <class V, class Acc>
inline V WithLane(V vector, int64_t lane, Acc value) {
  VectorBits<Acc> lanes = {};
  for (int i = 0; i < kWidth<Acc>; ++i) lanes[i] = i;
  return lanes == static_cast<std::decay_t<decltype(lanes[0])>>(lane) ? Splat(value) : vector;
}

template <class V>
inline V Max(V a, V b) {
  return a > b ? a : b;
}

// Element `place` of a and b, interleaved by units: of each block the first half, or the second.
constexpr int InterleavedFrom(int place, int half, int unit, int block, int width) {
  const int within = place % block;
  const int from_b = within / unit % 2;
  return place - within + half * block / 2 + within / (2 * unit) * unit + within % unit +
         from_b * width;
}
template <int kHalf, int kUnit, int kBlock, class V, int... kPlaces>
inline V InterleavedAt(V a, V b, std::integer_sequence<int, kPlaces...>) {
  return __builtin_shufflevector(a, b,
                                 InterleavedFrom(kPlaces, kHalf, kUnit, kBlock, kElements<V>)...);
}
template <int kHalf, int kUnit, int kBlock, class V>
inline V Interleaved(V a, V b) {
  if constexpr (sizeof(a[0]) == 2 && kUnit % 2 == 0) {
    // gcc would look for each 16 bits by themselves.
    typedef int32_t Pairs __attribute__((vector_size(sizeof(V))));
    return BitCast<V>(
        Interleaved<kHalf, kUnit / 2, kBlock / 2>(BitCast<Pairs>(a), BitCast<Pairs>(b)));
  }
  return InterleavedAt<kHalf, kUnit, kBlock>(a, b, std::make_integer_sequence<int, kElements<V>>());
}

// The upper half of the first 2 * kHalf elements, moved down.
template <int kHalf, class V>
inline V UpperHalf(V v) {
  constexpr int h = kHalf;
  if constexpr (kElements<V> == 16) {
    return __builtin_shufflevector(v, v, h, h + 1, h + 2, h + 3, h + 4, h + 5, h + 6, h + 7, 0, 0,
                                   0, 0, 0, 0, 0, 0);
  } else if constexpr (kElements<V> == 8) {
    return __builtin_shufflevector(v, v, h, (h + 1) % 8, (h + 2) % 8, (h + 3) % 8, 0, 0, 0, 0);
  } else if constexpr (kElements<V> == 4) {
    return __builtin_shufflevector(v, v, h, (h + 1) % 4, 0, 0);
  } else {
    return __builtin_shufflevector(v, v, h, 0);
  }
}

// Joins all elements of a vector in as few steps as halving takes.
template <class V, class Join>
inline auto Reduced(V v, const Join& join) {
  constexpr int n = kElements<V>;
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
