// SPDX-License-Identifier: MIT
// The error bounds in the contracts of rows/math.h and rows/softcap.h, and the loops over rows side
// by side, as one instruction set compiles them.
#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/short_rows.h"
#include "cpu/transpose.h"
#include "rows/softcap.h"
#include "test_support.h"

namespace onnxloss::tests {
namespace {

using namespace ONNXLOSS_TARGET;

constexpr int kPoints = 200000;

bool Runs() {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return true;
#endif
}

// The distance from `truth` to the next number of Acc.
template <class Acc>
long double UlpOf(long double truth) {
  int exponent = 0;
  std::frexp(std::fabs(truth), &exponent);
  const int lowest = std::numeric_limits<Acc>::min_exponent;
  return std::ldexp(1.0L, std::max(exponent, lowest) - std::numeric_limits<Acc>::digits);
}

// The greatest error in ulp over points of [low, high]; `error(x)` is one's.
template <class Acc, class Error>
void ExpectWithin(const char* what, Acc low, Acc high, double bound, const Error& error) {
  Random random(1);
  for (int i = 0; i < kPoints; ++i) {
    const double share = static_cast<double>(random.Below(int64_t{1} << 40)) * 0x1p-40;
    const Acc x = static_cast<Acc>(low + (high - low) * static_cast<Acc>(share));
    const double ulp = static_cast<double>(error(x));
    if (!(ulp <= bound)) Fail(what, "at %.17g: %g ulp", static_cast<double>(x), ulp);
  }
}

// `near` and `far` bound the errors, in ulp.
template <class Acc, class Exp>
void CheckExp(const char* what, double near, double far, const Exp& exp) {
  const auto error = [&](Acc x) {
    const long double truth = std::exp(static_cast<long double>(x));
    return std::fabs(static_cast<long double>(exp(x)) - truth) / UlpOf<Acc>(truth);
  };
  ExpectWithin<Acc>(what, -20, 32, near, error);
  ExpectWithin<Acc>(what, std::is_same_v<Acc, float> ? -102 : -744, -20, far, error);
  const Acc infinity = std::numeric_limits<Acc>::infinity();
  if (exp(Acc{0}) != 1) Fail(what, "at 0 is not 1");
  if (exp(-infinity) != 0) Fail(what, "at -inf is not 0");
  if (!std::isnan(exp(std::numeric_limits<Acc>::quiet_NaN()))) Fail(what, "at nan is not nan");
}

template <class Acc>
void CheckLog1p() {
  const auto truth_of = [](Acc x) { return std::log1p(static_cast<long double>(x)); };
  const auto error = [&](Acc x) {
    const long double truth = truth_of(x);
    return std::fabs(static_cast<long double>(Log1pNonNegative(x).Sum()) - truth) /
           UlpOf<Acc>(truth);
  };
  const auto error_of_parts = [&](Acc x) {
    const Logarithm<Acc> log = Log1pNonNegative(x);
    const long double truth = truth_of(x);
    const long double sum = static_cast<long double>(log.high) + log.rest;
    return std::fabs(sum - truth) / UlpOf<Acc>(std::min(truth, 0.25L));
  };
  for (const Acc high : {Acc{1e-6f}, Acc{1}, Acc{100}, Acc{1e6f}, Acc{0x1p62f}}) {
    ExpectWithin<Acc>("Log1pNonNegative", 0, high, 1, error);
    ExpectWithin<Acc>("The parts of Log1pNonNegative", 0, high, 1, error_of_parts);
  }
}

template <class Acc>
void CheckNaturalLog() {
  const auto log = [](Acc x) { return NaturalLog(Splat(x))[0]; };
  const auto error = [&](Acc x) {
    const long double truth = std::log(static_cast<long double>(x));
    return std::fabs(static_cast<long double>(log(x)) - truth) / UlpOf<Acc>(truth);
  };
  using Limits = std::numeric_limits<Acc>;
  ExpectWithin<Acc>("NaturalLog", Acc{0.9f}, Acc{1.1f}, 1, error);
  ExpectWithin<Acc>("NaturalLog", Limits::min(), 1, 1, error);
  ExpectWithin<Acc>("NaturalLog", Limits::denorm_min(), 4 * Limits::min(), 1, error);
  ExpectWithin<Acc>("NaturalLog", 1, Acc{1e30f}, 1, error);
  if (log(Acc{1}) != 0) Fail("NaturalLog", "at 1 is not 0");
  if (log(Acc{0}) != -Limits::infinity()) Fail("NaturalLog", "at 0 is not -inf");
  if (log(Limits::infinity()) != Limits::infinity()) Fail("NaturalLog", "at inf is not inf");
  for (const Acc x : {Acc{-1}, -Limits::infinity(), -Limits::min(), Limits::quiet_NaN()}) {
    if (!std::isnan(log(x))) Fail("NaturalLog", "at %g is not nan", static_cast<double>(x));
  }
}

template <class Acc>
void CheckSoftCap() {
  const auto error = [](Acc x) {
    const long double truth = 30 * std::tanh(static_cast<long double>(x) / 30);
    return std::fabs(static_cast<long double>(SoftCap(x, Acc{30})) - truth) / UlpOf<Acc>(truth);
  };
  ExpectWithin<Acc>("SoftCap", -20, 20, 2.5, error);
  ExpectWithin<Acc>("SoftCap", -1000, 1000, 2.5, error);
}

// Of integers that 16 bits hold, too.
template <class T>
void CheckTranspose(int64_t n) {
  using Acc = Accumulator<T>;
  constexpr int64_t w = kWidth<Acc>;
  const size_t count = static_cast<size_t>(w * n);
  std::vector<T> rows(count + kPieceWidth<T>);
  for (size_t i = 0; i < count; ++i) rows[i] = FromFloat<T>(static_cast<Acc>(i % 251));
  std::vector<Acc> columns(count);
  std::vector<T> back(rows.size());
  RowsToColumns(rows.data(), n, columns.data());
  const auto column = [&](int64_t c) { return Load(columns.data() + c * w); };
  ColumnsToRows(column, n, back.data());
  for (int64_t row = 0; row < w; ++row) {
    for (int64_t c = 0; c < n; ++c) {
      const size_t in_row = static_cast<size_t>(row * n + c);
      const size_t in_column = static_cast<size_t>(c * w + row);
      const Acc number = static_cast<Acc>(in_row % 251);
      if (columns[in_column] != number || ToFloat(back[in_row]) != number) {
        Fail("Transpose", "%d classes: class %d of row %d", static_cast<int>(n),
             static_cast<int>(c), static_cast<int>(row));
      }
    }
  }
}

// Each row's sum: of small integers, hence exact in any order.
template <class Acc, class R>
void CheckSumOfRows(int64_t n) {
  constexpr int64_t w = kElements<R>;
  Random random(static_cast<uint64_t>(n));
  std::vector<Acc> rows(static_cast<size_t>(w * n + w));
  for (Acc& each : rows) each = static_cast<Acc>(random.Below(1000));
  const auto of = [&](int64_t, int64_t i) { return LoadRow<R>(rows.data() + i); };
  const auto sums = SumOfRows<R>(n, of);
  for (int64_t row = 0; row < w; ++row) {
    const auto begin = rows.begin() + row * n;
    if (sums[row] != std::accumulate(begin, begin + n, Acc{0})) {
      Fail("SumOfRows", "%d classes: row %d", static_cast<int>(n), static_cast<int>(row));
    }
  }
}

// Each row's maximum: of integers that 16 bits hold. With a step, some rows have no others than
// negative ones.
template <class T>
void CheckFindMaxima(int64_t n, int64_t step) {
  constexpr int64_t w = kWidth<Accumulator<T>>;
  Random random(static_cast<uint64_t>(n));
  std::vector<T> rows(static_cast<size_t>(w * n));
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) / n;
    rows[i] = FromFloat<T>(static_cast<Accumulator<T>>(random.Below(120) - step * (row % 3)));
  }
  std::vector<Accumulator<T>> max(w);
  FindMaxima(rows.data(), n, w, max.data());
  for (int64_t row = 0; row < w; ++row) {
    const auto greatest = std::max_element(rows.begin() + row * n, rows.begin() + (row + 1) * n,
                                           [](T a, T b) { return ToFloat(a) < ToFloat(b); });
    if (max[static_cast<size_t>(row)] != ToFloat(*greatest)) {
      Fail("FindMaxima", "%d classes: row %d", static_cast<int>(n), static_cast<int>(row));
    }
  }
}

