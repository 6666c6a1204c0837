// SPDX-License-Identifier: MIT
// Rows that lie in one piece and are short: many of them at a time.
#pragma once

#include <type_traits>

#include "cpu/finish.h"
#include "cpu/row_vectors.h"

namespace onnxloss::ONNXLOSS_TARGET {

// What needs no other element of its row, exponentials and gradients, is formed in the order of
// memory, where a vector may hold the end of one row and others behind it. Sums over classes are
// formed of vectors that begin where rows do, in an order that the number of classes alone decides,
// so that a row's result does not depend on its neighbours.
//
// The loops over `rows` rows of n elements each: whole vectors of rows, with kWidth readable
// elements behind them. Logits are of type X.

template <class X, class Acc>
ONNXLOSS_FOR_MANY void FindMaxima(const X* x, int64_t n, int64_t rows, Acc* max) {
  if constexpr (sizeof(X) == sizeof(Acc)) {
    WithRowVector<Acc>(n, [=](auto type) {
      using R = decltype(type);
      for (int64_t r = 0; r < rows; r += kElements<R>) {
        const X* row = x + r * n;
        const auto of = [row](int64_t, int64_t i) { return LoadAs<R>(row + i); };
        StoreAs(max + r, JoinedRows<R>(n, of, [](R a, R b) { return Max(a, b); }));
      }
    });
  } else {
    // The bits as integers: in the numbers' order, but that of negative ones is reversed.
    using R = RowVector<int16_t, kWidth<Acc>>;
    for (int64_t r = 0; r < rows; r += kWidth<Acc>, x += kWidth<Acc> * n) {
      const auto of = [x](int64_t, int64_t i) { return LoadAs<R>(x + i); };
      R greatest = JoinedRows<R>(n, of, [](R a, R b) { return Max(a, b); });
      if (Reduced(greatest, [](auto a, auto b) { return a | b; }) < 0) {
        const R least = JoinedRows<R>(n, of, [](R a, R b) { return a < b ? a : b; });
        greatest = greatest < 0 ? least : greatest;
      }
      Store(max + r, Widened<X>(BitCast<NarrowVector>(greatest)));
    }
  }
}

// The sums of scaled exponentials, without the scale.
template <class Acc>
ONNXLOSS_FOR_MANY void AddUp(const Acc* e, int64_t n, int64_t rows, Acc* sum) {
  WithRowVector<Acc>(n, [=](auto type) {
    using R = decltype(type);
    for (int64_t r = 0; r < rows; r += kElements<R>) {
      const Acc* row = e + r * n;
      const auto of = [row](int64_t, int64_t i) { return LoadAs<R>(row + i); };
      StoreAs(sum + r, SumOfRows<R>(n, of) * kPerExpScale<Acc>);
    }
  });
}

// The dense sums. Soft labels are laid out like x; the weights of the classes stand one row after
// the other, too.
template <class Row, class X, class Acc>
ONNXLOSS_FOR_MANY void AddGaps(const Row& row, const X* x, const Acc* labels, const Acc* weights,
                               int64_t n, int64_t rows, const Acc* max, Acc* gap, Acc* total) {
  WithRowVector<Acc>(n, [=, &row](auto type) {
    using R = decltype(type);
    for (int64_t r0 = 0; r0 < rows; r0 += kElements<R>) {
      const int64_t first = r0 * n;
      const auto coefficient = [=, &row](int64_t, int64_t i) {
        R label = {};
        if constexpr (!Row::kHasTarget) label = LoadAs<R>(labels + first + i);
        return row.Coefficient(label, LoadAs<R>(weights + i));
      };
      const auto of = [=, max = max + r0](int64_t r, int64_t i) {
        return GapTerm(coefficient(r, i), Shift(max[r]) - LoadRow<R>(x + first + i));
      };
      StoreAs(gap + r0, SumOfRows<R>(n, of));
      if constexpr (!Row::kHasTarget) StoreAs(total + r0, SumOfRows<R>(n, coefficient));
    }
  });
}

constexpr int64_t kAhead = 16384;  // bytes: about a block

// The scaled exponentials. The greatest of each row are left out, see RowStats. Returns which
// vectors of rows leave out more than one of a row, a bit each. row_of tells the rows of the
// elements of each vector from the first one's on, for kWidth rows.
template <class X, class Acc>
ONNXLOSS_FOR_MANY uint64_t Exponentiate(const X* __restrict x, int64_t n, int64_t rows,
                                        const Acc* max,
                                        const typename NumberTypes<Acc>::Bits* row_of,
                                        Acc* __restrict e, Marks<Acc>* __restrict others) {
  using V = Vector<Acc>;
  constexpr int64_t w = kWidth<Acc>;
  uint64_t with_ties = 0;
  for (int64_t r = 0; r < rows; r += w, x += w * n, e += w * n, others += n) {
    const V of_rows = Load(max + r);
    const V shift = Shift(of_rows);
    MarkCount<Acc> count;
    for (int64_t j = 0; j < n; ++j) {
      FetchAhead(x + j * w, kAhead);
      const V value = Load(x + j * w);
      const V of_row = Permuted(shift, LoadAs<VectorBits<Acc>>(row_of + j * w));
      others[j] = Marks<Acc>::Different(value, of_row);
      count.Add(others[j]);
      Store(e + j * w, others[j].template ScaledExpOf<X>(value - of_row));
    }
    // Rows of -inf have no greatest element: they count as if they had one.
    MarkCount<Acc> infinite;
    infinite.Add(Marks<Acc>::Different(shift, of_rows));
    const int64_t left_out = w * n - (count.Total() - infinite.Total());
    with_ties |= static_cast<uint64_t>(left_out > w) << (r / w);
  }
  return with_ties;
}

// A load waits for earlier stores to memory whose address ends in the same 12 bits: half of such a
// page keeps what is written here out of the way of what is read from `other` at the time.
constexpr int64_t kPage = 4096;
template <class Acc>
inline Acc* ApartFrom(const void* other, Acc* room) {
  const uintptr_t apart = reinterpret_cast<uintptr_t>(other) + kPage / 2;
  const uintptr_t bytes = (apart - reinterpret_cast<uintptr_t>(room)) % kPage;
  return room + bytes / kVectorBytes * (kVectorBytes / sizeof(Acc));
}

// Of fewer classes, rows of 16-bit logits are copied in the accumulator's type. Vectors of 16 bytes
// would leave half of one to 16 bits; in those of 64 bytes, 16-bit maxima take more steps to join,
// which cost more than to copy a few halves.
template <class T>
constexpr int64_t FewestReadInPlace() {
  if (sizeof(T) == sizeof(Accumulator<T>)) return 1;
  if (kVectorBytes == 16) return kSmallestLongRow;
  return kVectorBytes == 64 && std::is_same_v<T, Half> ? 56 : 1;
}

// A tile is a few blocks of rows. Those of a block are taken through their sums while they and
// their exponentials are in the first cache.
constexpr int64_t kBlockElements = 2048;

template <class T, class Row>
struct ShortRows {
  using Acc = Accumulator<T>;
  using V = Vector<Acc>;
  using Bits = typename NumberTypes<Acc>::Bits;
  static constexpr int64_t kVector = kWidth<Acc>;
  static_assert(kTileLanes / kVector <= 64, "Exponentiate has a bit for each vector of rows");
  static constexpr int64_t kBeyond = kVector;
  static constexpr int64_t kTile = kTileLanes * kSmallestLongRow;
  static constexpr int64_t kRowsAtLeast = kVector * kSmallestLongRow;
  static constexpr int64_t kBlock = kRowsAtLeast < kBlockElements ? kBlockElements : kRowsAtLeast;

