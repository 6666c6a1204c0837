// SPDX-License-Identifier: MIT
// Many positions side by side: for a class axis that is not the last, and for few classes.
#pragma once

#include "cpu/blocks.h"
#include "cpu/lanes.h"
#include "cpu/problem.h"
#include "cpu/writer.h"

namespace onnxloss::ONNXLOSS_TARGET {

// A tile holds [classes, kTileLanes] in the accumulator's type; every loop over lanes is a vector
// loop, and no arithmetic crosses lanes, so a position's result does not depend on its neighbours.
// A tile of more than kTileClasses classes is walked in parts, and its logits are read twice.
constexpr int64_t kTileElements = 16384;
constexpr int64_t kTileClasses = kTileElements / kTileLanes;

template <class T, class Row>
struct Tile {
  using Acc = Accumulator<T>;

  const TypedProblem<T, Row>& problem;
  Writer<T>* writer;  // of rows that lie in one piece
  int64_t first;      // position of lane 0
  int64_t lanes;      // positions in use; the others compute on zeros

  alignas(64) Acc x[kTileElements];
  alignas(64) Acc probabilities[Row::kHasTarget ? 1 : kTileElements];
  alignas(64) Acc row_major[kSmallestLongRow * kTileLanes];

  LaneStats<Acc> stats;
  LaneTargets<Acc> targets;
  LaneResults<Acc> results;

  Tile(const TypedProblem<T, Row>& typed, Writer<T>* output, int64_t at, int64_t count)
      : problem(typed), writer(output), first(at), lanes(count) {}

