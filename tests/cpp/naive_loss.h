// SPDX-License-Identifier: MIT
// The dense losses as their formulas have them: a loop over positions, a loop over classes.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/kernels.h"

namespace onnxloss::tests {

struct NaiveProblem {
  int64_t outer = 1;
  int64_t classes = 1;
  int64_t inner = 1;
  std::vector<double> logits;          // [outer, classes, inner]
  std::vector<int64_t> indices;        // [positions], or empty
  std::vector<double> probabilities;   // as logits, or empty
  std::vector<double> class_weights;   // [classes]
  std::vector<double> sample_weights;  // [positions]
  std::vector<double> dloss;           // [positions]
  double label_smoothing = 0;
  int64_t ignore_index = kNoIgnoredLabel;
  bool from_logits = true;
  Normalize normalize = Normalize::kNone;
  double epsilon = 0;
  double z_loss = 0;
  double softcap = 0;
  bool class_weights_positions = false;
  MeanOver mean_over = MeanOver::kPositions;

  int64_t positions() const { return outer * inner; }
  size_t at(int64_t position, int64_t c) const {
    return static_cast<size_t>((position / inner * classes + c) * inner + position % inner);
  }
  bool ignores(int64_t position) const {
    if (indices.empty()) return false;
    const int64_t label = indices[static_cast<size_t>(position)];
    return label == ignore_index && label != kNoIgnoredLabel;
  }
};

struct NaiveResult {
  std::vector<double> loss;
  std::vector<double> lse;
  std::vector<double> dlogits;  // before the division by the denominator
  std::vector<double> terms;    // what dlogits is the difference of: the greatest number in it
  std::vector<double> dlabels;  // as dlogits; of probabilities whose weights are of classes
  double denominator = 0;       // of a mean
  int64_t first_bad = -1;       // label; nothing else is formed then
};

// The loops' own numbers: double is among the types that they judge.
using Wide = long double;

// A factor of 0 takes away an infinite number, but not a nan.
inline Wide Times(Wide factor, Wide value) {
  return factor == 0 && !std::isnan(value) ? 0 : factor * value;
}

inline Wide Share(const NaiveProblem& problem, int64_t position, int64_t c) {
  const Wide e = problem.label_smoothing;
  const Wide target = problem.indices.empty()
                          ? problem.probabilities[problem.at(position, c)]
                          : static_cast<Wide>(problem.indices[static_cast<size_t>(position)] == c);
  return (1 - e) * target + e / static_cast<Wide>(problem.classes);
}

// What is made of a position's probabilities.
struct NaiveNormalization {
  Wide divisor = 1;
  std::vector<Wide> quotients;
  std::vector<Wide> clipped;

