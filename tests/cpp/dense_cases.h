// SPDX-License-Identifier: MIT
// The problems that the test of the dense kernels draws: shapes, options and numbers.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "naive_loss.h"
#include "test_support.h"

namespace onnxloss::tests {

struct View {
  int64_t outer;
  int64_t classes;
  int64_t inner;
};

constexpr View kViews[] = {
    {0, 5, 1},     {3, 5, 0},     {0, 0, 1},                    // nothing
    {1, 1, 1},     {70, 1, 1},    {2, 1, 37},                   // one class
    {1, 2, 1},     {5, 3, 1},     {127, 3, 1},   {128, 7, 1},   // tiles, whole and not
    {65, 16, 1},   {129, 17, 1},  {130, 33, 1},                 // vector widths and one more
    {70, 15, 1},   {70, 16, 1},   {97, 63, 1},   {128, 65, 1},  // kFewClasses, kBlockElements
    {66, 318, 1},  {129, 319, 1}, {9, 320, 1},   {9, 321, 1},   // kSmallestLongRow
    {3, 127, 3},   {3, 128, 2},   {3, 129, 5},                  // kTileClasses of doubles
    {3, 255, 3},   {3, 256, 2},   {3, 257, 5},                  // and of floats
    {3, 207, 1},   {3, 255, 1},   {3, 256, 1},   {3, 257, 1},   // one block, not filled
    {2, 2047, 1},  {2, 2048, 1},  {2, 2049, 1},  {3, 4096, 1},  // blocks of a row
    {2, 4097, 1},  {1, 6143, 1},  {4, 66001, 1},                // and more than kKeptBytes
    {3, 5, 2},     {2, 4, 63},    {2, 21, 129},  {5, 3, 7},     // the axis inside
    {1, 257, 3},   {2, 300, 5},   {1, 513, 130},                // parts of a tile
    {80, 20, 3},   {9, 300, 15},  {9, 300, 16},                 // kFewestNeighbours
    {1025, 33, 1}, {2, 11, 1600}, {2100, 16, 1},                // several tasks
    {70, 700, 1},  {5, 9000, 1},                                // of long rows
    {1, 1100, 34}, {1, 600, 65},                                // of tiles that are not filled
};
constexpr ElementType kTypes[] = {ElementType::kFloat16, ElementType::kBFloat16,
                                  ElementType::kFloat32, ElementType::kFloat64};
constexpr LabelKind kKinds[] = {LabelKind::kIndex32, LabelKind::kIndex64,
                                LabelKind::kProbabilities};
constexpr Place kPlaces[] = {Place::kAfterGuard, Place::kBeforeGuard, Place::kOffLine};
// What a draw decides beside the numbers.
struct Draw {
  ElementType type;
  LabelKind kind;
  bool class_weights;
  bool sample_weights;
  bool dloss_per_position;
  bool loss_per_position;
  bool lse;
  bool dlogits;
  bool dlabels;
  bool stream;
  int threads;
  Place place;
};

inline std::vector<double> Many(int64_t count, Random* random, int64_t low, int64_t high) {
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = random->Sixteenths(low, high);
  return values;
}

inline void DrawLabels(const Draw& draw, Random* random, NaiveProblem* naive) {
  if (draw.kind == LabelKind::kProbabilities) {
    naive->probabilities = Many(static_cast<int64_t>(naive->logits.size()), random, 0, 16);
    return;
  }
  const int64_t ignored[] = {kNoIgnoredLabel, -100, 0, naive->classes, 255};
  naive->ignore_index = random->One(ignored);
  for (int64_t i = 0; i < naive->positions(); ++i) {
    const bool ignores = naive->ignore_index != kNoIgnoredLabel && random->OneIn(3);
    naive->indices.push_back(ignores ? naive->ignore_index : random->Below(naive->classes));
  }
  const int64_t wild[] = {naive->classes, -1, INT32_MIN, INT32_MAX, 1 << 20};
  constexpr int64_t kWilder[] = {INT64_MIN, INT64_MAX, int64_t{1} << 32, -(int64_t{1} << 40)};
  if (naive->indices.empty() || !random->OneIn(6)) return;
  const size_t place = static_cast<size_t>(random->Below(naive->positions()));
  naive->indices[place] = draw.kind == LabelKind::kIndex64 && random->OneIn(2)
                              ? random->One(kWilder)
                              : random->One(wild);
}

inline void DrawWildLogits(Random* random, NaiveProblem* naive) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kWild[] = {-kInfinity, kInfinity, std::numeric_limits<double>::quiet_NaN(), 4096,
                              -4096};
  const int64_t count = static_cast<int64_t>(naive->logits.size());
  for (int64_t i = 0; i < count && random->OneIn(2); i += 1 + count / 8) {
    naive->logits[static_cast<size_t>(i + random->Below(count - i))] = random->One(kWild);
  }
  if (!random->OneIn(3) || count == 0) return;
  const int64_t masked = random->Below(naive->positions());
  for (int64_t c = 0; c < naive->classes; ++c) naive->logits[naive->at(masked, c)] = -kInfinity;
}

