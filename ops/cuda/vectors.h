// SPDX-License-Identifier: MIT
// 16 bytes of a row at a time. Vectors lie on 16-byte boundaries wherever the row begins, so that
// the first and the last may reach beyond it; those go element by element.
#pragma once

#include "cuda/summary.h"

namespace onnxloss::cuda {

template <class T>
constexpr int kWidth = static_cast<int>(16 / sizeof(T));

// Packed as in memory: 16-bit elements share a register.
template <class T>
struct Vector {
  device::Bytes16 bytes;

  ONNXLOSS_DEVICE Accumulator<T> At(int j) const {
    if constexpr (sizeof(T) == 2) {
      return Wide(T{static_cast<uint16_t>(bytes.words[j / 2] >> (j % 2 * 16))});
    } else if constexpr (sizeof(T) == 4) {
      return BitCast<float>(bytes.words[j]);
    } else {
      return BitCast<double>(uint64_t{bytes.words[2 * j]} | uint64_t{bytes.words[2 * j + 1]} << 32);
    }
  }

  // Its elements are unpacked anew from here on.
  ONNXLOSS_DEVICE void Forget() {
    if constexpr (sizeof(T) == 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) device::Forget(&bytes.words[i]);
    }
  }
};

ONNXLOSS_DEVICE Vector<Half> Packed(const float (&x)[8], Half) {
  return {{{device::NarrowToHalves(x[0], x[1]), device::NarrowToHalves(x[2], x[3]),
            device::NarrowToHalves(x[4], x[5]), device::NarrowToHalves(x[6], x[7])}}};
}
ONNXLOSS_DEVICE Vector<BFloat16> Packed(const float (&x)[8], BFloat16) {
  return {{{device::NarrowToBFloat16s(x[0], x[1]), device::NarrowToBFloat16s(x[2], x[3]),
            device::NarrowToBFloat16s(x[4], x[5]), device::NarrowToBFloat16s(x[6], x[7])}}};
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

// A row of T and of which vectors it consists. A short Index saves registers where rows are short.
template <class T, class Index>
struct RowVectors {
  const T* row;
  Index classes;
  int head;  // elements of vector 0 before the row

  ONNXLOSS_DEVICE RowVectors(const T* begin, int64_t count)
      : row(begin),
        classes(static_cast<Index>(count)),
        head(static_cast<int>(reinterpret_cast<uintptr_t>(begin) % 16 / sizeof(T))) {}

  ONNXLOSS_DEVICE Index count() const { return (classes + head + kWidth<T> - 1) / kWidth<T>; }
  // The class of a vector's first element, negative before the row.
  ONNXLOSS_DEVICE Index FirstClass(Index vector) const { return vector * kWidth<T> - head; }
  ONNXLOSS_DEVICE Index VectorOf(Index c) const { return (c + head) / kWidth<T>; }
};

ONNXLOSS_DEVICE bool IsAligned(const void* place) {
  return reinterpret_cast<uintptr_t>(place) % 16 == 0;
}

// The elements of `row` from class `first` on; `filler` beyond its ends.
template <Again kAgain, class T, class Index>
ONNXLOSS_DEVICE Vector<T> LoadVector(const T* row, Index classes, Index first,
                                     Accumulator<T> filler) {
  if (first >= 0 && first + kWidth<T> <= classes && IsAligned(row + first)) {
    return {kAgain == Again::kYes ? device::Load(row + first) : device::LoadOnce(row + first)};
  }
  Accumulator<T> x[kWidth<T>];
#pragma unroll
  for (int j = 0; j < kWidth<T>; ++j) {
    const Index c = first + j;
    x[j] = c >= 0 && c < classes ? Wide(row[c]) : filler;
  }
  return Packed(x, T{});
}

template <class T, class Index>
ONNXLOSS_DEVICE void StoreVector(T* row, Index classes, Index first,
                                 const Accumulator<T> (&x)[kWidth<T>]) {
  if (first >= 0 && first + kWidth<T> <= classes && IsAligned(row + first)) {
    device::StoreOnce(row + first, Packed(x, T{}).bytes);
    return;
  }
#pragma unroll
  for (int j = 0; j < kWidth<T>; ++j) {
    const Index c = first + j;
    if (c >= 0 && c < classes) row[c] = Narrow<T>(x[j]);
  }
}

// The dense coefficients of a vector's classes, 0 beyond the row's ends. `labels` is of use where
// labels are probabilities.
template <class T, class Row, class Index, class Acc>
ONNXLOSS_DEVICE void Coefficients(const Problem<T, Row>& problem, Index classes, Index first,
                                  const Vector<T>& labels, Acc* a) {
  if constexpr (Row::kDense) {
    // A branch for the vector, not for each element: without weights their loads would still cost
    // instructions, and registers, since all vectors' would be made at once.
    Acc weight[kWidth<T>];
#pragma unroll
    for (int j = 0; j < kWidth<T>; ++j) weight[j] = Acc{1};
    if (problem.call.class_weights != nullptr) {
#pragma unroll
      for (int j = 0; j < kWidth<T>; ++j) {
        const Index c = first + j;
        if (c >= 0 && c < classes) weight[j] = problem.Weight(c);
      }
    }
#pragma unroll
    for (int j = 0; j < kWidth<T>; ++j) {
      const Index c = first + j;
      const Acc label = Row::kHasTarget ? Acc{0} : labels.At(j);
      a[j] = c >= 0 && c < classes ? problem.row.Coefficient(label, weight[j]) : Acc{0};
    }
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
  Vector<T> logits[kVectors];
  Vector<T> labels[Row::kHasTarget ? 1 : kVectors];

  ONNXLOSS_DEVICE Hand(const Problem<T, Row>& of, const RowVectors<T, Index>& in)
      : problem(of), row(in) {}

  // Vector number `vector` of the row; beyond its end there is nothing but filler.
  template <Again kAgain>
  ONNXLOSS_DEVICE void Load(int i, Index vector) {
    const Index first = row.FirstClass(vector);
    logits[i] = LoadVector<kAgain>(row.row, row.classes, first, -Infinity<Acc>());
    if constexpr (!Row::kHasTarget) {
      const T* own = problem.probabilities() + (row.row - problem.logits());
      labels[i] = LoadVector<kAgain>(own, row.classes, first, Acc{0});
    }
  }

  // An element as the softmax sees it. A cap would lift what fills up a vector from -inf.
  ONNXLOSS_DEVICE Acc Seen(int i, int j, Index first) const {
    const Acc x = logits[i].At(j);
    if constexpr (kCap == Cap::kNone) return x;
    const bool inside = first + j >= 0 && first + j < row.classes;
    return inside ? problem.Capped(x) : x;
  }

  ONNXLOSS_DEVICE void CoefficientsOf(int i, Index first, Acc* a) const {
    Coefficients(problem, row.classes, first, labels[Row::kHasTarget ? 0 : i], a);
  }

  // The elements of vector i, number `vector` of the row, and their coefficients.
  ONNXLOSS_DEVICE void See(int i, Index vector, Acc* x, Acc* a) const {
    const Index first = row.FirstClass(vector);
#pragma unroll
    for (int j = 0; j < kElements; ++j) x[j] = Seen(i, j, first);
    if constexpr (Row::kDense) CoefficientsOf(i, first, a);
  }

  // Adds all, as one chunk: vector i is number vector + i * step of the row.
  ONNXLOSS_DEVICE void AddTo(Index vector, Index step, Summary<Acc>* summary) const {
    Acc x[kVectors * kElements];
    Acc a[Row::kDense ? kVectors * kElements : 1];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      See(i, vector + i * step, x + i * kElements, Row::kDense ? a + i * kElements : nullptr);
    }
    AddChunk<T, Row::kDense, kVectors * kElements>(x, a, summary);
  }

  // The same vector by vector, which takes fewer registers and widens every element twice.
  ONNXLOSS_DEVICE Summary<Acc> Summarise(Index vector, Index step) {
    Summary<Acc> summary;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
#pragma unroll
      for (int j = 0; j < kElements; ++j) {
        const Acc x = logits[i].At(j);
        summary.stats.max = x > summary.stats.max ? x : summary.stats.max;
      }
    }
    Terms<Acc> terms;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      Forget(i);
      Acc x[kElements];
      Acc a[Row::kDense ? kElements : 1];
      See(i, vector + i * step, x, a);
      AddTerms<T, Row::kDense, kElements>(x, a, summary.stats.max, &terms);
    }
    Add<Row::kDense>(terms, &summary);
    return summary;
  }

  // Vector i is unpacked anew from here on, and not before the vectors in front of it.
  ONNXLOSS_DEVICE void Forget(int i) {
    logits[i].Forget();
    if constexpr (!Row::kHasTarget) labels[i].Forget();
  }

  // dlogits of a vector; the thread that has the target's vector replaces the target's element.
  ONNXLOSS_DEVICE void StoreGradient(int i, Index vector, const Result<Acc>& result,
                                     int64_t label) const {
    const Index first = row.FirstClass(vector);
    Acc a[kElements];
    CoefficientsOf(i, first, a);
    Acc gradient[kElements];
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      Acc value = GradientOf<T, Row>(result, Seen(i, j, first), a[j]);
      if constexpr (kCap == Cap::kSome) value *= problem.CapSlope(logits[i].At(j));
      gradient[j] = value;
    }
    T* own = problem.dlogits() + (row.row - problem.logits());
    StoreVector(own, row.classes, first, gradient);
    if (Row::kHasTarget && label != kNoLabel && row.VectorOf(static_cast<Index>(label)) == vector) {
      Acc value = result.at_target;
      if constexpr (kCap == Cap::kSome) value *= problem.CapSlope(Wide(row.row[label]));
      own[label] = Narrow<T>(value);
    }
  }
};

// One number for all elements of a vector of dlogits: rows that do not count, or are nan.
template <class T, class Row, class Index>
ONNXLOSS_DEVICE void StoreConstant(const Problem<T, Row>& problem, const RowVectors<T, Index>& row,
                                   Index vector, bool bad) {
  using Acc = Accumulator<T>;
  Acc constant[kWidth<T>];
#pragma unroll
  for (int j = 0; j < kWidth<T>; ++j) constant[j] = bad ? NotANumber<Acc>() : Acc{0};
  T* own = problem.dlogits() + (row.row - problem.logits());
  StoreVector(own, row.classes, row.FirstClass(vector), constant);
}

}  // namespace onnxloss::cuda
