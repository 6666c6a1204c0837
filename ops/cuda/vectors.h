// SPDX-License-Identifier: MIT
// 16 bytes of a row at a time: the vectors that lie on boundaries of 16 bytes and wholly in the
// row. What is before the first and behind the last of them are its edges, which go one by one.
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
// The greatest element is left.
template <class T>
ONNXLOSS_DEVICE Accumulator<T> AddLesserElement(Unit<T> unit, Terms<Accumulator<T>>* terms) {
  if constexpr (sizeof(T) == 2) {
    terms->template Add<T>(device::Lesser(ElementOf(unit, 0), ElementOf(unit, 1)));
  }
  return GreatestOf(unit);
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

ONNXLOSS_DEVICE bool IsAligned(const void* place) {
  return reinterpret_cast<uintptr_t>(place) % 16 == 0;
}

// Where the vectors and edges of a row are. The plan sees to it that all arrays of the shape of
// logits are on the same side of a boundary. A short Index saves registers where rows are short.
template <class T, class Index>
struct RowVectors {
  Index classes;
  Index count;  // of its vectors
  int head;     // edges in front of them

  ONNXLOSS_DEVICE RowVectors(const T* row, int64_t given) : classes(static_cast<Index>(given)) {
    const int beyond = static_cast<int>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T));
    const int before = beyond == 0 ? 0 : kWidth<T> - beyond;
    head = before < classes ? before : static_cast<int>(classes);
    count = (classes - head) / kWidth<T>;
  }

  // The class of a vector's first element, and that of an edge.
  ONNXLOSS_DEVICE Index FirstClass(Index vector) const { return head + vector * kWidth<T>; }
  ONNXLOSS_DEVICE int edges() const { return static_cast<int>(classes - count * kWidth<T>); }
  ONNXLOSS_DEVICE Index ClassOfEdge(int edge) const {
    return edge < head ? edge : classes - edges() + edge;
  }
  // Of the lanes that share the row, a power of two, the one that has a class.
  ONNXLOSS_DEVICE Index LaneOf(Index c, Index lanes) const {
    const Index behind = c - FirstClass(count);
    const Index in_vector = (c - head) / kWidth<T>;
    const Index edge = c < head ? c : head + behind;
    return (c < head || behind >= 0 ? edge : in_vector) & (lanes - 1);
  }
};

// At most, of one of the lanes that share a row.
template <class T>
constexpr int MostEdges(int lanes) {
  return (2 * (kWidth<T> - 1) + lanes - 1) / lanes;
}

template <class T>
ONNXLOSS_DEVICE Vector<T> NothingBut(Accumulator<T> x) {
  Accumulator<T> same[kWidth<T>];
#pragma unroll
  for (int j = 0; j < kWidth<T>; ++j) same[j] = x;
  return Packed(same, T{});
}

enum class Cap { kNone, kSome };

// More of them would lose digits in the sums of float.
constexpr int kVectorsOfTerms = 8;

// The vectors and edges of a row that one thread has in hand.
template <class T, class Row, class Index, Cap kCap, int kVectors, int kEdges>
struct Hand {
  using Acc = Accumulator<T>;
  static constexpr int kElements = kWidth<T>;

  const Problem<T, Row>& problem;
  const RowVectors<T, Index>& row;
  const T* logits_of_row;
  const T* labels_of_row;  // where they are probabilities
  T* dlogits_of_row;
  Vector<T> logits[kVectors];
  Vector<T> labels[Row::kHasTarget ? 1 : kVectors];
  Acc edges[kEdges];
  Acc labels_of_edges[Row::kHasTarget ? 1 : kEdges];

  ONNXLOSS_DEVICE Hand(const Problem<T, Row>& of, const RowVectors<T, Index>& in, int64_t begin)
      : problem(of),
        row(in),
        logits_of_row(of.logits() + begin),
        labels_of_row(of.probabilities() + begin),
        dlogits_of_row(of.dlogits() + begin) {}

  // Vector number `vector` of the row; beyond its end there is nothing but filler.
  template <Again kAgain>
  ONNXLOSS_DEVICE void Load(int i, Index vector) {
    const bool is_there = vector < row.count;
    const auto read = [&](const T* from) -> Vector<T> {
      from += row.FirstClass(vector);
      return {kAgain == Again::kYes ? device::Load(from) : device::LoadOnce(from)};
    };
    logits[i] = is_there ? read(logits_of_row) : NothingBut<T>(-Infinity<Acc>());
    if constexpr (!Row::kHasTarget) {
      labels[i] = is_there ? read(labels_of_row) : NothingBut<T>(0);
    }
  }