template <class Acc>
void CheckPermuted() {
  Vector<Acc> values = {};
  VectorBits<Acc> places = {};
  for (int64_t i = 0; i < kWidth<Acc>; ++i) {
    values[i] = static_cast<Acc>(i);
    places[i] = static_cast<uint32_t>(i * 3 % kWidth<Acc>);
  }
  const Vector<Acc> permuted = Permuted(values, places);
  for (int64_t i = 0; i < kWidth<Acc>; ++i) {
    if (permuted[i] != static_cast<Acc>(places[i])) {
      Fail("Permuted", "element %d", static_cast<int>(i));
    }
  }
}

template <class Acc>
void CheckMarks() {
  Vector<Acc> values = {};
  values[1] = std::numeric_limits<Acc>::quiet_NaN();
  const Marks<Acc> marks = Marks<Acc>::Different(values, Splat(Acc{0}));
  MarkCount<Acc> count;
  count.Add(marks);
  count.Add(marks);
  const Vector<Acc> chosen = marks.Choose(Splat(Acc{1}), Splat(Acc{2}));
  if (count.Total() != 2 || chosen[0] != 2 || chosen[1] != 1) Fail("Marks", "of nan");

  constexpr int64_t w = kWidth<Acc>;
  constexpr int64_t vectors = 20;
  Random random(1);
  std::vector<int64_t> marked(vectors * w);
  for (int64_t& each : marked) each = random.Below(2);
  std::vector<Marks<Acc>> all(vectors + kBeyondMarks<Acc>);
  for (int64_t i = 0; i < vectors; ++i) {
    Vector<Acc> numbers = {};
    for (int64_t l = 0; l < w; ++l) numbers[l] = static_cast<Acc>(marked[i * w + l]);
    all[i] = Marks<Acc>::Different(numbers, Vector<Acc>{});
  }
  for (const int64_t n : {1, 16, 17, 56, 57, 100}) {
    for (int64_t first = 0; first + n <= vectors * w; ++first) {
      const auto begin = marked.begin() + first;
      if (CountMarks(all.data(), first, n) != std::accumulate(begin, begin + n, int64_t{0})) {
        Fail("CountMarks", "%d from %d on", static_cast<int>(n), static_cast<int>(first));
      }
    }
  }
}

