// SPDX-License-Identifier: MIT
// What each instruction does. Compiled without contraction: a product and a sum are two roundings.
#include <cfenv>
#include <cmath>
#include <limits>

// As device.h has it.
#define ONNXLOSS_TARGET cuda
#include "ptx.h"
#include "rows/math.h"

namespace onnxloss::ptx {
namespace {

using Table = std::map<std::string, Work>;

template <class Function, class Result, class... Given>
void Apply(Warp& warp, const Instruction& at, uint32_t lanes, Result (*)(Given...)) {
  [&]<size_t... I>(std::index_sequence<I...>) {
    ForEach(lanes, [&](int lane) {
      warp.Set<Result>(at.to[0], lane, Function()(warp.Get<Given>(at.from[I], lane)...));
    });
  }(std::index_sequence_for<Given...>());
}

// A function of values, done for each lane.
template <class Function>
Work Each(Function) {
  return [](Warp& warp, const Instruction& at, uint32_t lanes) {
    Apply<Function>(warp, at, lanes, +Function());
  };
}

template <class T>
void Load(Warp& warp, const Instruction& at, uint32_t lanes) {
  // Sign or zero fills a wider register.
  using Wide = std::conditional_t<std::is_same_v<T, int32_t>, int64_t, T>;
  warp.CountRead(at, lanes);
  ForEach(lanes, [&](int lane) {
    const char* place = warp.Place(at, lane, sizeof(T) * static_cast<size_t>(at.elements));
    for (int i = 0; i < at.elements; ++i) {
      T value;
      std::memcpy(&value, place + sizeof(T) * static_cast<size_t>(i), sizeof(T));
      warp.Set<Wide>(at.to[i], lane, value);
    }
  });
}

template <class T>
void Store(Warp& warp, const Instruction& at, uint32_t lanes) {
  warp.CountWritten(at, lanes);
  ForEach(lanes, [&](int lane) {
    char* place = warp.Place(at, lane, sizeof(T) * static_cast<size_t>(at.elements));
    for (int i = 0; i < at.elements; ++i) {
      const T value = warp.Get<T>(at.from[i + 1], lane);
      std::memcpy(place + sizeof(T) * static_cast<size_t>(i), &value, sizeof(T));
    }
  });
}

void Pack(Warp& warp, const Instruction& at, uint32_t lanes) {
  ForEach(lanes, [&](int lane) {
    const uint64_t low = warp.Get<uint32_t>(at.from[0], lane);
    const uint64_t high = warp.Get<uint32_t>(at.from[1], lane);
    warp.Set(at.to[0], lane, low | high << 32);
  });
}

void Unpack(Warp& warp, const Instruction& at, uint32_t lanes) {
  ForEach(lanes, [&](int lane) {
    const uint64_t both = warp.Get<uint64_t>(at.from[0], lane);
    warp.Set(at.to[0], lane, static_cast<uint32_t>(both));
    warp.Set(at.to[1], lane, static_cast<uint32_t>(both >> 32));
  });
}

// d|p, a, b, c: a of another lane, and whether it lies in the segment that c names.
template <class Choose>
void Shuffle(Warp& warp, const Instruction& at, uint32_t lanes, Choose choose) {
  uint32_t before[kWarp];
  for (int lane = 0; lane < kWarp; ++lane) before[lane] = warp.Get<uint32_t>(at.from[0], lane);
  ForEach(lanes, [&](int lane) {
    const int b = warp.Get<int>(at.from[1], lane) & 31;
    const int clamp = warp.Get<int>(at.from[2], lane) & 31;
    const int segment = warp.Get<int>(at.from[2], lane) >> 8 & 31;
    const int last = (lane & segment) | (clamp & ~segment);
    const int chosen = choose(lane, b, segment);
    const bool inside = chosen <= last;
    warp.Set(at.to[0], lane, before[inside ? chosen : lane]);
    warp.Set(at.to[1], lane, inside);
  });
}

void ShuffleXor(Warp& warp, const Instruction& at, uint32_t lanes) {
  Shuffle(warp, at, lanes, [](int lane, int b, int) { return lane ^ b; });
}

void ShuffleIndex(Warp& warp, const Instruction& at, uint32_t lanes) {
  Shuffle(warp, at, lanes,
          [](int lane, int b, int segment) { return (lane & segment) | (b & ~segment); });
}

void ConvertShared(Warp& warp, const Instruction& at, uint32_t lanes) {
  ForEach(lanes, [&](int lane) {
    warp.Set(at.to[0], lane, warp.GenericOfShared(warp.Get<uint64_t>(at.from[0], lane)));
  });
}

void MapShared(Warp& warp, const Instruction& at, uint32_t lanes) {
  ForEach(lanes, [&](int lane) {
    const uint64_t generic = warp.Get<uint64_t>(at.from[0], lane);
    warp.Set(at.to[0], lane, warp.InBlock(generic, warp.Get<uint32_t>(at.from[1], lane)));
  });
}

float FlushSubnormal(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

// As far off as the unit may be, to either side: 2^-22, and 2^-23 of the small arguments of expf,
// which could not be right within 2 units otherwise.
float ApproximateExp2(float x) {
  if (FlushSubnormal(x) == 0) return 1;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const double most = std::fabs(x) < 1 ? 0x1p-23 : 0x1p-22;
  const double error = (bits & 1) != 0 ? most : -most;
  return FlushSubnormal(static_cast<float>(std::exp2(double{x}) * (1 + error)));
}

// The upper half of the number is right.
double ApproximateReciprocal(double x) {
  double result = 1 / x;
  uint64_t bits;
  std::memcpy(&bits, &result, sizeof(bits));
  bits &= ~uint64_t{0xffffffff};
  std::memcpy(&result, &bits, sizeof(bits));
  return result;
}

float FusedRoundedDown(float a, float b, float c) {
  std::fesetround(FE_DOWNWARD);
  volatile float x = a, y = b, z = c;
  volatile float result = std::fma(x, y, z);
  std::fesetround(FE_TONEAREST);
  return result;
}

template <class T>
T Greatest(T a, T b) {
  if (std::isnan(a)) return b;
  return a > b || std::isnan(b) ? a : b;
}

template <class T>
T LeastOrNan(T a, T b) {
  if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<T>::quiet_NaN();
  return a < b ? a : b;
}

// A function of two floats for each of the two numbers of 16 bits in a register.
template <class T, float (*Function)(float, float)>
uint32_t OfEach(uint32_t a, uint32_t b) {
  const auto at = [&](int shift) {
    const T x{static_cast<uint16_t>(a >> shift)};
    const T y{static_cast<uint16_t>(b >> shift)};
    const float result = Function(cuda::ToFloat(x), cuda::ToFloat(y));
    return uint32_t{cuda::FromFloat<T>(result).bits} << shift;
  };
  return at(0) | at(16);
}

template <class T>
uint32_t NarrowBoth(float high, float low) {
  return uint32_t{cuda::FromFloat<T>(high).bits} << 16 | cuda::FromFloat<T>(low).bits;
}

template <class T>
void AddMemory(Table& table, const std::string& type) {
  table["ld." + type] = Load<T>;
  table["st." + type] = Store<T>;
  table["mov." + type] = Each([](T a) { return a; });
  table["selp." + type] = Each([](T a, T b, bool p) { return p ? a : b; });
}

template <class T>
void AddOrder(Table& table, const std::string& type) {
  table["setp.eq." + type] = Each([](T a, T b) { return a == b; });
  table["setp.lt." + type] = Each([](T a, T b) { return a < b; });
  table["setp.le." + type] = Each([](T a, T b) { return a <= b; });
  table["setp.gt." + type] = Each([](T a, T b) { return a > b; });
  table["setp.ge." + type] = Each([](T a, T b) { return a >= b; });
}

template <class T>
void AddBits(Table& table, const std::string& type) {
  AddMemory<T>(table, type);
  table["setp.eq." + type] = Each([](T a, T b) { return a == b; });
  table["setp.ne." + type] = Each([](T a, T b) { return a != b; });
  table["and." + type] = Each([](T a, T b) { return static_cast<T>(a & b); });
  table["or." + type] = Each([](T a, T b) { return static_cast<T>(a | b); });
  table["xor." + type] = Each([](T a, T b) { return static_cast<T>(a ^ b); });
  table["not." + type] = Each([](T a) { return static_cast<T>(~a); });
  table["shl." + type] =
      Each([](T a, uint32_t n) { return static_cast<T>(n < 8 * sizeof(T) ? a << n : 0); });
}

template <class T>
void AddIntegers(Table& table, const std::string& type) {
  using U = std::make_unsigned_t<T>;  // wraps around
  AddMemory<T>(table, type);
  AddOrder<T>(table, type);
  table["setp.ne." + type] = Each([](T a, T b) { return a != b; });
  table["add." + type] = Each([](U a, U b) { return static_cast<U>(a + b); });
  table["sub." + type] = Each([](U a, U b) { return static_cast<U>(a - b); });
  table["neg." + type] = Each([](U a) { return static_cast<U>(0 - a); });
  table["mul.lo." + type] = Each([](U a, U b) { return static_cast<U>(a * b); });
  table["mad.lo." + type] = Each([](U a, U b, U c) { return static_cast<U>(a * b + c); });
  // Of any number by 0 a GPU makes something.
  table["div." + type] = Each([](T a, T b) { return static_cast<T>(b != 0 ? a / b : T(-1)); });
  table["rem." + type] = Each([](T a, T b) { return static_cast<T>(b != 0 ? a % b : a); });
  table["min." + type] = Each([](T a, T b) { return a < b ? a : b; });
  table["max." + type] = Each([](T a, T b) { return a > b ? a : b; });
  table["shr." + type] = Each([](T a, uint32_t n) {
    constexpr uint32_t kBits = 8 * sizeof(T);
    const T filled = a < 0 ? T(-1) : T(0);
    return static_cast<T>(n < kBits ? a >> n : filled);
  });
}

template <class T>
void AddReals(Table& table, const std::string& type) {
  AddMemory<T>(table, type);
  AddOrder<T>(table, type);
  // "u": true of a nan too. "ne" is not.
  table["setp.ne." + type] = Each([](T a, T b) { return a < b || a > b; });
  table["setp.neu." + type] = Each([](T a, T b) { return a != b; });
  table["setp.equ." + type] = Each([](T a, T b) { return !(a < b || a > b); });
  table["setp.ltu." + type] = Each([](T a, T b) { return !(a >= b); });
  table["setp.leu." + type] = Each([](T a, T b) { return !(a > b); });
  table["setp.gtu." + type] = Each([](T a, T b) { return !(a <= b); });
  table["setp.geu." + type] = Each([](T a, T b) { return !(a < b); });
  table["setp.num." + type] = Each([](T a, T b) { return !std::isnan(a) && !std::isnan(b); });
  table["setp.nan." + type] = Each([](T a, T b) { return std::isnan(a) || std::isnan(b); });
  for (const char* rounding : {".", ".rn."}) {
    table["add" + (rounding + type)] = Each([](T a, T b) { return a + b; });
    table["sub" + (rounding + type)] = Each([](T a, T b) { return a - b; });
    table["mul" + (rounding + type)] = Each([](T a, T b) { return a * b; });
  }
  table["fma.rn." + type] = Each([](T a, T b, T c) { return std::fma(a, b, c); });
  table["div.rn." + type] = Each([](T a, T b) { return a / b; });
  table["rcp.rn." + type] = Each([](T a) { return 1 / a; });
  table["neg." + type] = Each([](T a) { return -a; });
  table["abs." + type] = Each([](T a) { return std::fabs(a); });
  table["max." + type] = Each([](T a, T b) { return Greatest(a, b); });
  table["min.NaN." + type] = Each([](T a, T b) { return LeastOrNan(a, b); });
}

template <class T>
void AddPairs(Table& table, const std::string& type) {
  table["max." + type] =
      Each([](uint32_t a, uint32_t b) { return OfEach<T, Greatest<float>>(a, b); });
  table["min.NaN." + type] =
      Each([](uint32_t a, uint32_t b) { return OfEach<T, LeastOrNan<float>>(a, b); });
  table["cvt.rn." + type + ".f32"] =
      Each([](float high, float low) { return NarrowBoth<T>(high, low); });
}

// From one type to another.
template <class To, class From>
void AddConversion(Table& table, const std::string& types) {
  table["cvt." + types] = Each([](From a) { return static_cast<To>(a); });
}

Table MakeTable() {
  Table table;
  AddBits<uint16_t>(table, "b16");
  AddBits<uint32_t>(table, "b32");
  AddBits<uint64_t>(table, "b64");
  table["mov.pred"] = Each([](bool a) { return a; });
  table["not.pred"] = Each([](bool a) { return !a; });
  table["and.pred"] = Each([](bool a, bool b) { return a && b; });
  table["or.pred"] = Each([](bool a, bool b) { return a || b; });
  table["xor.pred"] = Each([](bool a, bool b) { return a != b; });
  AddIntegers<int16_t>(table, "s16");
  AddIntegers<uint16_t>(table, "u16");
  AddIntegers<int32_t>(table, "s32");
  AddIntegers<uint32_t>(table, "u32");
  AddIntegers<int64_t>(table, "s64");
  AddIntegers<uint64_t>(table, "u64");
  AddReals<float>(table, "f32");
  AddReals<double>(table, "f64");
  AddPairs<cuda::Half>(table, "f16x2");
  AddPairs<cuda::BFloat16>(table, "bf16x2");
  AddConversion<uint16_t, uint32_t>(table, "u16.u32");
  AddConversion<uint16_t, uint64_t>(table, "u16.u64");
  AddConversion<uint32_t, uint16_t>(table, "u32.u16");
  AddConversion<uint32_t, uint64_t>(table, "u32.u64");
  AddConversion<uint64_t, uint32_t>(table, "u64.u32");
  AddConversion<int64_t, int32_t>(table, "s64.s32");
  AddConversion<float, int32_t>(table, "rn.f32.s32");
  AddConversion<float, int64_t>(table, "rn.f32.s64");
  AddConversion<float, double>(table, "rn.f32.f64");
  AddConversion<double, int64_t>(table, "rn.f64.s64");
  AddConversion<double, float>(table, "f64.f32");
  table["cvt.f32.f16"] = Each([](uint16_t a) { return cuda::ToFloat(cuda::Half{a}); });
  table["cvt.sat.f32.f32"] = Each([](float a) { return a > 0 ? std::fmin(a, 1.0f) : 0.0f; });
  table["mul.wide.s32"] = Each([](int32_t a, int32_t b) { return int64_t{a} * b; });
  table["mul.wide.u32"] = Each([](uint32_t a, uint32_t b) { return uint64_t{a} * b; });
  table["bfi.b64"] = Each([](uint64_t a, uint64_t b, uint32_t begin, uint32_t bits) {
    const uint64_t ones = bits < 64 ? (uint64_t{1} << bits) - 1 : ~uint64_t{0};
    return begin > 63 ? b : (b & ~(ones << begin)) | (a & ones) << begin;
  });
  table["fma.rm.f32"] = Each([](float a, float b, float c) { return FusedRoundedDown(a, b, c); });
  table["ex2.approx.ftz.f32"] = Each([](float x) { return ApproximateExp2(x); });
  table["rcp.approx.ftz.f64"] = Each([](double x) { return ApproximateReciprocal(x); });
  table["pack.b64"] = Pack;
  table["unpack.b64"] = Unpack;
  table["shfl.sync.bfly.b32"] = ShuffleXor;
  table["shfl.sync.idx.b32"] = ShuffleIndex;
  table["cvta.to.global.u64"] = Each([](uint64_t a) { return a; });
  table["cvta.shared.u64"] = ConvertShared;
  table["mapa.u64"] = MapShared;
  return table;
}

}  // namespace

Work WorkOf(const std::string& operation) {
  static const Table table = MakeTable();
  const auto found = table.find(operation);
  return found == table.end() ? nullptr : found->second;
}

}  // namespace onnxloss::ptx
