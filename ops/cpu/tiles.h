// SPDX-License-Identifier: MIT
// Many positions side by side: for a class axis that is not the last, and for few classes.
#pragma once

#include "cpu/finish.h"
#include "cpu/short_runs.h"
#include "cpu/transpose.h"

namespace onnxloss::ONNXLOSS_TARGET {

// A tile holds kTileLanes positions in the accumulator's type; no arithmetic crosses lanes, so a
// position's result does not depend on its neighbours. Where the class axis is not the last, a
// class is one row of the tile, as in memory. Rows that lie in one piece are turned on their side,
// one vector of lanes after the other, each through to its sums while it is in the first cache. A
// tile of more than kTileClasses classes is walked in parts, and its logits are read twice.
constexpr int64_t kTileBytes = 131072;
template <class Acc>
constexpr int64_t kTileClasses = kTileBytes / (kTileLanes * static_cast<int64_t>(sizeof(Acc)));
// From class to class. Without the line between them, one vector of lanes of many classes would
// have to share few sets of the first cache.
template <class Acc>
constexpr int64_t kTileStride = kTileLanes + kLine<Acc>;
template <class Acc>
constexpr int64_t kTileElements = kTileClasses<Acc> * kTileStride<Acc>;

// What becomes of the gradient of a task's tiles: each class's goes on from tile to tile, and so
// does that of rows in one piece.
template <class T>
struct TileWriters {
  int64_t first;  // positions of the task
  int64_t last;
  Writer<T> of_rows;
  Writer<T> of_class[kTileClasses<Accumulator<T>>];

  TileWriters(int64_t from, int64_t to, T* rows, bool stream)
      : first(from), last(to), of_rows(rows, stream) {}
};

// How far ahead logits are fetched, in bytes. Each class is a stream of its own, of which hardware
// follows few: what is fetched is for the tiles after the next, or, where a tile has so many
// classes that it would not stay in the caches until then, for later classes of the same tile.
constexpr int64_t kAheadInClass = 1024;
constexpr int64_t kClassesAhead = 16;

template <class T, class Row>
struct Tile {
  using Acc = Accumulator<T>;
  static constexpr int64_t kVector = kWidth<Acc>;
  static constexpr int64_t kClasses = kTileClasses<Acc>;

  const TypedProblem<T, Row>& problem;
  TileWriters<T>& writers;
  int64_t first = 0;  // position of lane 0
  int64_t lanes = 0;  // positions in use; the others compute on zeros

  alignas(64) Acc x[kTileElements<Acc>];
  alignas(64) Acc probabilities[Row::kHasTarget ? 1 : kTileElements<Acc>];
  alignas(64) Acc row_major[kFewClasses * kVector + kPieceWidth<Acc>];

  LanePositions<T, Row> positions;

  Tile(const TypedProblem<T, Row>& typed, TileWriters<T>* output)
      : problem(typed), writers(*output), positions(typed) {}

  int64_t classes() const { return problem.raw.classes; }
  int64_t inner() const { return problem.raw.inner; }
  // Lanes in use, in whole vectors.
  int64_t used() const { return (lanes + kVector - 1) / kVector * kVector; }
  bool gradient() const { return problem.dlogits != nullptr; }
  // Whether exponentials are kept for the gradient, and not formed again.
  bool keeps() const { return gradient() && !in_parts(); }
  bool in_parts() const { return classes() > kClasses; }
  // RunTiles is not asked for rows in one piece of more than kFewClasses.
  bool in_one_piece() const { return inner() == 1; }
  bool has_short_runs() const { return inner() < kFewestNeighbours; }
  // Of a tile's part of n classes: those of the lanes from j on.
  Classes<Acc> ClassesOf(Acc* part, int64_t n, int64_t j) const {
    return in_one_piece() ? Classes<Acc>{part + j * n, kVector}
                          : Classes<Acc>{part + j, kTileStride<Acc>};
  }

  // Calls visit(lane, run, offset): lanes [lane, lane + run) are neighbours in memory, and class c
  // of the first of them lies at offset + c * inner.
  template <class Visitor>
  void ForRuns(Visitor visit) const {
    for (int64_t lane = 0; lane < lanes;) {
      const int64_t outer_index = (first + lane) / inner();
      const int64_t inner_index = (first + lane) % inner();
      const int64_t left = inner() - inner_index;
      const int64_t run = left < lanes - lane ? left : lanes - lane;
      visit(lane, run, outer_index * classes() * inner() + inner_index);
      lane += run;
    }
  }