// Far below 0 there is nothing left, however far. Arithmetic with subnormal numbers takes some
// machines a hundred times as long: the exponentials of floats leave them out.
template <class T>
void CheckScaledExp() {
  using Acc = Accumulator<T>;
  const auto exp = [](Acc x) { return ScaledExp<T>(Splat(x))[0]; };
  const bool narrow = sizeof(T) == 2;
  CheckExp<Acc>("ScaledExp", narrow ? 8 : 2.8, narrow ? 11 : 5.5,
                [=](Acc x) { return exp(x) * kPerExpScale<Acc>; });
  for (Acc x = std::is_same_v<Acc, float> ? -105 : -748; x > -Infinity<Acc>(); x *= 1.25f) {
    if (exp(x) != 0) Fail("ScaledExp", "at %g is not 0", static_cast<double>(x));
  }
  if constexpr (std::is_same_v<Acc, float>) {
    for (float x = -103.5f; x < -80; x += 0x1p-12f) {
      const float e = exp(x);
      if (e < 0x1p-126f) Fail("ScaledExp", "at %g is %g", x, e);
    }
  }
  Random random(1);
  Vector<Acc> numbers = {};
  for (int64_t i = 1; i < kWidth<Acc>; ++i) numbers[i] = static_cast<Acc>(-1 - random.Below(120));
  const Vector<Acc> all = ScaledExp<T>(numbers);
  const auto marks = Marks<Acc>::Different(numbers, Vector<Acc>{});
  const Vector<Acc> others = marks.template ScaledExpOf<T>(numbers);
  for (int64_t i = 0; i < kWidth<Acc>; ++i) {
    if (others[i] != (i == 0 ? 0 : all[i])) Fail("ScaledExpOf", "element %d", static_cast<int>(i));
  }
}

