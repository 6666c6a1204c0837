// SPDX-License-Identifier: MIT
// The dense kernels of one instruction set against a loop over positions and classes: every type of
// logits and of labels, shapes around the sizes at which the kernels change their ways, threads,
// streamed and plain stores, buffers that end where readable memory ends.
#include <algorithm>
#include <cstring>

#include "naive_loss.h"
#include "test_support.h"

namespace onnxloss::tests {
namespace {

struct View {
  int64_t outer;
  int64_t classes;
  int64_t inner;
};

constexpr View kViews[] = {
    {0, 5, 1},     {3, 5, 0},     {0, 0, 1},                    // nothing
    {1, 1, 1},     {70, 1, 1},    {2, 1, 37},                   // one class
    {1, 2, 1},     {5, 3, 1},     {63, 3, 1},    {64, 7, 1},    // tiles, whole and not
    {65, 16, 1},   {129, 17, 1},  {130, 33, 1},                 // vector widths and one more
    {66, 190, 1},  {65, 191, 1},  {9, 192, 1},   {9, 193, 1},   // kSmallestLongRow
    {3, 207, 1},   {3, 255, 1},   {3, 256, 1},   {3, 257, 1},   // kTileClasses
    {2, 2047, 1},  {2, 2048, 1},  {2, 2049, 1},  {3, 4096, 1},  // blocks of a row
    {2, 4097, 1},  {1, 6143, 1},  {1, 8191, 1},                 // rows that are read again
    {3, 5, 2},     {2, 4, 63},    {2, 21, 65},   {5, 3, 7},     // the axis inside
    {1, 257, 3},   {2, 300, 5},   {1, 513, 66},                 // parts of a tile
    {1025, 33, 1}, {2, 11, 1500}, {2100, 16, 1},                // several tasks
};
constexpr ElementType kTypes[] = {ElementType::kFloat16, ElementType::kBFloat16,
                                  ElementType::kFloat32, ElementType::kFloat64};
constexpr LabelKind kKinds[] = {LabelKind::kIndex32, LabelKind::kIndex64,
                                LabelKind::kProbabilities};
constexpr Place kPlaces[] = {Place::kAfterGuard, Place::kBeforeGuard, Place::kOffLine};
constexpr int kDraws = 3;
// Under a sanitizer the loops are no vector loops, and a block's terms are added one by one.
constexpr double kUnits = 512;
constexpr double kNarrowUnits = 1;

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

std::vector<double> Many(int64_t count, Random* random, int64_t low, int64_t high) {
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = random->Sixteenths(low, high);
  return values;
}

void DrawLabels(const Draw& draw, Random* random, NaiveProblem* naive) {
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
  constexpr int64_t kWild[] = {-1, INT32_MIN, INT32_MAX, 1 << 20};
  constexpr int64_t kWilder[] = {INT64_MIN, INT64_MAX, int64_t{1} << 32, -(int64_t{1} << 40)};
  if (naive->indices.empty() || !random->OneIn(6)) return;
  const size_t place = static_cast<size_t>(random->Below(naive->positions()));
  naive->indices[place] = draw.kind == LabelKind::kIndex64 && random->OneIn(2)
                              ? random->One(kWilder)
                              : random->One(kWild);
}

void DrawWildLogits(Random* random, NaiveProblem* naive) {
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

NaiveProblem MakeNaive(const Draw& draw, const View& view, Random* random) {
  NaiveProblem naive;
  naive.outer = view.outer;
  naive.classes = view.classes;
  naive.inner = view.inner;
  const int64_t count = view.outer * view.classes * view.inner;
  naive.from_logits = !random->OneIn(6);
  naive.logits = naive.from_logits ? Many(count, random, -128, 128) : Many(count, random, 1, 16);
  if (naive.from_logits && random->OneIn(4)) DrawWildLogits(random, &naive);
  constexpr double kSmoothings[] = {0, 0, 0.125, 1};
  naive.label_smoothing = random->One(kSmoothings);
  naive.z_loss = random->OneIn(4) ? 0.0078125 : 0;
  naive.softcap = random->OneIn(4) ? 5 : 0;
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
  return naive;
}

std::string Describe(const Draw& draw, const View& view, uint64_t seed) {
  return "seed " + std::to_string(seed) + ", " + Kernels().instruction_set + ", type " +
         std::to_string(static_cast<int>(draw.type)) + ", labels " +
         std::to_string(static_cast<int>(draw.kind)) + ", [" + std::to_string(view.outer) + ", " +
         std::to_string(view.classes) + ", " + std::to_string(view.inner) + "]";
}

// Labels in the kernels' type, sealed.
struct Labels {
  Labels(const Draw& draw, const NaiveProblem& naive)
      : indices(naive.indices.size() * Width(draw), Width(draw), draw.place),
        probabilities(draw.type, naive.probabilities, draw.place),
        kind(draw.kind) {
    for (size_t i = 0; i < naive.indices.size(); ++i) {
      const int64_t place = static_cast<int64_t>(i);
      if (kind == LabelKind::kIndex64) {
        Write(naive.indices[i], indices.data(), place);
      } else {
        Write(static_cast<int32_t>(naive.indices[i]), indices.data(), place);
      }
    }
    indices.Seal();
  }
  static size_t Width(const Draw& draw) { return draw.kind == LabelKind::kIndex64 ? 8 : 4; }
  const void* data() const {
    return kind == LabelKind::kProbabilities ? probabilities.data() : indices.data();
  }

  GuardedBuffer indices;
  Numbers probabilities;
  LabelKind kind;
};

// The pass over the labels; returns the denominator, or -1 after it found the bad label expected.
double Scan(const std::string& what, const Draw& draw, const LossProblem& problem,
            const NaiveResult& truth) {
  const int64_t positions = problem.outer * problem.inner;
  const int64_t step = PositionsPerScan(problem);
  std::vector<LabelScan> scans(static_cast<size_t>((positions + step - 1) / step));
  ForTasks(positions, step, draw.threads, [&](int64_t first, int64_t last) {
    Kernels().scan_labels(problem, first, last, &scans[static_cast<size_t>(first / step)]);
  });
  double total = 0;
  int64_t bad = -1;
  for (const LabelScan& scan : scans) {
    bad = bad < 0 ? scan.first_bad : bad;
    total += scan.weight;
  }
  if (bad != truth.first_bad) {
    Fail(what, "first_bad is %lld; expected %lld", static_cast<long long>(bad),
         static_cast<long long>(truth.first_bad));
  }
  if (bad >= 0) return -1;
  ExpectNear(what, "denominator", 0, total, truth.denominator, 1e-5 * (1 + truth.denominator));
  return total != 0 ? total : 1;
}

void RunCase(uint64_t seed, const Draw& draw, const View& view, Random* random) {
  const std::string what = Describe(draw, view, seed);
  const NaiveProblem naive = MakeNaive(draw, view, random);
  const NaiveResult truth = Solve(naive);
  const ElementType sums = SumsOf(draw.type);
  const size_t positions = static_cast<size_t>(naive.positions());

  const Numbers logits(draw.type, naive.logits, draw.place);
  const Labels labels(draw, naive);
  const Numbers class_weights(sums, naive.class_weights, draw.place);
  const Numbers sample_weights(sums, naive.sample_weights, draw.place);
  const Numbers one_dloss(sums, std::vector<double>{1.5}, draw.place);
  const Numbers every_dloss(sums, naive.dloss, draw.place);
  const Numbers position_weights(sums, positions, draw.place);
  const Numbers loss(sums, positions, draw.place);
  const Numbers lse(sums, positions, draw.place);
  const Numbers dlogits(draw.type, naive.logits.size(), draw.place);
  const Numbers dlabels(draw.type, naive.logits.size(), draw.place);

  LossProblem problem = {};
  problem.type = draw.type;
  problem.label_kind = draw.kind;
  problem.outer = view.outer;
  problem.classes = view.classes;
  problem.inner = view.inner;
  problem.label_smoothing = naive.label_smoothing;
  problem.ignore_index = naive.ignore_index;
  problem.logits = logits.data();
  problem.labels = labels.data();
  problem.from_logits = naive.from_logits;
  problem.z_loss = naive.z_loss;
  problem.softcap = naive.softcap;
  problem.class_weights = draw.class_weights ? class_weights.data() : nullptr;
  for (const double weight : naive.class_weights) problem.total_weight += weight;
  problem.sample_weights = draw.sample_weights ? sample_weights.data() : nullptr;
  problem.class_weights_positions = naive.class_weights_positions;
  problem.mean_over = naive.mean_over;
  const bool classes_weigh = draw.class_weights || draw.kind == LabelKind::kProbabilities;
  const bool weighs = draw.sample_weights || (naive.class_weights_positions && classes_weigh);
  problem.position_weights = weighs ? position_weights.data() : nullptr;
  problem.denominator = Scan(what, draw, problem, truth);
  if (truth.first_bad >= 0) return;
  if (naive.class_weights_positions) {
    problem.class_weights = nullptr;
    problem.total_weight = static_cast<double>(view.classes);
  }

  problem.dloss = draw.dloss_per_position ? every_dloss.data() : one_dloss.data();
  problem.dloss_per_position = draw.dloss_per_position;
  problem.loss = draw.loss_per_position ? loss.data() : nullptr;
  problem.lse = draw.lse ? lse.data() : nullptr;
  problem.dlogits = draw.dlogits ? dlogits.data() : nullptr;
  const bool by_labels = draw.dlogits && draw.dlabels && !naive.class_weights_positions &&
                         draw.kind == LabelKind::kProbabilities;
  problem.dlabels = by_labels ? dlabels.data() : nullptr;
  problem.stream = draw.stream;
  problem.positions_per_partial = PositionsPerPartial(view.classes);
  std::vector<double> partials(positions / static_cast<size_t>(problem.positions_per_partial) + 1);
  problem.partial_losses = partials.data();
  const int64_t step = PositionsPerTask(view.classes, naive.positions());
  ForTasks(naive.positions(), step, draw.threads,
           [&](int64_t first, int64_t last) { Kernels().run(problem, first, last); });

  const bool narrow = draw.type != sums;
  if (!weighs && !position_weights.NeighboursIntact()) Fail(what, "position_weights was written");
  if (draw.loss_per_position) ExpectNumbers(what, "loss", loss, truth.loss, truth.loss, 1, kUnits);
  // The log-sum-exp of an ignored position is asked for too, but not formed from probabilities.
  if (draw.lse) ExpectNumbers(what, "lse", lse, truth.lse, truth.lse, 1, kUnits);
  if (draw.dlogits) {
    ExpectNumbers(what, "dlogits", dlogits, truth.dlogits, truth.terms, problem.denominator,
                  narrow ? kNarrowUnits : kUnits);
  }
  if (by_labels) {
    ExpectNumbers(what, "dlabels", dlabels, truth.dlabels, truth.dlabels, problem.denominator,
                  narrow ? kNarrowUnits : kUnits);
  }
  double sum = 0;
  double total = 0;
  for (const double partial : partials) sum += partial;
  for (const double one : truth.loss) total += one;
  const double scale = std::isfinite(total) ? std::fmax(1, std::fabs(total)) : 1;
  ExpectNear(what, "sum of losses", 0, sum, total, kUnits * EpsilonOf(sums) * scale);
}

int RunAll() {
  uint64_t seed = 0;
  for (const View& view : kViews) {
    for (const ElementType type : kTypes) {
      for (const LabelKind kind : kKinds) {
        for (int i = 0; i < kDraws; ++i) {
          Random random(++seed);
          const Draw draw = {type,
                             kind,
                             random.OneIn(2),
                             random.OneIn(3),
                             random.OneIn(2),
                             random.OneIn(2),
                             random.OneIn(2),
                             !random.OneIn(3),
                             random.OneIn(2),
                             random.OneIn(2),
                             random.OneIn(2) ? 1 : 3,
                             random.One(kPlaces)};
          RunCase(seed, draw, view, &random);
        }
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