// Classes that do not count, though their loss would be infinite.
inline void MaskClasses(const Draw& draw, Random* random, NaiveProblem* naive) {
  const double never = naive->from_logits ? -std::numeric_limits<double>::infinity() : 0;
  for (int64_t c = 1; c < naive->classes; ++c) {
    if (!random->OneIn(8)) continue;
    if (draw.class_weights) naive->class_weights[static_cast<size_t>(c)] = 0;
    for (int64_t i = 0; i < naive->positions(); ++i) {
      naive->logits[naive->at(i, c)] = never;
      if (!naive->probabilities.empty()) naive->probabilities[naive->at(i, c)] = 0;
    }
  }
}

// Some have no exponential left then, and some a subnormal one.
inline void SpreadLogits(NaiveProblem* naive) {
  for (double& logit : naive->logits) logit *= 16;
}

// A long row's first sums are relative to what later ones are not near to.
inline void RaiseLateLogits(NaiveProblem* naive) {
  for (int64_t c = 0; c < naive->classes / 2; ++c) {
    for (int64_t i = 0; i < naive->positions(); ++i) {
      naive->logits[naive->at(i, c)] = static_cast<double>(-64 - c % 4 * 8);
    }
  }
}

// Bounds that numbers of few bits meet exactly.
inline void DrawNormalization(Random* random, NaiveProblem* naive) {
  constexpr double kEpsilons[] = {0, 0.0009765625, 0.125};
  naive->normalize = random->OneIn(2) ? Normalize::kBeforeClip : Normalize::kAfterClip;
  naive->epsilon = random->One(kEpsilons);
  naive->softcap = 0;
}

inline NaiveProblem MakeNaive(const Draw& draw, const View& view, Random* random) {
  NaiveProblem naive;
  naive.outer = view.outer;
  naive.classes = view.classes;
  naive.inner = view.inner;
  const int64_t count = view.outer * view.classes * view.inner;
  naive.from_logits = !random->OneIn(4);
  naive.logits = naive.from_logits ? Many(count, random, -128, 128) : Many(count, random, 1, 16);
  if (naive.from_logits && random->OneIn(4)) SpreadLogits(&naive);
  if (naive.from_logits && random->OneIn(4)) DrawWildLogits(random, &naive);
  constexpr double kSmoothings[] = {0, 0, 0.125, 1};
  naive.label_smoothing = random->One(kSmoothings);
  naive.z_loss = random->OneIn(4) ? 0.0078125 : 0;
  naive.softcap = random->OneIn(4) ? 5 : 0;
  if (!naive.from_logits && random->OneIn(2)) DrawNormalization(random, &naive);
  DrawLabels(draw, random, &naive);
  const bool hard = draw.kind != LabelKind::kProbabilities;
  constexpr MeanOver kHardMeans[] = {MeanOver::kWeights, MeanOver::kPositions, MeanOver::kValid,
                                     MeanOver::kNonzero};
  constexpr MeanOver kSoftMeans[] = {MeanOver::kWeights, MeanOver::kPositions, MeanOver::kNonzero};
  naive.mean_over = hard ? random->One(kHardMeans) : random->One(kSoftMeans);
  naive.class_weights_positions = random->OneIn(4);
  naive.class_weights = draw.class_weights
                            ? Many(view.classes, random, 0, 32)
                            : std::vector<double>(static_cast<size_t>(view.classes), 1);
  naive.sample_weights = Many(naive.positions(), random, 0, 32);
  if (!draw.sample_weights) std::fill(naive.sample_weights.begin(), naive.sample_weights.end(), 1);
  naive.dloss = Many(naive.positions(), random, 4, 32);
  if (!draw.dloss_per_position) std::fill(naive.dloss.begin(), naive.dloss.end(), 1.5);
  if (naive.from_logits && view.classes >= 2048 && random->OneIn(2)) RaiseLateLogits(&naive);
  if (random->OneIn(3)) MaskClasses(draw, random, &naive);
  return naive;
}

inline Draw MakeDraw(ElementType type, LabelKind kind, Random* random) {
  return {type,
          kind,
          random->OneIn(2),
          random->OneIn(3),
          random->OneIn(2),
          random->OneIn(2),
          random->OneIn(2),
          !random->OneIn(3),
          random->OneIn(2),
          random->OneIn(2),
          random->OneIn(2) ? 1 : 3,
          random->One(kPlaces)};
}

}  // namespace onnxloss::tests