  // Calls visit(k, c) for the edges of a lane, and their classes.
  template <class Visitor>
  ONNXLOSS_DEVICE void ForEdges(Index lane, Index lanes, Visitor visit) const {
#pragma unroll
    for (int k = 0; k < kEdges; ++k) {
      const int edge = static_cast<int>(lane + k * lanes);
      if (edge < row.edges()) visit(k, row.ClassOfEdge(edge));
    }
  }
  ONNXLOSS_DEVICE void LoadEdges(Index lane, Index lanes) {
#pragma unroll
    for (int k = 0; k < kEdges; ++k) {
      edges[k] = -Infinity<Acc>();
      if constexpr (!Row::kHasTarget) labels_of_edges[k] = 0;
    }
    ForEdges(lane, lanes, [&](int k, Index c) {
      edges[k] = Wide(logits_of_row[c]);
      if constexpr (!Row::kHasTarget) labels_of_edges[k] = Wide(labels_of_row[c]);
    });
  }

  // An element as the softmax sees it.
  ONNXLOSS_DEVICE Acc Seen(Acc x) const { return kCap == Cap::kNone ? x : problem.Capped(x); }

  // Of the classes of a vector, which begins with class `first`.
  ONNXLOSS_DEVICE void WeightsOf(Index first, Acc* weight) const {
#pragma unroll
    for (int j = 0; j < kElements; ++j) weight[j] = Acc{1};
    // A branch for the vector, not for each element: without weights their loads would still cost
    // instructions, and registers, since all vectors' would be made at once.
    const Acc* weights = static_cast<const Acc*>(problem.call.class_weights);
    if (weights == nullptr) return;
    weights += first;
    if (!IsAligned(weights)) {
#pragma unroll
      for (int j = 0; j < kElements; ++j) weight[j] = weights[j];
      return;
    }
#pragma unroll
    for (int j = 0; j < kElements; j += kWidth<Acc>) {
      const Vector<Acc> some = {device::Load(weights + j)};
#pragma unroll
      for (int k = 0; k < kWidth<Acc>; ++k) weight[j + k] = some.At(k);
    }
  }

  // The dense coefficients of vector i, which begins with class `first`, and of an edge.
  ONNXLOSS_DEVICE void CoefficientsOf(int i, Index first, Acc* a) const {
    if constexpr (Row::kDense) {
      WeightsOf(first, a);
#pragma unroll
      for (int j = 0; j < kElements; ++j) {
        const Acc label = Row::kHasTarget ? Acc{0} : labels[Row::kHasTarget ? 0 : i].At(j);
        a[j] = problem.row.Coefficient(label, a[j]);
      }
    }
  }
  ONNXLOSS_DEVICE Acc CoefficientOfEdge(int k, Index c) const {
    const Acc label = Row::kHasTarget ? Acc{0} : labels_of_edges[Row::kHasTarget ? 0 : k];
    return problem.row.Coefficient(label, problem.Weight(c));
  }

  // Whether all classes have one coefficient.
  ONNXLOSS_DEVICE bool IsUniform() const {
    return Row::kHasTarget && problem.call.class_weights == nullptr;
  }

  // The dense terms of vector i.
  ONNXLOSS_DEVICE void AddDense(int i, Index first, Terms<Acc>* terms) const {
    if constexpr (Row::kDense) {
      if (IsUniform()) {
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

  // The first vectors and the edges: vector i is number vector + i * step of the row.
  ONNXLOSS_DEVICE Summary<Acc> Summarise(Index vector, Index step) {
    static_assert(kCap == Cap::kNone, "where there is a cap, AddEdges and AddTo");
    Summary<Acc> summary;
    const Unit<T> none = UnitOf(summary.stats.max, T{});
    summary.stats.max = Greatest(none);
#pragma unroll
    for (int k = 0; k < kEdges; ++k) {
      summary.stats.max = device::Greater(summary.stats.max, edges[k]);
    }
    AddTerms(none, vector, step, &summary, [&](Acc best, Terms<Acc>* terms) {
      ForEdges(vector, step, [&](int k, Index c) {
        terms->template Add<T>(Outdo(edges[k], &best));
        if constexpr (Row::kDense) terms->AddDense(edges[k], CoefficientOfEdge(k, c));
      });
    });
    return summary;
  }

  ONNXLOSS_DEVICE void AddEdges(Index lane, Index lanes, Summary<Acc>* summary) const {
    ForEdges(lane, lanes, [&](int k, Index c) {
      const Acc x[1] = {Seen(edges[k])};
      const Acc a[1] = {Row::kDense ? CoefficientOfEdge(k, c) : Acc{0}};
      AddChunk<T, Row::kDense, 1>(x, a, summary);
    });
  }

  // The vectors, as above.
  ONNXLOSS_DEVICE void AddTo(Index vector, Index step, Summary<Acc>* summary) {
    if constexpr (kCap == Cap::kNone) {
      const Unit<T> former = UnitOf(summary->stats.max, T{});
      summary->stats.count_max = 0;
      Raise<Row::kDense>(Greatest(former), summary);
      AddTerms(former, vector, step, summary, [](Acc, Terms<Acc>*) {});
    } else {
      Acc x[kVectors * kElements];
      Acc a[Row::kDense ? kVectors * kElements : 1];
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const Index number = vector + i * step;
        const bool is_there = number < row.count;
#pragma unroll
        for (int j = 0; j < kElements; ++j) {
          // A cap would lift what fills up a vector from -inf.
          const Acc given = logits[i].At(j);
          x[i * kElements + j] = is_there ? Seen(given) : given;
          if (Row::kDense) a[i * kElements + j] = 0;
        }
        Acc* own = a + (Row::kDense ? i * kElements : 0);
        if (is_there) CoefficientsOf(i, row.FirstClass(number), own);
      }
      AddChunk<T, Row::kDense, kVectors * kElements>(x, a, summary);
    }
  }

  // Of all vectors and `best`.
  ONNXLOSS_DEVICE Acc Greatest(Unit<T> best) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
#pragma unroll
      for (int u = 0; u < kUnits<T>; ++u) best = device::Greater(best, logits[i].UnitAt(u));
    }
    return GreatestOf(best);
  }

