// SPDX-License-Identifier: MIT
// The sampled softmax's kernel of one instruction set against a loop over rows and columns.
#include "cpu/sampled.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "test_support.h"

namespace onnxloss::tests {
namespace {

struct View {
  int64_t rows;
  int64_t classes;
  int64_t num_true;
  int64_t num_samples;
};

constexpr View kViews[] = {{0, 4, 1, 2},   {1, 1, 1, 1},      {3, 9, 2, 3},
                           {5, 9, 9, 9},   {2, 40, 1, 31},    {2, 1000, 3, 17},
                           {65, 50, 2, 5}, {3, 5000, 1, 700}, {300, 7, 4, 80}};
constexpr ElementType kTypes[] = {ElementType::kFloat16, ElementType::kBFloat16,
                                  ElementType::kFloat32, ElementType::kFloat64};
constexpr Place kPlaces[] = {Place::kAfterGuard, Place::kBeforeGuard, Place::kOffLine};
constexpr int kDraws = 12;
constexpr double kUnits = 512;
constexpr double kNarrowUnits = 1;

// Inputs as numbers, [rows, ...]; samples that all rows share are repeated for each.
struct Naive {
  View view;
  bool remove_accidental_hits;
  double z_loss;
  double softcap;
  std::vector<double> logits;
  std::vector<int64_t> labels;
  std::vector<int64_t> samples;
  std::vector<double> probabilities;
  std::vector<double> dloss;