  // Calls visit(c0, n) for the parts: n classes from c0 on.
  template <class Visitor>
  void ForParts(Visitor visit) const {
    for (int64_t c0 = 0; c0 < classes(); c0 += kClasses) {
      visit(c0, classes() - c0 < kClasses ? classes() - c0 : kClasses);
    }
  }

  static void Copy(const T* source, int64_t n, int64_t ahead, Acc* target) {
    for (int64_t i = 0; i < n; i += kVector) {
      const int64_t count = n - i < kVector ? n - i : kVector;
      FetchAhead(source + i, ahead);
      StoreFirst(target + i, count, LoadFirst(source + i, count, T{}));
    }
  }

  // Those of a vector of lanes.
  int64_t RowsFrom(int64_t j) const { return lanes - j < kVector ? lanes - j : kVector; }
  // Whether after the rows of the lanes from j on there is room for a piece more before row `last`.
  bool HasRoom(int64_t j, int64_t last) const {
    return first + j + kVector + kPieceWidth<T> <= last;
  }

  // The lanes from j on; returns their maxima.
  Vector<Acc> LoadRows(const T* source, int64_t n, int64_t j, Acc* target) {
    if (HasRoom(j, problem.raw.outer)) {
      const T* from = source + (first + j) * n;
      for (int64_t i = 0; i < kVector * n; i += kVector) FetchAhead(from + i, kAheadInRows);
      return RowsToColumns(from, n, target + j * n);
    }
    const int64_t known = RowsFrom(j) * n;
    Copy(source + (first + j) * n, known, kAheadInRows, row_major);
    for (int64_t i = known; i < kVector * n; ++i) row_major[i] = 0;
    return RowsToColumns(row_major, n, target + j * n);
  }

  // How far ahead of a class's logits others are fetched, in bytes.
  int64_t ahead() const {
    const int64_t class_bytes = inner() * static_cast<int64_t>(sizeof(T));
    return in_parts() ? kClassesAhead * class_bytes : kAheadInClass;
  }

  void LoadClasses(const T* source, int64_t c0, int64_t n, Acc* target) const {
    ForRuns([&](int64_t lane, int64_t run, int64_t offset) {
      const Runs<const T> from = {source + offset + c0 * inner(), inner()};
      const Runs<Acc> to = {target + lane, kTileStride<Acc>};
      if (has_short_runs()) return LoadShortRuns<T>(from, run, n, to);
      for (int64_t c = 0; c < n; ++c) Copy(from[c], run, ahead(), to[c]);
    });
    if (lanes == used()) return;
    for (int64_t c = 0; c < n; ++c) {
      for (int64_t j = lanes; j < used(); ++j) target[c * kTileStride<Acc> + j] = 0;
    }
  }

  // All lanes of a part.
  ONNXLOSS_FOR_MANY void LoadPart(int64_t c0, int64_t n) {
    LoadClasses(problem.logits, c0, n, x);
    if (problem.softcap > 0) {
      for (int64_t c = 0; c < n; ++c) CapAll(problem.softcap, x + c * kTileStride<Acc>, used());
    }
    if constexpr (!Row::kHasTarget) LoadClasses(problem.probabilities(), c0, n, probabilities);
  }

  // The lanes from j on; returns their maxima.
  Vector<Acc> LoadLanes(int64_t n, int64_t j) {
    Vector<Acc> max = LoadRows(problem.logits, n, j, x);
    if (problem.softcap > 0) {
      CapAll(problem.softcap, x + j * n, kVector * n);
      max = MaxOfClasses(ClassesOf(x, n, j), n);
    }
    if constexpr (!Row::kHasTarget) LoadRows(problem.probabilities(), n, j, probabilities);
    return max;
  }

  // The rows of the lanes from j on.
  template <class Column>
  void StoreRows(const Column& column, int64_t n, int64_t j) {
    const bool plain = !problem.raw.stream && problem.softcap == 0;
    if (plain && HasRoom(j, writers.last)) {
      T* const to = writers.of_rows.Skip(kVector * n);
      for (int64_t i = 0; i < kVector * n; i += kLine<T>) FetchToWrite(to + i);
      return ColumnsToRows(column, n, to);
    }
    ColumnsToRows(column, n, row_major);
    WriteFrom(row_major, problem.softcap, problem.logits + (first + j) * n, RowsFrom(j) * n,
              &writers.of_rows);
  }

