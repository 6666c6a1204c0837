// SPDX-License-Identifier: MIT
// The dense kernels of one instruction set against a loop over positions and classes: every type of
// logits and of labels, shapes around the sizes at which the kernels change their ways, threads,
// streamed and plain stores, buffers that end where readable memory ends.
#include "dense_cases.h"

namespace onnxloss::tests {
namespace {

constexpr int kDraws = 3;
// Under a sanitizer the loops are no vector loops, and a block's terms are added one by one.
constexpr double kUnits = 512;
constexpr double kNarrowUnits = 1;

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

// A problem's tensors in guarded memory: the inputs sealed, the outputs to be written.
struct Tensors {
  Tensors(const Draw& draw, const NaiveProblem& naive)
      : sums(SumsOf(draw.type)),
        logits(draw.type, naive.logits, draw.place),
        labels(draw, naive),
        class_weights(sums, naive.class_weights, draw.place),
        sample_weights(sums, naive.sample_weights, draw.place),
        dloss(sums, draw.dloss_per_position ? naive.dloss : std::vector<double>{1.5}, draw.place),
        position_weights(sums, naive.sample_weights.size(), draw.place),
        loss(sums, naive.sample_weights.size(), draw.place),
        lse(sums, naive.sample_weights.size(), draw.place),
        dlogits(draw.type, naive.logits.size(), draw.place),
        dlabels(draw.type, naive.logits.size(), draw.place) {}