  int64_t columns() const { return view.num_true + view.num_samples; }
  int64_t value(int64_t row, int64_t column) const {
    return column < view.num_true
               ? labels[static_cast<size_t>(row * view.num_true + column)]
               : samples[static_cast<size_t>(row * view.num_samples + column - view.num_true)];
  }
  bool is_hit(int64_t row, int64_t column) const {
    if (column < view.num_true) return false;
    for (int64_t t = 0; t < view.num_true; ++t) {
      if (value(row, t) == value(row, column)) return true;
    }
    return false;
  }
};

struct Truth {
  std::vector<double> loss;
  std::vector<double> lse;
  std::vector<double> dlogits;
};

void SolveRow(const Naive& naive, int64_t row, Truth* truth) {
  std::vector<double> x;
  std::vector<double> slopes;
  double max = -std::numeric_limits<double>::infinity();
  for (int64_t c = 0; c < naive.columns(); ++c) {
    const bool left_out = naive.remove_accidental_hits && naive.is_hit(row, c);
    const double logit =
        naive.logits[static_cast<size_t>(row * naive.view.classes + naive.value(row, c))];
    const double capped = naive.softcap * std::tanh(logit / naive.softcap);
    const double root = naive.softcap > 0 ? std::cosh(logit / naive.softcap) : 1;
    slopes.push_back(1 / (root * root));
    const double q = naive.probabilities[static_cast<size_t>(row * naive.columns() + c)];
    x.push_back(left_out ? -std::numeric_limits<double>::infinity()
                         : (naive.softcap > 0 ? capped : logit) - std::log(q));
    max = std::max(max, x.back());
  }
  double sum = 0;
  for (const double value : x) sum += std::exp(value - max);
  const double share = 1 / static_cast<double>(naive.view.num_true);
  const size_t i = static_cast<size_t>(row);
  const double lse = max + std::log(sum);
  truth->lse[i] = lse;
  truth->loss[i] = naive.z_loss * lse * lse;
  for (int64_t c = 0; c < naive.columns(); ++c) {
    const double x_c = x[static_cast<size_t>(c)];
    const double target = c < naive.view.num_true ? share : 0;
    truth->loss[i] += target == 0 ? 0 : target * ((max - x_c) + std::log(sum));
    truth->dlogits[static_cast<size_t>(row * naive.view.classes + naive.value(row, c))] +=
        naive.dloss[i] * slopes[static_cast<size_t>(c)] *
        (std::exp(x_c - max) / sum * (1 + 2 * naive.z_loss * lse) - target);
  }
}

struct Draw {
  ElementType type;
  LabelKind kind;
  bool row_samples;
  bool given_probabilities;
  bool dloss_per_row;
  bool dlogits;
  int threads;
  Place place;
};

Naive MakeNaive(const Draw& draw, const View& view, Random* random) {
  Naive naive = {view, random->OneIn(2), 0, 0, {}, {}, {}, {}, {}};
  naive.z_loss = random->OneIn(3) ? 0.0078125 : 0;
  naive.softcap = random->OneIn(3) ? 5 : 0;
  for (int64_t i = 0; i < view.rows * view.classes; ++i) {
    naive.logits.push_back(random->Sixteenths(-64, 64));
  }
  for (int64_t i = 0; i < view.rows * view.num_true; ++i) {
    naive.labels.push_back(random->Below(view.classes));
  }
  // Without given probabilities each class has its own.
  const auto of_class = [](int64_t c) { return static_cast<double>(1 + c % 16) / 16; };
  for (int64_t row = 0; row < view.rows; ++row) {
    for (int64_t j = 0; j < view.num_samples; ++j) {
      const bool first = draw.row_samples || row == 0;
      naive.samples.push_back(first ? random->Below(view.classes)
                                    : naive.samples[static_cast<size_t>(j)]);
    }
    for (int64_t c = 0; c < naive.columns(); ++c) {
      naive.probabilities.push_back(draw.given_probabilities ? random->Sixteenths(1, 16)
                                                             : of_class(naive.value(row, c)));
    }
    naive.dloss.push_back(draw.dloss_per_row ? random->Sixteenths(4, 32) : 1.5);
  }
  return naive;
}

double LabelLogQ(const void*, int64_t label) {
  return std::log(static_cast<double>(1 + label % 16) / 16);
}

void RunCase(uint64_t seed, const Draw& draw, const View& view, Random* random) {
  const std::string what = "seed " + std::to_string(seed) + ", " + Kernels().instruction_set;
  const Naive naive = MakeNaive(draw, view, random);
  Truth truth = {std::vector<double>(static_cast<size_t>(view.rows)),
                 std::vector<double>(static_cast<size_t>(view.rows)),
                 std::vector<double>(naive.logits.size())};
  for (int64_t row = 0; row < view.rows; ++row) SolveRow(naive, row, &truth);

  const ElementType sums = SumsOf(draw.type);
  const Numbers logits(draw.type, naive.logits, draw.place);
  const Numbers probabilities(sums, naive.probabilities, draw.place);
  const Numbers dloss(sums, draw.dloss_per_row ? naive.dloss : std::vector<double>{1.5},
                      draw.place);
  const Numbers loss(sums, static_cast<size_t>(view.rows), draw.place);
  const Numbers lse(sums, static_cast<size_t>(view.rows), draw.place);
  const Numbers dlogits(draw.type, naive.logits.size(), draw.place);
  const size_t width = draw.kind == LabelKind::kIndex64 ? 8 : 4;
  const GuardedBuffer labels(naive.labels.size() * width, width, draw.place);
  for (size_t i = 0; i < naive.labels.size(); ++i) {
    const int64_t place = static_cast<int64_t>(i);
    if (width == 8) Write(naive.labels[i], labels.data(), place);
    if (width == 4) Write(static_cast<int32_t>(naive.labels[i]), labels.data(), place);
  }
  const GuardedBuffer row_samples(naive.samples.size() * 8, 8, draw.place);
  for (size_t i = 0; i < naive.samples.size(); ++i) {
    Write(naive.samples[i], row_samples.data(), static_cast<int64_t>(i));
  }
  std::vector<SampledClass> sorted;
  std::vector<double> log_q;
  for (int64_t j = 0; j < view.num_samples; ++j) {
    sorted.push_back({view.rows > 0 ? naive.samples[static_cast<size_t>(j)] : 0, j});
  }
  SortClasses(sorted.data(), view.num_samples);
  for (const SampledClass& entry : sorted) log_q.push_back(LabelLogQ(nullptr, entry.value));

  SampledProblem problem = {};
  problem.type = draw.type;
  problem.label_kind = draw.kind;
  problem.rows = view.rows;
  problem.classes = view.classes;
  problem.num_true = view.num_true;
  problem.num_samples = view.num_samples;
  problem.remove_accidental_hits = naive.remove_accidental_hits;
  problem.z_loss = naive.z_loss;
  problem.softcap = naive.softcap;
  problem.logits = logits.data();
  problem.labels = labels.data();
  problem.sorted = draw.row_samples ? nullptr : sorted.data();
  problem.row_samples =
      draw.row_samples ? static_cast<const int64_t*>(row_samples.data()) : nullptr;
  problem.probabilities = draw.given_probabilities ? probabilities.data() : nullptr;
  problem.sampled_log_q = draw.given_probabilities ? nullptr : log_q.data();
  problem.label_log_q = LabelLogQ;
  problem.dloss = dloss.data();
  problem.dloss_per_row = draw.dloss_per_row;
  problem.denominator = 2;
  problem.loss = loss.data();
  problem.lse = lse.data();
  problem.dlogits = draw.dlogits ? dlogits.data() : nullptr;
  const size_t bytes = static_cast<size_t>(SampledScratchBytes(problem));
  ForTasks(view.rows, SampledRowsPerTask(problem), draw.threads, [&](int64_t first, int64_t last) {
    // As far from its end as the numbers in it need.
    const GuardedBuffer scratch(bytes, 8, Place::kBeforeGuard);
    SampledKernel()(problem, first, last, scratch.data());
    if (!scratch.NeighboursIntact()) Fail(what, "memory around the scratch was written");
  });

  ExpectNumbers(what, "loss", loss, truth.loss, truth.loss, 1, kUnits);
  ExpectNumbers(what, "lse", lse, truth.lse, truth.lse, 1, kUnits);
  if (!draw.dlogits) return;
  ExpectNumbers(what, "dlogits", dlogits, truth.dlogits, truth.dlogits, problem.denominator,
                draw.type == sums ? kUnits : kNarrowUnits);
}

int RunAll() {
  uint64_t seed = 0;
  for (const View& view : kViews) {
    for (const ElementType type : kTypes) {
      for (int i = 0; i < kDraws; ++i) {
        Random random(++seed);
        const bool row_samples = random.OneIn(2);
        const Draw draw = {type,
                           random.OneIn(2) ? LabelKind::kIndex32 : LabelKind::kIndex64,
                           row_samples,
                           row_samples || random.OneIn(2),
                           random.OneIn(2),
                           !random.OneIn(3),
                           random.OneIn(2) ? 1 : 3,
                           random.One(kPlaces)};
        RunCase(seed, draw, view, &random);
      }
    }
  }
  return static_cast<int>(seed);
}

}  // namespace
}  // namespace onnxloss::tests

int main(int argc, char** argv) {
  using namespace onnxloss::tests;
  ChooseInstructionSet(argc, argv);
  std::printf("%d problems\n", RunAll());
  return 0;
}