template <class Acc>
void CheckAll() {
  CheckExp<Acc>("ExpNonPositive", 2.8, 5.5, [](Acc x) { return ExpNonPositive(x); });
  CheckExp<Acc>("ExpNonPositive of vectors", 2.8, 5.5,
                [](Acc x) { return ExpNonPositive(Splat(x))[kWidth<Acc> - 1]; });
  CheckScaledExp<Acc>();
  CheckLog1p<Acc>();
  CheckNaturalLog<Acc>();
  CheckSoftCap<Acc>();
  for (const int64_t n : {1, 2, 3, 4, 5, 10, 16, 17, 191}) {
    CheckTranspose<Acc>(n);
    if (std::is_same_v<Acc, float>) CheckTranspose<Half>(n);
    if (std::is_same_v<Acc, float>) CheckTranspose<BFloat16>(n);
    WithRowVector<Acc>(n, [n](auto type) { CheckSumOfRows<Acc, decltype(type)>(n); });
    if (n >= 16) CheckFindMaxima<Acc>(n, 60);
  }
  CheckPermuted<Acc>();
  CheckMarks<Acc>();
}

// A vector's numbers in memory against one number's rounding: of all upper halves but those of
// signalling nans, which arithmetic does not give.
template <class T>
void CheckRounding(const char* what) {
  constexpr int64_t w = kWidth<float>;
  for (uint32_t high = 0; high < 0x10000; high += w) {
    for (const uint32_t low : {0x0000, 0x0001, 0x1000, 0x7fff, 0x8000, 0x8001, 0xffff}) {
      Vector<float> values;
      for (uint32_t i = 0; i < w; ++i) {
        const uint32_t bits = (high + i) << 16 | low;
        const bool nan = (bits & 0x7fffffff) > 0x7f800000;
        values[i] = BitCast<float>(nan ? bits | 0x400000 : bits);
      }
      T stored[w];
      Store(stored, values);
      for (int64_t i = 0; i < w; ++i) {
        const float expected = ToFloat(FromFloat<T>(values[i]));
        const float is = ToFloat(stored[i]);
        if (is != expected && (is == is || expected == expected)) {
          Fail(what, "%a is stored as %a", static_cast<double>(values[i]), static_cast<double>(is));
        }
      }
    }
  }
}

void CheckNarrow() {
  CheckScaledExp<Half>();
  CheckScaledExp<BFloat16>();
  CheckRounding<Half>("Store of halves");
  CheckRounding<BFloat16>("Store of bfloat16");
  if constexpr (kVectorBytes >= 32) {
    for (const int64_t n : {16, 17, 31, 100}) {
      for (const int64_t step : {0, 60}) {
        CheckFindMaxima<Half>(n, step);
        CheckFindMaxima<BFloat16>(n, step);
      }
    }
  }
}

// A frame of its own: AddressSanitizer marks a frame where it begins, with these instructions, and
// main() must not need them.
__attribute__((noinline)) void CheckAllTypes() {
  CheckAll<float>();
  CheckAll<double>();
  CheckNarrow();
}

}  // namespace
}  // namespace onnxloss::tests

int main() {
  using namespace onnxloss::tests;
  if (!Runs()) return kSkipped;
  CheckAllTypes();
  return 0;
}
