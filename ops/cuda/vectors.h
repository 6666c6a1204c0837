// SPDX-License-Identifier: MIT
// 16 bytes of a row at a time. Vectors lie on 16-byte boundaries wherever the row begins, so that
// the first and the last may reach beyond it; those go element by element.
#pragma once

#include "cuda/summary.h"

namespace onnxloss::cuda {

template <class T>
constexpr int kWidth = static_cast<int>(16 / sizeof(T));

// What is compared at once.
template <class T>
using Unit = std::conditional_t<sizeof(T) == 2, device::Pair<T>, T>;
template <class T>
constexpr int kUnits = static_cast<int>(16 / sizeof(Unit<T>));

template <class T>
ONNXLOSS_DEVICE float ElementOf(device::Pair<T> pair, int j) {
  return Wide(T{static_cast<uint16_t>(pair.bits >> (j * 16))});
}

ONNXLOSS_DEVICE device::Pair<Half> Paired(float low, float high, Half) {
  return {device::NarrowToHalves(low, high)};
}
ONNXLOSS_DEVICE device::Pair<BFloat16> Paired(float low, float high, BFloat16) {
  return {device::NarrowToBFloat16s(low, high)};
}

// One number as a unit, in a pair beside -inf.
template <class T>
ONNXLOSS_DEVICE Unit<T> UnitOf(Accumulator<T> x, T type) {
  if constexpr (sizeof(T) == 2) return Paired(x, -Infinity<float>(), type);
  if constexpr (sizeof(T) != 2) return x;
}

template <class T>
ONNXLOSS_DEVICE float GreatestOf(device::Pair<T> pair) {
  return device::Greater(ElementOf(pair, 0), ElementOf(pair, 1));
}
ONNXLOSS_DEVICE float GreatestOf(float unit) { return unit; }
ONNXLOSS_DEVICE double GreatestOf(double unit) { return unit; }

template <class T>
ONNXLOSS_DEVICE void AddElements(Unit<T> unit, Terms<Accumulator<T>>* terms) {
  if constexpr (sizeof(T) == 2) {
    terms->template Add<T>(ElementOf(unit, 0));
    terms->template Add<T>(ElementOf(unit, 1));
  } else {
    terms->template Add<T>(unit);
  }
}
template <class T>
ONNXLOSS_DEVICE void AddLesserElement(Unit<T> unit, Terms<Accumulator<T>>* terms) {
  if constexpr (sizeof(T) == 2) {
    terms->template Add<T>(device::Lesser(ElementOf(unit, 0), ElementOf(unit, 1)));
  }
}

// Packed as in memory: 16-bit elements share a register.
template <class T>
struct Vector {
  device::Bytes16 bytes;

  ONNXLOSS_DEVICE Accumulator<T> At(int j) const {
    if constexpr (sizeof(T) == 2) {
      return ElementOf(UnitAt(j / 2), j % 2);
    } else if constexpr (sizeof(T) == 4) {
      return BitCast<float>(bytes.words[j]);
    } else {
      return BitCast<double>(uint64_t{bytes.words[2 * j]} | uint64_t{bytes.words[2 * j + 1]} << 32);
    }
  }

  ONNXLOSS_DEVICE Unit<T> UnitAt(int i) const {
    if constexpr (sizeof(T) == 2) return {bytes.words[i]};
    if constexpr (sizeof(T) != 2) return At(i);
  }

  // Its elements are unpacked anew from here on.
  ONNXLOSS_DEVICE void Forget() {
#pragma unroll
    for (int i = 0; i < 4; ++i) device::Forget(&bytes.words[i]);
  }
};

template <class T>
ONNXLOSS_DEVICE Vector<T> Packed(const float (&x)[8], T type) {
  return {{{Paired(x[0], x[1], type).bits, Paired(x[2], x[3], type).bits,
            Paired(x[4], x[5], type).bits, Paired(x[6], x[7], type).bits}}};
}
ONNXLOSS_DEVICE Vector<float> Packed(const float (&x)[4], float) {
  return {{{BitCast<uint32_t>(x[0]), BitCast<uint32_t>(x[1]), BitCast<uint32_t>(x[2]),
            BitCast<uint32_t>(x[3])}}};
}
ONNXLOSS_DEVICE Vector<double> Packed(const double (&x)[2], double) {
  const uint64_t a = BitCast<uint64_t>(x[0]);
  const uint64_t b = BitCast<uint64_t>(x[1]);
  return {{{static_cast<uint32_t>(a), static_cast<uint32_t>(a >> 32), static_cast<uint32_t>(b),
            static_cast<uint32_t>(b >> 32)}}};
}

enum class Again { kNo, kYes };  // is it read once more?

// Where an array has a row. The vectors that can be moved as one are those that have all their
// elements and lie on a boundary: they begin with one of the first `wholes` classes.
template <class T, class Index>
struct Place {
  T* row;
  Index wholes;

