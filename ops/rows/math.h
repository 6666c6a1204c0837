// SPDX-License-Identifier: MIT
// Elementary functions that compilers vectorise: no branches, no calls, no tables.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__CUDACC__)
#define SCE_HD __host__ __device__ inline
#elif defined(__GNUC__)
// A call in a loop would keep it scalar.
#define SCE_HD __attribute__((always_inline)) inline
#else
#define SCE_HD inline
#endif

// Each instruction set compiles these headers under a namespace of its own: one inline function
// shared by two of them would leave the linker free to keep the copy that the machine cannot run.
#if !defined(ONNXLOSS_TARGET)
#define ONNXLOSS_TARGET generic
#endif

namespace onnxloss::ONNXLOSS_TARGET {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// What a row is summed in.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

template <class To, class From>
SCE_HD To BitCast(From from) {
  static_assert(sizeof(To) == sizeof(From), "BitCast keeps the size");
#if defined(__GNUC__) && !defined(__CUDACC__)
  return __builtin_bit_cast(To, from);
#else
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
#endif
}

// A function of V is for one number, or for a vector of them: see cpu/vectors.h.
template <class V>
struct NumberTypes;
template <>
struct NumberTypes<float> {
  using Scalar = float;
  using Bits = uint32_t;
};
template <>
struct NumberTypes<double> {
  using Scalar = double;
  using Bits = uint64_t;
};

template <class Acc>
SCE_HD Acc Infinity() {
  // A constant, because a call would leave a function that all instruction sets share.
  constexpr Acc kInfinity = std::numeric_limits<Acc>::infinity();
  return kInfinity;
}

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__CUDACC__)
constexpr bool kFusedMultiplyAdd = true;
#else
constexpr bool kFusedMultiplyAdd = false;
#endif

// Contract of ExpNonPositive: exp(x) for x in [-inf, 0] or nan, and beyond what the name promises
// up to 32. Exactly 1 at 0 and exactly 0 at -inf, nan at nan; subnormal results are rounded once,
// in the last step. Max error: 2.8 ulp of Acc for x >= -20; 5.5 ulp below.
//
// exp(x) = 2^n exp(r), n = rint(x / ln 2). Adding 1.5 * 2^mantissa rounds to n and leaves n in the
// low bits of the sum, together with the exponent's bias and that of kScale, which keeps every
// power a normal number. At kLowest those bits are 0, and so is the power: a product with what is
// subnormal, or becomes so, takes some machines a hundred times as long.
template <class Scalar>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr int kMantissa = 23;
  static constexpr float kLowest = -104.66f;
  static constexpr float kLog2E = 0x1.715476p+0f;
  static constexpr float kRound = 0x1.8p23f + (127 + 24);
  static constexpr float kScale = 0x1p24f;
  template <class V>
  static SCE_HD V Reduced(V x, V n) {
    // A fused product is exact, and then the part of ln 2 beyond a float is less than half an ulp.
    return kFusedMultiplyAdd ? x - n * 0x1.62e430p-1f : (x - n * 0x1.63p-1f) + n * 0x1.bd0106p-13f;
  }
  template <class V>
  static SCE_HD V Polynomial(V r) {
    V q = 1.3814467059e-3f * r + 8.3687804112e-3f;
    q = q * r + 4.1668394211e-2f;
    q = q * r + 1.6666520108e-1f;
    q = q * r + 4.9999993413e-1f;
    q = q * r + 1.0f;
    return q * r + 1.0f;
  }
};
template <>
struct ExpConstants<double> {
  static constexpr int kMantissa = 52;
  static constexpr double kLowest = -747.9;
  static constexpr double kLog2E = 0x1.71547652b82fep+0;
  static constexpr double kRound = 0x1.8p52 + (1023 + 56);
  static constexpr double kScale = 0x1p56;
  template <class V>
  static SCE_HD V Reduced(V x, V n) {
    return (x - n * 0x1.62e42fee00000p-1) - n * 0x1.a39ef35793c76p-33;
  }
  template <class V>
  static SCE_HD V Polynomial(V r) {
    V q = 2.4999965343255922631e-8 * r + 2.7630378620805180305e-7;
    q = q * r + 2.7557587342203818353e-6;
    q = q * r + 2.4801492762795647439e-5;
    q = q * r + 1.9841269504765356436e-4;
    q = q * r + 1.3888888943922639616e-3;
    q = q * r + 8.3333333334956237916e-3;
    q = q * r + 4.1666666666529188594e-2;
    q = q * r + 1.6666666666666410235e-1;
    q = q * r + 5.0000000000000010721e-1;
    q = q * r + 1.0;
    return q * r + 1.0;
  }
};