  const TypedProblem<T, Row>& problem;
  const int64_t n = problem.raw.classes;
  Writer<T> writer;
  int64_t first = 0;  // position of lane 0
  int64_t lanes = 0;  // positions in use; the others compute on what is left of earlier ones

  LanePositions<T, Row> positions;
  Lanes<int32_t> target;  // where the tile has the lane's label
  alignas(64) Bits row_of[kRowsAtLeast];
  alignas(64) Acc weights[Row::kDense ? kRowsAtLeast + kBeyond : 1];
  alignas(64) Acc room[kTile + kBeyond + kPage / static_cast<int64_t>(sizeof(Acc))];
  Acc* exponentials = room;
  Marks<Acc> others[kTile / kVector + kBeyondMarks<Acc>];
  alignas(64) Acc copied_logits[kBlock + kBeyond];
  alignas(64) Acc copied_labels[Row::kHasTarget ? 1 : kBlock + kBeyond];

  ShortRows(const TypedProblem<T, Row>& typed, T* output)
      : problem(typed), writer(output, typed.raw.stream), positions(typed) {
    int64_t i = 0;
    for (int64_t row = 0; row < kVector; ++row) {
      for (int64_t c = 0; c < n; ++c, ++i) {
        row_of[i] = static_cast<Bits>(row);
        if constexpr (Row::kDense) weights[i] = problem.weight(c);
      }
    }
    if constexpr (Row::kDense) {
      for (; i < kVector * n + kBeyond; ++i) weights[i] = 0;
    }
  }