  bool Clips(size_t c) const { return quotients[c] != clipped[c] && !std::isnan(quotients[c]); }
};

inline NaiveNormalization NormalizedOf(const NaiveProblem& problem, const std::vector<Wide>& x) {
  NaiveNormalization made;
  if (problem.normalize == Normalize::kBeforeClip) {
    made.divisor = 0;
    for (const Wide value : x) made.divisor += value;
  }
  for (const Wide value : x) {
    const Wide q = value / made.divisor;
    const Wide low = problem.epsilon;
    const bool clips = problem.normalize != Normalize::kNone;
    made.quotients.push_back(q);
    made.clipped.push_back(!clips ? q : q < low ? low : q > 1 - low ? 1 - low : q);
  }
  return made;
}

// Slopes by what the loss takes become those by the probabilities; `terms` are what each is the
// difference of.
inline void ChainNormalization(const NaiveProblem& problem, const NaiveNormalization& made,
                               std::vector<Wide>* slopes, std::vector<Wide>* terms) {
  Wide share = 0;
  Wide share_terms = 0;
  const bool before = problem.normalize == Normalize::kBeforeClip;
  for (size_t c = 0; c < slopes->size(); ++c) {
    Wide& slope = (*slopes)[c];
    if (problem.normalize == Normalize::kAfterClip && slope != 0) slope /= made.clipped[c];
    (*terms)[c] /= std::fabs(made.clipped[c]);
    if (made.Clips(c)) slope = 0;
    share += slope * made.quotients[c];
    share_terms += std::fabs(slope * made.quotients[c]);
  }
  for (size_t c = 0; c < slopes->size() && before; ++c) {
    (*slopes)[c] = ((*slopes)[c] - share) / made.divisor;
    (*terms)[c] = ((*terms)[c] + share_terms) / std::fabs(made.divisor);
  }
}

inline void SolvePosition(const NaiveProblem& problem, int64_t position, NaiveResult* result) {
  const size_t i = static_cast<size_t>(position);
  constexpr Wide kNan = std::numeric_limits<Wide>::quiet_NaN();
  const bool normalizes = problem.normalize != Normalize::kNone;
  const bool joins = problem.from_logits || problem.normalize == Normalize::kAfterClip;
  std::vector<Wide> x;
  for (int64_t c = 0; c < problem.classes; ++c) {
    const Wide logit = problem.logits[problem.at(position, c)];
    x.push_back(problem.softcap > 0 ? problem.softcap * std::tanh(logit / problem.softcap) : logit);
  }
  const NaiveNormalization made = NormalizedOf(problem, x);
  Wide max = -std::numeric_limits<Wide>::infinity();
  bool undefined = false;
  for (size_t c = 0; c < x.size(); ++c) {
    x[c] = problem.normalize == Normalize::kAfterClip ? std::log(made.clipped[c]) : made.clipped[c];
    undefined = undefined || std::isnan(x[c]) || x[c] > std::numeric_limits<Wide>::max();
    max = std::max(max, x[c]);
  }
  undefined = joins && (undefined || std::isinf(max));
  Wide sum = 0;
  for (const Wide value : x) sum += std::exp(value - max);
  const Wide lse = !joins ? 0 : undefined ? kNan : max + std::log(sum);

  Wide loss = problem.z_loss * lse * lse;
  Wide total = 0;
  Wide of_classes = 0;
  std::vector<Wide> a;
  for (int64_t c = 0; c < problem.classes; ++c) {
    const Wide share = Share(problem, position, c);
    const Wide weight = problem.class_weights[static_cast<size_t>(c)];
    a.push_back(problem.class_weights_positions ? share : share * weight);
    of_classes += share * weight;
    total += a.back();
    const Wide x_c = x[static_cast<size_t>(c)];
    loss += a.back() == 0 ? 0
            : joins       ? a.back() * ((max - x_c) + std::log(sum))
                          : a.back() * -std::log(x_c);
  }
  if (undefined) loss = kNan;

  std::vector<Wide> slopes;
  std::vector<Wide> terms;
  for (size_t c = 0; c < x.size(); ++c) {
    const Wide pull = std::exp(x[c] - max) / sum * (total + 2 * problem.z_loss * lse);
    const Wide apart = a[c] == 0 ? 0 : -a[c] / x[c];
    slopes.push_back(!joins ? apart : undefined ? kNan : pull - a[c]);
    terms.push_back(std::max(std::fabs(pull), a[c]));
  }
  if (normalizes) ChainNormalization(problem, made, &slopes, &terms);

  const Wide sample = problem.sample_weights[i];
  const Wide weight = sample * (problem.class_weights_positions ? of_classes : 1);
  const bool ignored = problem.ignores(position);
  result->lse[i] = static_cast<double>(lse);
  result->loss[i] = ignored ? 0 : static_cast<double>(Times(weight, loss));
  for (int64_t c = 0; c < problem.classes; ++c) {
    const size_t at = static_cast<size_t>(c);
    const Wide x_c = x[at];
    const Wide logit = problem.logits[problem.at(position, c)];
    const Wide root = problem.softcap > 0 ? std::cosh(logit / problem.softcap) : 1;
    const Wide outer = problem.dloss[i] / (root * root);
    result->dlogits[problem.at(position, c)] =
        ignored ? 0 : static_cast<double>(outer * Times(weight, slopes[at]));
    result->terms[problem.at(position, c)] =
        static_cast<double>(std::fabs(outer * weight) * terms[at]);
    const Wide keep = problem.dloss[i] * sample * (1 - problem.label_smoothing);
    const Wide neg_log_p = undefined ? kNan : joins ? (max - x_c) + std::log(sum) : -std::log(x_c);
    result->dlabels[problem.at(position, c)] =
        static_cast<double>(keep * (problem.class_weights[at] * neg_log_p));
  }
  const Wide by_label = problem.indices.empty() || ignored || problem.class_weights_positions
                            ? (problem.class_weights_positions ? of_classes : 1)
                            : problem.class_weights[static_cast<size_t>(problem.indices[i])];
  switch (problem.mean_over) {
    case MeanOver::kWeights:
      result->denominator += ignored ? 0 : static_cast<double>(sample * by_label);
      break;
    case MeanOver::kPositions:
      result->denominator += 1;
      break;
    case MeanOver::kValid:
      result->denominator += ignored ? 0 : 1;
      break;
    case MeanOver::kNonzero:
      result->denominator += ignored || sample == 0 ? 0 : 1;
      break;
  }
}

inline NaiveResult Solve(const NaiveProblem& problem) {
  NaiveResult result;
  for (int64_t i = 0; i < static_cast<int64_t>(problem.indices.size()); ++i) {
    const int64_t label = problem.indices[static_cast<size_t>(i)];
    if ((label < 0 || label >= problem.classes) && !problem.ignores(i)) {
      result.first_bad = i;
      return result;
    }
  }
  result.loss.resize(static_cast<size_t>(problem.positions()));
  result.lse.resize(result.loss.size());
  result.dlogits.resize(problem.logits.size());
  result.terms.resize(problem.logits.size());
  result.dlabels.resize(problem.logits.size());
  for (int64_t i = 0; i < problem.positions(); ++i) SolvePosition(problem, i, &result);
  return result;
}

}  // namespace onnxloss::tests