  ONNXLOSS_DEVICE bool IsWhole(Index first) const {
    using Unsigned = std::make_unsigned_t<Index>;  // negative before the row
    return static_cast<Unsigned>(first) < static_cast<Unsigned>(wholes);
  }
};

ONNXLOSS_DEVICE bool IsAligned(const void* place) {
  return reinterpret_cast<uintptr_t>(place) % 16 == 0;
}

// A row of logits and of which vectors it consists. A short Index saves registers where rows are
// short.
template <class T, class Index>
struct RowVectors : Place<const T, Index> {
  Index classes;
  int head;  // elements of vector 0 before the row

  ONNXLOSS_DEVICE RowVectors(const T* begin, int64_t count)
      : Place<const T, Index>{begin, Wholes(static_cast<Index>(count))},
        classes(static_cast<Index>(count)),
        head(static_cast<int>(reinterpret_cast<uintptr_t>(begin) % 16 / sizeof(T))) {}

  ONNXLOSS_DEVICE Index count() const { return (classes + head + kWidth<T> - 1) / kWidth<T>; }
  // The class of a vector's first element, negative before the row.
  ONNXLOSS_DEVICE Index FirstClass(Index vector) const { return vector * kWidth<T> - head; }
  ONNXLOSS_DEVICE Index VectorOf(Index c) const { return (c + head) / kWidth<T>; }
  // Where an array of the shape of `logits` has this row. Its vectors need not lie on boundaries.
  template <class Element>
  ONNXLOSS_DEVICE Place<Element, Index> In(Element* array, const T* logits) const {
    Element* own = array + (this->row - logits);
    return {own, IsAligned(own - head) ? this->wholes : 0};
  }

 private:
  ONNXLOSS_DEVICE static Index Wholes(Index classes) {
    return classes < kWidth<T> ? 0 : classes - kWidth<T> + 1;
  }
};

// The elements from class `first` on of an array; `filler` beyond the row's ends.
template <Again kAgain, class T, class Index>
ONNXLOSS_DEVICE Vector<T> LoadVector(const Place<const T, Index>& from, Index classes, Index first,
                                     Accumulator<T> filler) {
  const T* row = from.row;
  if (from.IsWhole(first)) {
    return {kAgain == Again::kYes ? device::Load(row + first) : device::LoadOnce(row + first)};
  }
  Accumulator<T> x[kWidth<T>];
#pragma unroll
  for (int j = 0; j < kWidth<T>; ++j) x[j] = filler;
  if (first < classes) {
#pragma unroll
    for (int j = 0; j < kWidth<T>; ++j) {
      const Index c = first + j;
      if (c >= 0 && c < classes) x[j] = Wide(row[c]);
    }
  }
  return Packed(x, T{});
}

template <class T, class Index>
ONNXLOSS_DEVICE void StoreVector(const Place<T, Index>& to, Index classes, Index first,
                                 const Accumulator<T> (&x)[kWidth<T>]) {
  if (to.IsWhole(first)) {
    device::StoreOnce(to.row + first, Packed(x, T{}).bytes);
    return;
  }
#pragma unroll
  for (int j = 0; j < kWidth<T>; ++j) {
    const Index c = first + j;
    if (c >= 0 && c < classes) to.row[c] = Narrow<T>(x[j]);
  }
}

enum class Cap { kNone, kSome };

// The vectors of a row that one thread has in hand.
template <class T, class Row, class Index, Cap kCap, int kVectors>
struct Hand {
  using Acc = Accumulator<T>;
  static constexpr int kElements = kWidth<T>;

  const Problem<T, Row>& problem;
  const RowVectors<T, Index>& row;
  const Place<const T, Index> probabilities;  // where they are the labels
  Vector<T> logits[kVectors];
  Vector<T> labels[Row::kHasTarget ? 1 : kVectors];

  ONNXLOSS_DEVICE Hand(const Problem<T, Row>& of, const RowVectors<T, Index>& in)
      : problem(of), row(in), probabilities(row.In(of.probabilities(), of.logits())) {}