  // Adds the vectors and what is in `best`, none of it above the summary's maximum, and with
  // add_more(greatest of these, terms) others. What is beyond the row's end costs no time.
  template <class AddMore>
  ONNXLOSS_DEVICE void AddTerms(Unit<T> best, Index vector, Index step, Summary<Acc>* summary,
                                AddMore add_more) {
    Terms<Acc> terms(summary->stats.max);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (vector + i * step >= row.count) break;
      Forget(i);
#pragma unroll
      for (int u = 0; u < kUnits<T>; ++u) {
        AddElements<T>(Outdo(logits[i].UnitAt(u), &best), &terms);
      }
      AddDense(i, row.FirstClass(vector + i * step), &terms);
      const bool is_full = (i + 1) % kVectorsOfTerms == 0 && i + 1 < kVectors;
      if (is_full) terms.template Join<Row::kDense>(summary);
    }
    add_more(AddLesserElement<T>(best, &terms), &terms);
    terms.template Join<Row::kDense>(summary);
  }

  // Vector i is unpacked anew from here on, and not before the vectors in front of it.
  ONNXLOSS_DEVICE void Forget(int i) {
    logits[i].Forget();
    if constexpr (!Row::kHasTarget) labels[i].Forget();
  }

  // dlogits of vector i, as if it had no target.
  ONNXLOSS_DEVICE void StoreGradient(int i, Index vector, const Result<Acc>& result) const {
    const Index first = row.FirstClass(vector);
    Acc share[kElements];
    SharesOf(i, first, result, share);
    Acc gradient[kElements];
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      gradient[j] = Gradient(logits[i].At(j), share[j], result);
    }
    device::StoreOnce(dlogits_of_row + first, Packed(gradient, T{}).bytes);
  }
  ONNXLOSS_DEVICE Acc Gradient(Acc x, Acc share, const Result<Acc>& result) const {
    const Acc gradient = GradientOf<T, Row>(result, Seen(x), share);
    return kCap == Cap::kNone ? gradient : gradient * problem.CapSlope(x);
  }

  // dlogits of the edges, and of the target, which replaces what the same thread has stored.
  ONNXLOSS_DEVICE void StoreEdges(int64_t label, Index lane, Index lanes,
                                  const Result<Acc>& result) const {
    ForEdges(lane, lanes, [&](int k, Index c) {
      const Acc share = Row::kDense ? ShareOf<Row>(result, CoefficientOfEdge(k, c)) : Acc{0};
      dlogits_of_row[c] = Narrow<T>(Gradient(edges[k], share, result));
    });
    if (!Row::kHasTarget || label == kNoLabel) return;
    const Index target = static_cast<Index>(label);
    if (row.LaneOf(target, lanes) != lane) return;
    Acc value = result.at_target;
    if constexpr (kCap == Cap::kSome) value *= problem.CapSlope(Wide(logits_of_row[target]));
    dlogits_of_row[target] = Narrow<T>(value);
  }

  // One number for all of dlogits: rows that do not count, or are nan.
  ONNXLOSS_DEVICE void StoreConstant(bool bad, Index lane, Index lanes) const {
    const Acc constant = bad ? NotANumber<Acc>() : Acc{0};
#pragma unroll 1
    for (Index vector = lane; vector < row.count; vector += lanes) {
      device::StoreOnce(dlogits_of_row + row.FirstClass(vector), NothingBut<T>(constant).bytes);
    }
    ForEdges(lane, lanes, [&](int, Index c) { dlogits_of_row[c] = Narrow<T>(constant); });
  }
};

}  // namespace onnxloss::cuda