  // A part of n classes from c0 on.
  ONNXLOSS_FOR_MANY void StorePart(int64_t c0, int64_t n) {
    ForRuns([&](int64_t lane, int64_t run, int64_t offset) {
      const int64_t place = offset + c0 * inner();
      const Runs<Acc> from = {x + lane, kTileStride<Acc>};
      if (problem.softcap > 0) {
        ChainShortRuns<T>(problem.softcap, {problem.logits + place, inner()}, run, n, from);
      }
      StoreShortRuns<T>({from.first, from.step}, run, n, {problem.dlogits + place, inner()});
    });
  }

  // All classes, where runs are not short.
  void StoreClasses() {
    ForRuns([&](int64_t lane, int64_t run, int64_t offset) {
      const int64_t position = first + lane;
      const int64_t end = position + run;
      for (int64_t c = 0; c < classes(); ++c) {
        const int64_t place = offset + c * inner();
        Writer<T>& writer = writers.of_class[c];
        if (position == writers.first || position % inner() == 0) {
          writer = {problem.dlogits + place, problem.raw.stream};
        }
        WriteFrom(x + c * kTileStride<Acc> + lane, problem.softcap, problem.logits + place, run,
                  &writer);
        if (end == writers.last || end % inner() == 0) writer.Finish();
      }
    });
  }

  // coefficient(c) of class c0 + c, for the lanes from j on of a part of n classes.
  auto Coefficients(int64_t c0, int64_t n, int64_t j) {
    return [this, c0, labels = ClassesOf(probabilities, n, j)](int64_t c) {
      Vector<Acc> label = {};
      if constexpr (!Row::kHasTarget) label = Load(labels[c]);
      return problem.row.Coefficient(label, Splat(problem.weight(c0 + c)));
    };
  }

  void SummariseLanes(int64_t c0, int64_t n, int64_t j, Vector<Acc> max) {
    const Classes<Acc> at = ClassesOf(x, n, j);
    const bool begins = c0 == 0;
    if (!begins) {
      max = Max(Load(positions.stats.max.at + j), max);
      Rescale<Row::kDense>(max, j, &positions.stats);
    }
    Store(positions.stats.max.at + j, max);
    if constexpr (Row::kHasTarget) {
      LoadAt(positions.targets.label.at + j, c0, at, n, positions.targets.logit.at + j);
    }
    const auto coefficient = Coefficients(c0, n, j);
    for (int64_t c = 0; c < n; c += kPartialTerms) {
      const int64_t count = n - c < kPartialTerms ? n - c : kPartialTerms;
      const Terms<Acc> terms = SumTerms<Row::kDense, T>(
          [&](int64_t i) { return coefficient(c + i); }, at.From(c), count, max, keeps());
      if (begins && c == 0) {
        Begin<Row::kDense>(terms, j, &positions.stats);
      } else {
        Add<Row::kDense>(terms, j, &positions.stats);
      }
    }
  }

  // Left to itself, the compiler makes calls of some of what is done for each vector.
  ONNXLOSS_FOR_MANY __attribute__((flatten)) void Summarise() {
    const int64_t end = used();
    ForParts([&](int64_t c0, int64_t n) {
      if (!in_one_piece()) LoadPart(c0, n);
      for (int64_t j = 0; j < end; j += kVector) {
        SummariseLanes(c0, n, j,
                       in_one_piece() ? LoadLanes(n, j) : MaxOfClasses(ClassesOf(x, n, j), n));
      }
    });
    if (classes() <= kPartialTerms) return;  // one sum, which is rounded
    for (int64_t j = 0; j < end; j += kVector) positions.stats.sum_minus_one.Round(j);
  }

  // Exponentials of rows whose label is ignored.
  void ClearIgnored(int64_t n, int64_t j) {
    const Classes<Acc> at = ClassesOf(x, n, j);
    const auto ignored = positions.IsIgnored(j);
    for (int64_t c = 0; c < n; ++c) Store(at[c], ignored ? Vector<Acc>{} : Load(at[c]));
  }

  // The gradient of a class, of its exponentials and dense coefficients, for the lanes from j on.
  auto GradientOf(int64_t j) const {
    return [label = positions.LabelsOf(j), at_target = Load(positions.results.at_target.at + j),
            gradient = positions.GradientOf(j)](int64_t c, Vector<Acc> e, Vector<Acc> coefficient) {
      const Vector<Acc> value =
          gradient(e, coefficient, [](Vector<Acc> of_lanes) { return of_lanes; });
      if constexpr (!Row::kHasTarget) return value;
      return label == static_cast<Label<Acc>>(c) ? at_target : value;
    };
  }