  // Vector number `vector` of the row; beyond its end there is nothing but filler.
  template <Again kAgain>
  ONNXLOSS_DEVICE void Load(int i, Index vector) {
    const Index first = row.FirstClass(vector);
    logits[i] = LoadVector<kAgain>(row, row.classes, first, -Infinity<Acc>());
    if constexpr (!Row::kHasTarget) {
      labels[i] = LoadVector<kAgain>(probabilities, row.classes, first, Acc{0});
    }
  }

  // An element as the softmax sees it. A cap would lift what fills up a vector from -inf.
  ONNXLOSS_DEVICE Acc Seen(int i, int j, Index first) const {
    const Acc x = logits[i].At(j);
    if constexpr (kCap == Cap::kNone) return x;
    const bool inside = first + j >= 0 && first + j < row.classes;
    return inside ? problem.Capped(x) : x;
  }

  // Of the classes of a vector, which begins with class `first`; 1 beyond the row's ends.
  ONNXLOSS_DEVICE void WeightsOf(Index first, Acc* weight) const {
#pragma unroll
    for (int j = 0; j < kElements; ++j) weight[j] = Acc{1};
    // A branch for the vector, not for each element: without weights their loads would still cost
    // instructions, and registers, since all vectors' would be made at once.
    const Acc* weights = static_cast<const Acc*>(problem.call.class_weights);
    if (weights == nullptr) return;
    if (row.IsWhole(first) && IsAligned(weights + first)) {
#pragma unroll
      for (int j = 0; j < kElements; j += kWidth<Acc>) {
        const Vector<Acc> some = {device::Load(weights + first + j)};
#pragma unroll
        for (int k = 0; k < kWidth<Acc>; ++k) weight[j + k] = some.At(k);
      }
      return;
    }
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      const Index c = first + j;
      if (c >= 0 && c < row.classes) weight[j] = weights[c];
    }
  }

  // The dense coefficients of vector i, which begins with class `first`; 0 beyond the row's ends.
  ONNXLOSS_DEVICE void CoefficientsOf(int i, Index first, Acc* a) const {
    if constexpr (Row::kDense) {
      WeightsOf(first, a);
#pragma unroll
      for (int j = 0; j < kElements; ++j) {
        const Acc label = Row::kHasTarget ? Acc{0} : labels[Row::kHasTarget ? 0 : i].At(j);
        a[j] = problem.row.Coefficient(label, a[j]);
      }
      if (row.IsWhole(first)) return;
#pragma unroll
      for (int j = 0; j < kElements; ++j) {
        const Index c = first + j;
        if (c < 0 || c >= row.classes) a[j] = 0;
      }
    }
  }

  // Whether all classes have one coefficient.
  ONNXLOSS_DEVICE bool IsUniform() const {
    return Row::kHasTarget && problem.call.class_weights == nullptr;
  }

  // The dense terms of vector i.
  ONNXLOSS_DEVICE void AddDense(int i, Index first, Terms<Acc>* terms) const {
    if constexpr (Row::kDense) {
      if (IsUniform() && row.IsWhole(first)) {
        const Acc a = problem.row.uniform;
        Acc gaps = 0;
#pragma unroll
        for (int j = 0; j < kElements; ++j) gaps += a * (terms->shift - logits[i].At(j));
        terms->gap += a == Acc{} ? Acc{} : gaps;
        terms->total += kElements * a;
        return;
      }
      Acc a[kElements];
      CoefficientsOf(i, first, a);
#pragma unroll
      for (int j = 0; j < kElements; ++j) terms->AddDense(logits[i].At(j), a[j]);
    }
  }

  // The coefficients as GradientOf wants them.
  ONNXLOSS_DEVICE void SharesOf(int i, Index first, const Result<Acc>& result, Acc* share) const {
    if constexpr (Row::kDense) {
      if (IsUniform()) {
        const Acc every = ShareOf<Row>(result, problem.row.uniform);
#pragma unroll
        for (int j = 0; j < kElements; ++j) share[j] = every;
        return;
      }
      CoefficientsOf(i, first, share);
#pragma unroll
      for (int j = 0; j < kElements; ++j) share[j] = ShareOf<Row>(result, share[j]);
    }
  }