  bool gradient() const { return problem.dlogits != nullptr; }

  // Whether the loops can read the rows of the tile before `last` where they are.
  bool IsReadable(int64_t last) const {
    return (first + last) * n + kBeyond <= problem.raw.outer * n;
  }
  // Rows [i, last) of the tile in the accumulator's type, with zeros where there are none.
  ONNXLOSS_FOR_MANY const Acc* Copied(const T* source, Acc cap, int64_t i, int64_t last,
                                      Acc* copy) const {
    source += (first + i) * n;
    const int64_t known = ((last < lanes ? last : lanes) - i) * n;
    int64_t j = 0;
    for (; j + kVector <= known; j += kVector) {
      FetchAhead(source + j, kAhead);
      Store(copy + j, Load(source + j));
    }
    if (j < known) StoreFirst(copy + j, known - j, LoadFirst(source + j, known - j, T{}));
    for (j = known; j < (last - i) * n + kBeyond; ++j) copy[j] = 0;
    if (cap > 0) CapAll(cap, copy, known);
    return copy;
  }
  const Acc* Labels(int64_t i, int64_t last) {
    if constexpr (Row::kHasTarget) return nullptr;
    const T* labels = problem.probabilities();
    if constexpr (std::is_same_v<T, Acc>) {
      if (IsReadable(last)) return labels + (first + i) * n;
    }
    return Copied(labels, 0, i, last, copied_labels);
  }

  // The sums of rows [i, last) of the tile.
  void Summarise(int64_t i, int64_t last) {
    if constexpr (FewestReadInPlace<T>() < kSmallestLongRow) {
      if (problem.softcap == 0 && n >= FewestReadInPlace<T>() && IsReadable(last)) {
        return SummariseFrom(problem.logits + (first + i) * n, i, last);
      }
    }
    SummariseFrom(Copied(problem.logits, problem.softcap, i, last, copied_logits), i, last);
  }
  template <class X>
  ONNXLOSS_FOR_MANY void SummariseFrom(const X* x, int64_t i, int64_t last) {
    LaneStats<Acc>& stats = positions.stats;
    Acc* max = stats.max.at + i;
    const int64_t rows = last - i;
    FindMaxima(x, n, rows, max);
    if (i == 0) exponentials = ApartFrom(x, room);
    Acc* e = exponentials + (gradient() ? i * n : 0);
    Marks<Acc>* marks = others + i * n / kVector;
    uint64_t with_ties = Exponentiate(x, n, rows, max, row_of, e, marks);
    Acc* const sum_minus_one = stats.sum_minus_one.value.at + i;
    AddUp(e, n, rows, sum_minus_one);
    for (; with_ties != 0; with_ties &= with_ties - 1) {
      const int64_t r0 = __builtin_ctzll(with_ties) * kVector;
      for (int64_t r = r0; r < r0 + kVector; ++r) {
        const int64_t greatest = n - CountMarks(marks, r * n, n);
        sum_minus_one[r] += static_cast<Acc>(greatest > 1 ? greatest - 1 : 0);
      }
    }
    if constexpr (Row::kDense) {
      AddGaps(problem.row, x, Labels(i, last), weights, n, rows, max, stats.gap.value.at + i,
              stats.total.value.at + i);
    }
    if constexpr (Row::kHasTarget) {
#pragma GCC unroll 8
      for (int64_t r = i; r < last; ++r) positions.targets.logit[r] = ToFloat(x[target[r] - i * n]);
    }
  }