  // Of a part of n classes from c0 on, whose exponentials are in x.
  ONNXLOSS_FOR_MANY __attribute__((flatten)) void FormGradient(int64_t c0, int64_t n) {
    for (int64_t j = 0; j < used(); j += kVector) {
      if (!positions.all_live) ClearIgnored(n, j);
      const Classes<Acc> at = ClassesOf(x, n, j);
      const auto gradient_of = GradientOf(j);
      const auto coefficient = Coefficients(c0, n, j);
      const auto gradient = [&](int64_t c) {
        return gradient_of(c0 + c, Load(at[c]), coefficient(c));
      };
      if (in_one_piece()) {
        StoreRows(gradient, n, j);
      } else {
        for (int64_t c = 0; c < n; ++c) Store(at[c], gradient(c));
      }
    }
    if (in_one_piece()) return;
    has_short_runs() ? StorePart(c0, n) : StoreClasses();
  }

  // Logits become exponentials.
  ONNXLOSS_FOR_MANY void Exponentiate(int64_t n) {
    for (int64_t c = 0; c < n; ++c) {
      Acc* const of_class = x + c * kTileStride<Acc>;
      for (int64_t j = 0; j < used(); j += kVector) {
        Store(of_class + j, ScaledExp<T>(Load(of_class + j) - Load(positions.stats.max.at + j)));
      }
    }
  }

  // The gradient where the tile was walked in parts, of logits read once more: part by part where
  // runs are short,
  void FormGradientOfParts() {
    ForParts([this](int64_t c0, int64_t n) {
      LoadPart(c0, n);
      Exponentiate(n);
      FormGradient(c0, n);
    });
  }
  // and else one class at a time.
  ONNXLOSS_FOR_MANY __attribute__((flatten)) void FormGradientInParts() {
    ForRuns([&](int64_t lane, int64_t run, int64_t offset) {
      for (int64_t c = 0; c < classes(); ++c) {
        const int64_t place = offset + c * inner();
        const T* logits = problem.logits + place;
        FetchEnds(problem.dlogits + place + kClassesAhead * inner(), run);
        for (int64_t i = 0; i < run; i += kVector) {
          const int64_t count = run - i < kVector ? run - i : kVector;
          const int64_t j = lane + i;
          FetchAhead(logits + i, ahead());
          Vector<Acc> logit = LoadFirst(logits + i, count, T{});
          if (problem.softcap > 0) {
            Store(x + i, logit);
            CapAll(problem.softcap, x + i, kVector);
            logit = Load(x + i);
          }
          const Vector<Acc> e = ScaledExp<T>(logit - Load(positions.stats.max.at + j));
          Vector<Acc> label = {};
          if constexpr (!Row::kHasTarget) {
            label = LoadFirst(problem.probabilities() + place + i, count, T{});
          }
          const Vector<Acc> coefficient = problem.row.Coefficient(label, Splat(problem.weight(c)));
          Store(x + i, GradientOf(j)(c, positions.IsIgnored(j) ? Vector<Acc>{} : e, coefficient));
        }
        Writer<T> writer(problem.dlogits + place, problem.raw.stream);
        WriteFrom(x, problem.softcap, logits, run, &writer);
        writer.Finish();
      }
    });
  }

  void Run(int64_t at, int64_t count) {
    first = at;
    lanes = count;
    positions.LoadTargets(first, lanes);
    Summarise();
    positions.FinishLosses();
    if (gradient()) {
      positions.FinishGradients();
      if (!in_parts()) {
        FormGradient(0, classes());
      } else if (has_short_runs()) {
        FormGradientOfParts();
      } else {
        FormGradientInParts();
      }
    }
    positions.StoreResults(first, lanes);
  }
};

template <class T, class Row>
void RunTiles(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  const bool gradient = problem.dlogits != nullptr;
  T* const rows = problem.dlogits + (gradient ? first * problem.raw.classes : 0);
  TileWriters<T> writers(first, last, rows, problem.raw.stream);
  Tile<T, Row> tile(problem, &writers);
  for (int64_t at = first; at < last; at += kTileLanes) {
    tile.Run(at, last - at < kTileLanes ? last - at : kTileLanes);
  }
  writers.of_rows.Finish();
}

}  // namespace onnxloss::ONNXLOSS_TARGET
