// SPDX-License-Identifier: MIT
// Numbers of every element type, to and from double; nothing here is shared with ops/rows/math.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/kernels.h"

namespace onnxloss::tests {

inline size_t SizeOf(ElementType type) { return static_cast<size_t>(BytesOf(type)); }

// The type of sums and weights.
inline ElementType SumsOf(ElementType type) {
  return type == ElementType::kFloat64 ? type : ElementType::kFloat32;
}

// The distance from 1 to the next number.
inline double EpsilonOf(ElementType type) {
  switch (type) {
    case ElementType::kFloat16:
      return 0x1p-10;
    case ElementType::kBFloat16:
      return 0x1p-7;
    case ElementType::kFloat32:
      return 0x1p-23;
    case ElementType::kFloat64:
      break;
  }
  return 0x1p-52;
}

template <class T>
T Read(const void* data, int64_t i) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + static_cast<size_t>(i) * sizeof(T),
              sizeof(T));
  return value;
}

template <class T>
void Write(T value, void* data, int64_t i) {
  std::memcpy(static_cast<char*>(data) + static_cast<size_t>(i) * sizeof(T), &value, sizeof(T));
}

inline double DecodeHalf(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  double value = 0;
  if (exponent == 31) {
    value = fraction == 0 ? std::numeric_limits<double>::infinity()
                          : std::numeric_limits<double>::quiet_NaN();
  } else {
    value = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

// `value` is a normal half, 0 or not finite.
inline uint16_t EncodeHalf(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  if (std::isnan(value)) return 0x7e00;
  if (std::isinf(value)) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude == 0) return sign;
  int exponent = 0;
  const double fraction = std::frexp(magnitude, &exponent);
  const int bits = static_cast<int>(fraction * 2048) - 1024;
  return static_cast<uint16_t>(sign | ((exponent + 14) << 10) | bits);
}

inline double Decode(ElementType type, const void* data, int64_t i) {
  switch (type) {
    case ElementType::kFloat16:
      return DecodeHalf(Read<uint16_t>(data, i));
    case ElementType::kBFloat16: {
      const uint32_t bits = static_cast<uint32_t>(Read<uint16_t>(data, i)) << 16;
      return static_cast<double>(Read<float>(&bits, 0));
    }
    case ElementType::kFloat32:
      return static_cast<double>(Read<float>(data, i));
    case ElementType::kFloat64:
      break;
  }
  return Read<double>(data, i);
}

// What does not fit is cut off.
inline void Encode(ElementType type, double value, void* data, int64_t i) {
  switch (type) {
    case ElementType::kFloat16:
      return Write(EncodeHalf(value), data, i);
    case ElementType::kBFloat16: {
      const float wide = static_cast<float>(value);
      return Write(static_cast<uint16_t>(Read<uint32_t>(&wide, 0) >> 16), data, i);
    }
    case ElementType::kFloat32:
      return Write(static_cast<float>(value), data, i);
    case ElementType::kFloat64:
      break;
  }
  Write(value, data, i);
}

}  // namespace onnxloss::tests