// exp(x) * kScale, which is never subnormal. A target with better instructions for it says so.
template <class V>
struct ExpOf {
  using K = ExpConstants<typename NumberTypes<V>::Scalar>;
  static constexpr auto kScale = K::kScale;
  static SCE_HD V Scaled(V x) {
    const V lowest = V{} + K::kLowest;
    x = x < lowest ? lowest : x;
    const V shifted = x * K::kLog2E + K::kRound;
    const V q = K::Polynomial(K::Reduced(x, shifted - K::kRound));
    const auto power = BitCast<typename NumberTypes<V>::Bits>(shifted) << K::kMantissa;
    return q * BitCast<V>(power);
  }
};

template <class V>
SCE_HD V ExpNonPositive(V x) {
  return ExpOf<V>::Scaled(x) * (1 / ExpOf<V>::kScale);
}

template <class Acc>
struct LogConstants;
template <>
struct LogConstants<float> {
  static constexpr int kMantissa = 23;
  static constexpr uint32_t kMantissaBits = 0x007fffff;
  static constexpr uint32_t kSqrtHalf = 0x3f3504f3;
  static constexpr uint32_t kOne = 0x3f800000;
  static constexpr float kIntegers = 0x1p23f;
  static constexpr float kNegligible = 0x1p-40f;
  static constexpr float kLeastNormal = 0x1p-126f;
  static constexpr float kNormalizer = 0x1p24f;
  static constexpr float kNormalizerLog2 = 24;
  static constexpr float kLn2High = 0x1.62e3p-1f;
  static constexpr float kLn2Low = 0x1.2fefa2p-17f;
  template <class V>
  static SCE_HD V Polynomial(V z) {
    V p = 2.3334570995e-1f * z + 2.8550656412e-1f;
    p = p * z + 4.0000123468e-1f;
    p = p * z + 6.6666666552e-1f;
    return p * z;
  }
};
template <>
struct LogConstants<double> {
  static constexpr int kMantissa = 52;
  static constexpr uint64_t kMantissaBits = 0x000fffffffffffff;
  static constexpr uint64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  static constexpr uint64_t kOne = 0x3ff0000000000000;
  static constexpr double kIntegers = 0x1p52;
  static constexpr double kNegligible = 0x1p-80;
  static constexpr double kLeastNormal = 0x1p-1022;
  static constexpr double kNormalizer = 0x1p54;
  static constexpr double kNormalizerLog2 = 54;
  static constexpr double kLn2High = 0x1.62e42fee00000p-1;
  static constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  template <class V>
  static SCE_HD V Polynomial(V z) {
    V p = 1.4620458693301011016e-1 * z + 1.5331387267005065232e-1;
    p = p * z + 1.8182899543108177453e-1;
    p = p * z + 2.2222210985790848199e-1;
    p = p * z + 2.8571428626934258905e-1;
    p = p * z + 3.9999999999897260613e-1;
    p = p * z + 6.6666666666666697707e-1;
    return p * z;
  }
};

// A rounded number, and what its rounding lost.
template <class V>
struct Rounded {
  V value;
  V lost;
};

template <class Acc>
SCE_HD Rounded<Acc> RoundedTo(double exact) {
  const Acc value = static_cast<Acc>(exact);
  return {value, static_cast<Acc>(exact - static_cast<double>(value))};
}

// a + b. Knuth's sum, exact unless it overflows: then what it lost is nan.
template <class V>
SCE_HD Rounded<V> TwoSum(V a, V b) {
  const V sum = a + b;
  const V b_of_sum = sum - a;
  return {sum, (a - (sum - b_of_sum)) + (b - b_of_sum)};
}

// A logarithm in two parts, whose sum is rounded where it is formed.
template <class V>
struct Logarithm {
  V high;  // a multiple of ln 2
  V rest;

  SCE_HD V Sum() const { return high + rest; }
};

// u = 2^k (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), for a normal u.
template <class V>
struct PowerAndFraction {
  V k;
  V f;
};
template <class V>
SCE_HD PowerAndFraction<V> SplitPower(V u) {
  using K = LogConstants<typename NumberTypes<V>::Scalar>;
  using Bits = typename NumberTypes<V>::Bits;
  const Bits shifted = BitCast<Bits>(u) + (K::kOne - K::kSqrtHalf);
  // A small integer in the low bits of kIntegers is that much above it.
  const Bits biased = (shifted >> K::kMantissa) + BitCast<Bits>(V{} + K::kIntegers);
  const V k = BitCast<V>(biased) - (K::kIntegers + (K::kOne >> K::kMantissa));
  return {k, BitCast<V>((shifted & K::kMantissaBits) + K::kSqrtHalf) - 1};
}

// log(2^k (1 + f)) and a small term: log(1 + f) = 2 atanh(f / (2 + f)). `squared` is f, or 0 where
// the square of f is nothing beside it and might be subnormal.
template <class V>
SCE_HD Logarithm<V> LogOfParts(PowerAndFraction<V> parts, V squared, V small) {
  using K = LogConstants<typename NumberTypes<V>::Scalar>;
  const V s = squared / (2 + squared);
  const V half_square = 0.5f * squared * squared;
  const V tail = s * (half_square + K::Polynomial(s * s)) + (parts.k * K::kLn2Low + small);
  return {parts.k * K::kLn2High, (tail - half_square) + parts.f};
}