  // Adds all, as one chunk: vector i is number vector + i * step of the row.
  ONNXLOSS_DEVICE void AddTo(Index vector, Index step, Summary<Acc>* summary) {
    if constexpr (kCap == Cap::kNone) {
      const Unit<T> former = UnitOf(summary->stats.max, T{});
      summary->stats.count_max = 0;
      Raise<Row::kDense>(Greatest(former), summary);
      AddTerms(former, vector, step, summary);
    } else {
      Acc x[kVectors * kElements];
      Acc a[Row::kDense ? kVectors * kElements : 1];
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const Index first = row.FirstClass(vector + i * step);
#pragma unroll
        for (int j = 0; j < kElements; ++j) x[i * kElements + j] = Seen(i, j, first);
        CoefficientsOf(i, first, a + (Row::kDense ? i * kElements : 0));
      }
      AddChunk<T, Row::kDense, kVectors * kElements>(x, a, summary);
    }
  }

  // The same of vectors that are the first of their row.
  ONNXLOSS_DEVICE Summary<Acc> Summarise(Index vector, Index step) {
    Summary<Acc> summary;
    const Unit<T> none = UnitOf(summary.stats.max, T{});
    summary.stats.max = Greatest(none);
    AddTerms(none, vector, step, &summary);
    return summary;
  }

  // Of all elements and those of `best`.
  ONNXLOSS_DEVICE Acc Greatest(Unit<T> best) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
#pragma unroll
      for (int u = 0; u < kUnits<T>; ++u) best = device::Greater(best, logits[i].UnitAt(u));
    }
    return GreatestOf(best);
  }

  // Adds the elements and those of `best`, none of them above the summary's maximum. What is beyond
  // the row's end costs no time.
  ONNXLOSS_DEVICE void AddTerms(Unit<T> best, Index vector, Index step, Summary<Acc>* summary) {
    Terms<Acc> terms(summary->stats.max);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (vector + i * step >= row.count()) break;
      Forget(i);
#pragma unroll
      for (int u = 0; u < kUnits<T>; ++u) {
        AddElements<T>(Outdo(logits[i].UnitAt(u), &best), &terms);
      }
      AddDense(i, row.FirstClass(vector + i * step), &terms);
    }
    AddLesserElement<T>(best, &terms);
    terms.template Join<Row::kDense>(summary);
  }

  // Vector i is unpacked anew from here on, and not before the vectors in front of it.
  ONNXLOSS_DEVICE void Forget(int i) {
    logits[i].Forget();
    if constexpr (!Row::kHasTarget) labels[i].Forget();
  }

  // Where dlogits go, kept rather than found anew for each vector.
  ONNXLOSS_DEVICE Place<T, Index> Gradients() const {
    Place<T, Index> to = row.In(problem.dlogits(), problem.logits());
    device::Forget(&to.row);
    device::Forget(&to.wholes);
    return to;
  }

  // dlogits of a vector, as if it had no target.
  ONNXLOSS_DEVICE void StoreGradient(int i, Index vector, const Result<Acc>& result,
                                     const Place<T, Index>& to) const {
    const Index first = row.FirstClass(vector);
    Acc share[kElements];
    SharesOf(i, first, result, share);
    Acc gradient[kElements];
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      Acc value = GradientOf<T, Row>(result, Seen(i, j, first), share[j]);
      if constexpr (kCap == Cap::kSome) value *= problem.CapSlope(logits[i].At(j));
      gradient[j] = value;
    }
    StoreVector(to, row.classes, first, gradient);
  }

  // The target's element is replaced by the thread that stored its vector: the one of `lane` among
  // `lanes`, a power of two.
  ONNXLOSS_DEVICE void StoreTarget(int64_t label, Index lane, Index lanes,
                                   const Result<Acc>& result, const Place<T, Index>& to) const {
    if (!Row::kHasTarget || label == kNoLabel) return;
    if ((row.VectorOf(static_cast<Index>(label)) & (lanes - 1)) != lane) return;
    Acc value = result.at_target;
    if constexpr (kCap == Cap::kSome) value *= problem.CapSlope(Wide(row.row[label]));
    to.row[label] = Narrow<T>(value);
  }

  // One number for all elements of a vector of dlogits: rows that do not count, or are nan.
  ONNXLOSS_DEVICE void StoreConstant(Index vector, bool bad, const Place<T, Index>& to) const {
    Acc constant[kElements];
#pragma unroll
    for (int j = 0; j < kElements; ++j) constant[j] = bad ? NotANumber<Acc>() : Acc{0};
    StoreVector(to, row.classes, row.FirstClass(vector), constant);
  }
};

}  // namespace onnxloss::cuda