  int64_t classes() const { return problem.raw.classes; }
  int64_t inner() const { return problem.raw.inner; }
  int64_t part(int64_t c0) const {
    return classes() - c0 < kTileClasses ? classes() - c0 : kTileClasses;
  }
  Acc* row(int64_t c) { return x + c * kTileLanes; }
  const Acc* labels(int64_t c) const {
    return Row::kHasTarget ? probabilities : probabilities + c * kTileLanes;
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

  // Rows that lie in one piece are turned on their side in the first cache; RunTiles is not asked
  // for such rows of kSmallestLongRow classes or more.
  void LoadClasses(const T* source, int64_t c0, int64_t n, Acc* target) {
    if (inner() == 1) {
      const T* rows = source + first * n;
      if constexpr (sizeof(T) == sizeof(Acc)) {
        Transpose(rows, lanes, n, n, target, kTileLanes);
      } else {
        Widen(rows, lanes * n, row_major);
        Transpose(row_major, lanes, n, n, target, kTileLanes);
      }
    } else {
      ForRuns([&](int64_t lane, int64_t run, int64_t offset) {
        for (int64_t c = 0; c < n; ++c) {
          Widen(source + offset + (c0 + c) * inner(), run, target + c * kTileLanes + lane);
        }
      });
    }
    if (lanes == kTileLanes) return;
    for (int64_t c = 0; c < n; ++c) {
      for (int64_t j = lanes; j < kTileLanes; ++j) target[c * kTileLanes + j] = 0;
    }
  }

  void LoadPart(int64_t c0, int64_t n) {
    LoadClasses(problem.logits, c0, n, x);
    if (problem.softcap > 0) {
      for (int64_t c = 0; c < n; ++c) CapLanes(problem.softcap, row(c));
    }
    if constexpr (!Row::kHasTarget) LoadClasses(problem.probabilities(), c0, n, probabilities);
  }

  void StoreGradient(int64_t c0, int64_t n) {
    if (inner() == 1) {
      Transpose(x, n, lanes, kTileLanes, row_major, n);
      writer->Write(lanes * n, [&](int64_t i, int64_t count) {
        return LoadFirst(row_major + i, count, Acc{0});
      });
      return;
    }
    ForRuns([&](int64_t lane, int64_t run, int64_t offset) {
      for (int64_t c = 0; c < n; ++c) {
        Writer<T> run_writer(problem.dlogits + offset + (c0 + c) * inner(), problem.raw.stream);
        const Acc* source = row(c) + lane;
        run_writer.Write(
            run, [=](int64_t i, int64_t count) { return LoadFirst(source + i, count, Acc{0}); });
        run_writer.Finish();
      }
    });
  }

  void LoadTargets() {
    const bool gradient = problem.dlogits != nullptr;
    Fill(&targets.label, int64_t{-1});
    Fill(&targets.logit, Acc{0});
    Fill(&targets.weight, Acc{0});
    Fill(&targets.live, Acc{1});
    Fill(&targets.k, gradient ? problem.upstream(first) : Acc{0});
    if (gradient && problem.upstream_per_position()) {
      for (int64_t j = 0; j < lanes; ++j) targets.k[j] = problem.upstream(first + j);
    }
    if constexpr (Row::kHasTarget) {
      for (int64_t j = 0; j < lanes; ++j) {
        const int64_t y = problem.index(first + j);
        const bool ignored = y == problem.raw.ignore_index;
        targets.label[j] = ignored ? -1 : y;
        targets.live[j] = ignored ? Acc{0} : Acc{1};
        targets.weight[j] = ignored ? Acc{0} : problem.weight(y);
      }
    }
  }

  void AddClasses(int64_t c0, int64_t n) {
    for (int64_t c1 = 0; c1 < n; c1 += kPartialTerms) {
      const int64_t c2 = c1 + kPartialTerms < n ? c1 + kPartialTerms : n;
      PartialSums<Acc> sums;
      Clear<Row::kDense>(&sums);
      for (int64_t c = c1; c < c2; ++c) {
        AddRow(problem.row, labels(c), problem.weight(c0 + c), stats, row(c), &sums);
      }
      AddPartialSums<Row::kDense>(sums, &stats);
    }
  }

  void Summarise() {
    Fill(&stats.max, -Infinity<Acc>());
    Fill(&stats.count_max, 0.0);
    Fill(&stats.rest, 0.0);
    Fill(&stats.gap, 0.0);
    Fill(&stats.total, 0.0);
    for (int64_t c0 = 0; c0 < classes(); c0 += kTileClasses) {
      const int64_t n = part(c0);
      LoadPart(c0, n);
      Lanes<Acc> raised = stats.max;
      for (int64_t c = 0; c < n; ++c) MaxLanes(row(c), raised.at);
      RescaleLanes<Row::kDense>(raised, &stats);
      ForTargets(c0, n, [&](int64_t lane, Acc* at) { targets.logit[lane] = *at; });
      AddClasses(c0, n);
    }
  }

  // Calls visit(lane, element) for every label among the classes [c0, c0 + n) now in x.
  template <class Visitor>
  void ForTargets(int64_t c0, int64_t n, Visitor visit) {
    if constexpr (Row::kHasTarget) {
      for (int64_t j = 0; j < lanes; ++j) {
        const int64_t label = targets.label[j];
        if (label >= c0 && label < c0 + n) visit(j, row(label - c0) + j);
      }
    }
  }

  void FormGradient() {
    const bool in_parts = classes() > kTileClasses;
    for (int64_t c0 = 0; c0 < classes(); c0 += kTileClasses) {
      const int64_t n = part(c0);
      if (in_parts) LoadPart(c0, n);
      for (int64_t c = 0; c < n; ++c) {
        if (in_parts) ExpLanes(stats.max.at, row(c));
        GradientRow(problem.row, labels(c), problem.weight(c0 + c), results, targets.live.at,
                    row(c));
      }
      ForTargets(c0, n, [&](int64_t lane, Acc* at) { *at = results.at_target[lane]; });
      if (problem.softcap > 0) ChainThroughCap(c0, n);
      StoreGradient(c0, n);
    }
  }

  // The logits once more: x has become the gradient by the capped ones.
  void ChainThroughCap(int64_t c0, int64_t n) {
    Lanes<Acc> logits = {};
    for (int64_t c = 0; c < n; ++c) {
      ForRuns([&](int64_t lane, int64_t run, int64_t offset) {
        Widen(problem.logits + offset + (c0 + c) * inner(), run, logits.at + lane);
      });
      ChainLanesThroughCap(problem.softcap, logits.at, targets.live.at, row(c));
    }
  }

  void Run() {
    const bool gradient = problem.dlogits != nullptr;
    LoadTargets();
    Summarise();
    FinishLanes(problem.row, stats, targets, problem.dense_total(), problem.z_loss, gradient,
                &results);
    if (gradient) FormGradient();
    double sum = 0;
    for (int64_t j = 0; j < lanes; ++j) {
      sum += static_cast<double>(problem.Store(first + j, results.loss[j], results.lse[j]));
    }
    problem.AddToPartial(first, sum);
  }
};

template <class T, class Row>
void RunTiles(const TypedProblem<T, Row>& problem, int64_t first, int64_t last) {
  const bool gradient = problem.dlogits != nullptr;
  Writer<T> writer(problem.dlogits + (gradient ? first * problem.raw.classes : 0),
                   problem.raw.stream);
  for (int64_t at = first; at < last; at += kTileLanes) {
    const int64_t lanes = last - at < kTileLanes ? last - at : kTileLanes;
    Tile<T, Row> tile(problem, &writer, at, lanes);
    tile.Run();
  }
  writer.Finish();
}

}  // namespace onnxloss::ONNXLOSS_TARGET