  // Of the rows of [i, last) whose label is ignored.
  void ClearExponentials(int64_t i, int64_t last) {
    for (int64_t r = i; r < last; ++r) {
      if (positions.targets.label[r] != kNoLabel<Acc>) continue;
      for (int64_t j = r * n; j < (r + 1) * n; ++j) exponentials[j] = 0;
    }
  }

  // Those of rows [i, last) of the tile; with kFetch their lines are fetched.
  template <bool kFetch, class To>
  void FormGradients(int64_t i, int64_t last, To* to) {
    const Acc* labels = Labels(i, last);
    if (!positions.all_live) ClearExponentials(i, last);
    const int64_t vectors = n;
    for (int64_t r = i; r < last; r += kVector) {
      const auto form = positions.GradientOf(r);
      const Marks<Acc>* other = others + r * n / kVector;
      const Acc* from = exponentials + r * n;
      const int64_t row = (r - i) * n;
      for (int64_t j = 0; j < vectors; ++j) {
        const int64_t at = j * kVector;
        const V e = other[j].Choose(Load(from + at), Splat(kExpScale<Acc>));
        V label = {};
        V coefficient = {};
        if constexpr (!Row::kHasTarget) label = Load(labels + row + at);
        if constexpr (Row::kDense) coefficient = problem.row.Coefficient(label, Load(weights + at));
        const VectorBits<Acc> rows = LoadAs<VectorBits<Acc>>(row_of + at);
        const auto of_rows = [rows](V values) { return Permuted(values, rows); };
        if constexpr (kFetch) FetchToWrite(to + row + at);
        Store(to + row + at, form(e, coefficient, of_rows));
      }
    }
    if constexpr (Row::kHasTarget) {
      // Only now: a vector would wait for a number stored to the memory that it is loaded from.
      for (int64_t r = i; r < last; r += kVector) {
        To at_target[kVector];
        Store(at_target, Load(positions.results.at_target.at + r));
#pragma GCC unroll 8
        for (int64_t l = 0; l < kVector; ++l) to[target[r + l] - i * n] = at_target[l];
      }
    }
  }

  void StoreGradients(int64_t i, int64_t last) {
    if (last <= lanes && !problem.raw.stream && problem.softcap == 0) {
      // Narrow numbers take longer to form than their lines to come.
      constexpr bool kWide = sizeof(T) == sizeof(Acc);
      return FormGradients<kWide>(i, last, writer.Skip((last - i) * n));
    }
    Acc* gradients = exponentials + i * n;
    FormGradients<false>(i, last, gradients);
    const int64_t known = ((last < lanes ? last : lanes) - i) * n;
    WriteFrom(gradients, problem.softcap, problem.logits + (first + i) * n, known, &writer);
  }

  // Calls visit(i, last) for the blocks of the tile.
  template <class Visitor>
  void ForBlocks(const Visitor& visit) const {
    const int64_t fit = kBlockElements / n / kVector * kVector;
    const int64_t rows = fit < kVector ? kVector : fit;
    const int64_t end = (lanes + kVector - 1) / kVector * kVector;
    for (int64_t i = 0; i < end; i += rows) visit(i, i + rows < end ? i + rows : end);
  }

  void Run(int64_t at, int64_t count) {
    first = at;
    lanes = count;
    positions.LoadTargets(first, lanes);
    for (int64_t r = 0; r < kTileLanes; ++r) {
      const Label<Acc> label = positions.targets.label[r];
      target[r] = static_cast<int32_t>(r) * static_cast<int32_t>(n) +
                  static_cast<int32_t>(label == kNoLabel<Acc> ? 0 : label);
    }
    ForBlocks([this](int64_t i, int64_t last) { Summarise(i, last); });
    positions.FinishLosses();
    if (gradient()) {
      positions.FinishGradients();
      ForBlocks([this](int64_t i, int64_t last) { StoreGradients(i, last); });
    }
    positions.StoreResults(first, lanes);
  }
};

template <class T, class Row>
void RunShortRows(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  const int64_t before = problem.dlogits == nullptr ? 0 : first * problem.raw.classes;
  ShortRows<T, Row> rows(problem, problem.dlogits + before);
  for (int64_t at = first; at < last; at += kTileLanes) {
    rows.Run(at, last - at < kTileLanes ? last - at : kTileLanes);
  }
  rows.writer.Finish();
}

}  // namespace onnxloss::ONNXLOSS_TARGET