  ElementType sums;
  Numbers logits;
  Labels labels;
  Numbers class_weights;
  Numbers sample_weights;
  Numbers dloss;
  Numbers position_weights;
  Numbers loss;
  Numbers lse;
  Numbers dlogits;
  Numbers dlabels;
};

bool WeighsPositions(const Draw& draw, const NaiveProblem& naive) {
  const bool classes_weigh = draw.class_weights || draw.kind == LabelKind::kProbabilities;
  return draw.sample_weights || (naive.class_weights_positions && classes_weigh);
}

bool WantsLabelGradient(const Draw& draw, const NaiveProblem& naive) {
  return draw.dlogits && draw.dlabels && !naive.class_weights_positions &&
         draw.kind == LabelKind::kProbabilities;
}

LossProblem DescribeInputs(const Draw& draw, const NaiveProblem& naive, const Tensors& tensors) {
  LossProblem problem = {};
  problem.type = draw.type;
  problem.label_kind = draw.kind;
  problem.outer = naive.outer;
  problem.classes = naive.classes;
  problem.inner = naive.inner;
  problem.label_smoothing = naive.label_smoothing;
  problem.ignore_index = naive.ignore_index;
  problem.logits = tensors.logits.data();
  problem.labels = tensors.labels.data();
  problem.from_logits = naive.from_logits;
  problem.normalize = naive.normalize;
  problem.epsilon = naive.epsilon;
  problem.z_loss = naive.z_loss;
  problem.softcap = naive.softcap;
  problem.class_weights = draw.class_weights ? tensors.class_weights.data() : nullptr;
  for (const double weight : naive.class_weights) problem.total_weight += weight;
  problem.sample_weights = draw.sample_weights ? tensors.sample_weights.data() : nullptr;
  problem.class_weights_positions = naive.class_weights_positions;
  problem.mean_over = naive.mean_over;
  const bool weighs = WeighsPositions(draw, naive);
  problem.position_weights = weighs ? tensors.position_weights.data() : nullptr;
  return problem;
}

// What follows the pass over the labels.
void DescribeOutputs(const Draw& draw, const NaiveProblem& naive, const Tensors& tensors,
                     LossProblem* problem) {
  if (naive.class_weights_positions) {
    problem->class_weights = nullptr;
    problem->total_weight = static_cast<double>(naive.classes);
  }
  problem->dloss = tensors.dloss.data();
  problem->dloss_per_position = draw.dloss_per_position;
  problem->loss = draw.loss_per_position ? tensors.loss.data() : nullptr;
  problem->lse = draw.lse ? tensors.lse.data() : nullptr;
  problem->dlogits = draw.dlogits ? tensors.dlogits.data() : nullptr;
  problem->dlabels = WantsLabelGradient(draw, naive) ? tensors.dlabels.data() : nullptr;
  problem->stream = draw.stream;
  problem->positions_per_partial = PositionsPerPartial(naive.classes, naive.inner);
}

void ExpectOutputs(const std::string& what, const LossProblem& problem, const Tensors& tensors,
                   const NaiveResult& truth) {
  const double units = tensors.dlogits.type() == tensors.sums ? kUnits : kNarrowUnits;
  if (!tensors.position_weights.NeighboursIntact()) {
    Fail(what, "memory around position_weights was written");
  }
  if (problem.loss != nullptr) {
    ExpectNumbers(what, "loss", tensors.loss, truth.loss, truth.loss, 1, kUnits);
  }
  if (problem.lse != nullptr) {
    ExpectNumbers(what, "lse", tensors.lse, truth.lse, truth.lse, 1, kUnits);
  }
  if (problem.dlogits != nullptr) {
    ExpectNumbers(what, "dlogits", tensors.dlogits, truth.dlogits, truth.terms, problem.denominator,
                  units);
  }
  if (problem.dlabels != nullptr) {
    ExpectNumbers(what, "dlabels", tensors.dlabels, truth.dlabels, truth.dlabels,
                  problem.denominator, units);
  }
}

void ExpectSum(const std::string& what, ElementType sums, const std::vector<double>& partials,
               const std::vector<double>& losses) {
  double sum = 0;
  double truth = 0;
  for (const double partial : partials) sum += partial;
  for (const double loss : losses) truth += loss;
  const double scale = std::isfinite(truth) ? std::fmax(1, std::fabs(truth)) : 1;
  ExpectNear(what, "sum of losses", 0, sum, truth, kUnits * EpsilonOf(sums) * scale);
}

void RunCase(uint64_t seed, const Draw& draw, const View& view, Random* random) {
  const std::string what = Describe(draw, view, seed);
  const NaiveProblem naive = MakeNaive(draw, view, random);
  const NaiveResult truth = Solve(naive);
  const Tensors tensors(draw, naive);
  LossProblem problem = DescribeInputs(draw, naive, tensors);
  problem.denominator = Scan(what, draw, problem, truth);
  if (truth.first_bad >= 0) return;
  DescribeOutputs(draw, naive, tensors, &problem);
  std::vector<double> partials(
      static_cast<size_t>(naive.positions() / problem.positions_per_partial + 1));
  problem.partial_losses = partials.data();
  // One thread takes all: of long rows, one task has several only where there are many.
  const int64_t step = draw.threads > 1
                           ? PositionsPerTask(view.classes, view.inner, naive.positions())
                           : std::max<int64_t>(naive.positions(), 1);
  ForTasks(naive.positions(), step, draw.threads,
           [&](int64_t first, int64_t last) { Kernels().run(problem, first, last); });
  ExpectOutputs(what, problem, tensors, truth);
  ExpectSum(what, tensors.sums, partials, truth.loss);
}

// A small batch is work for several threads; where there is enough of it, tiles are filled.
void CheckTasks() {
  for (const int64_t classes : {320, 1000, 32000, 200000}) {
    const int64_t rows = PositionsPerTask(classes, 1, 64);
    const int64_t few = PositionsPerTask(classes, 64, 64);
    const int64_t many = PositionsPerTask(classes, 512, 4096);
    const bool shared = classes < 1000 || (rows <= 32 && few <= 32);
    if (!shared || many % kTileLanes != 0) {
      Fail("PositionsPerTask", "%d classes: %d rows, %d columns of few, %d of many",
           static_cast<int>(classes), static_cast<int>(rows), static_cast<int>(few),
           static_cast<int>(many));
    }
  }
}

int RunAll() {
  CheckTasks();
  uint64_t seed = 0;
  for (const View& view : kViews) {
    for (const ElementType type : kTypes) {
      for (const LabelKind kind : kKinds) {
        for (int i = 0; i < kDraws; ++i) {
          Random random(++seed);
          const Draw draw = MakeDraw(type, kind, &random);
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