// Contract of Log1pNonNegative: log(1 + x) for x in [0, 2^62] or nan, nan at nan and inf. Max
// error: 1 ulp of the sum, and before it is rounded 1 ulp of min(sum, 1/4). Undefined for x < 0.
//
// What the sum 1 + x rounds away comes back as a first-order term.
template <class V>
SCE_HD Logarithm<V> Log1pNonNegative(V x) {
  using K = LogConstants<typename NumberTypes<V>::Scalar>;
  const V u = x + 1;
  PowerAndFraction<V> parts = SplitPower(u);
  parts.f = parts.k == V{} ? x : parts.f;
  const V of_sum = x < V{} + 1 ? x - (u - 1) : 1 - (u - x);
  const V small = (parts.k == V{} ? V{} : of_sum) / u;
  const V squared = x < V{} + K::kNegligible ? V{} : parts.f;
  const Logarithm<V> log = LogOfParts(parts, squared, small);
  return {log.high, log.rest + (x - x)};
}

// Contract of NaturalLog: log(x), -inf at 0, inf at inf, nan below 0 and at nan. Max error: 1 ulp.
template <class V>
SCE_HD V NaturalLog(V x) {
  using Scalar = typename NumberTypes<V>::Scalar;
  using K = LogConstants<Scalar>;
  const V infinity = V{} + Infinity<Scalar>();
  const V normal = x < V{} + K::kLeastNormal ? x * K::kNormalizer : x;
  PowerAndFraction<V> parts = SplitPower(normal);
  parts.k -= x < V{} + K::kLeastNormal ? V{} + K::kNormalizerLog2 : V{};
  const V log = LogOfParts(parts, parts.f, V{}).Sum();
  const V at_most_0 = x == V{} ? -infinity : infinity - infinity;
  const V number = x > V{} ? log : at_most_0;
  return x < infinity ? number : x;
}

// The C library's logarithm, for what is formed once per row: std::log would leave a function that
// all instruction sets share.
SCE_HD float Log(float x) { return ::logf(x); }
SCE_HD double Log(double x) { return ::log(x); }

SCE_HD float ToFloat(float value) { return value; }
SCE_HD double ToFloat(double value) { return value; }
SCE_HD float ToFloat(BFloat16 value) {
  return BitCast<float>(static_cast<uint32_t>(value.bits) << 16);
}
// `bits` has a half in the low 16 of each 32.
template <class V>
SCE_HD V HalfToFloat(typename NumberTypes<V>::Bits bits) {
  const auto sign = (bits & 0x8000u) << 16;
  const auto magnitude = (bits & 0x7fffu) << 13;
  // The product moves the exponent's bias and normalises subnormal halves exactly.
  const auto finite = BitCast<typename NumberTypes<V>::Bits>(BitCast<V>(magnitude) * 0x1p112f);
  return BitCast<V>((magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : finite) | sign);
}
SCE_HD float ToFloat(Half value) { return HalfToFloat<float>(value.bits); }

// Round to nearest even; nan stays nan, overflow becomes inf, subnormals are exact. BFloat16Bits
// has its result in the high 16 bits of each 32, HalfBits in the low ones.
template <class V>
SCE_HD typename NumberTypes<V>::Bits BFloat16Bits(V value) {
  using Bits = typename NumberTypes<V>::Bits;
  const auto bits = BitCast<Bits>(value);
  const auto rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const Bits nan = Bits{} + 0x7fc00000u;
  return value != value ? nan : rounded;
}
template <class V>
SCE_HD typename NumberTypes<V>::Bits HalfBits(V value) {
  const auto bits = BitCast<typename NumberTypes<V>::Bits>(value);
  const auto sign = (bits >> 16) & 0x8000u;
  const auto magnitude = bits & 0x7fffffffu;
  const auto normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Floats from 0.5 to 1 lie 2^-24 apart, which is the step of subnormal halves: the sum rounds to
  // that step.
  const auto subnormal =
      BitCast<typename NumberTypes<V>::Bits>(BitCast<V>(magnitude) + 0.5f) - 0x3f000000u;
  const auto special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const auto finite = magnitude < 0x38800000u ? subnormal : normal;
  return sign | (magnitude >= 0x477ff000u ? special : finite);
}

template <class T>
SCE_HD T FromFloat(Accumulator<T> value) {
  return value;
}
template <>
SCE_HD BFloat16 FromFloat<BFloat16>(float value) {
  return BFloat16{static_cast<uint16_t>(BFloat16Bits(value) >> 16)};
}
template <>
SCE_HD Half FromFloat<Half>(float value) {
  return Half{static_cast<uint16_t>(HalfBits(value))};
}

}  // namespace onnxloss::ONNXLOSS_TARGET
