// SPDX-License-Identifier: MIT
// The library as a runtime uses it: threads that register it at once, and then share one kernel.
#include <thread>

#include "fake_runtime.h"

extern "C" onnxloss::ort::OrtStatus* RegisterCustomOps(onnxloss::ort::OrtSessionOptions* options,
                                                       const onnxloss::ort::OrtApiBase* base);

namespace onnxloss::tests {
namespace {

constexpr int kThreads = 4;
constexpr int kRuns = 20;
constexpr int64_t kRows = 9000;
constexpr int64_t kClasses = 33;

const OrtApiBase kBase = {[](uint32_t) { return TheApi(); }, [] { return "1.19"; }};

template <class Body>
void OnThreads(Body body) {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back([=] { body(i); });
  for (std::thread& thread : threads) thread.join();
}

const OrtCustomOp* FindOp(const char* name, ElementType type) {
  OrtSessionOptions options[kThreads];
  OnThreads([&](int i) {
    if (RegisterCustomOps(&options[i], &kBase) != nullptr) Fail(name, "registration failed");
  });
  for (const OrtCustomOp* op : options[0].domain->ops) {
    const bool wide = op->GetInputType(op, 2) == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
    if (std::strcmp(op->GetName(op), name) == 0 && wide &&
        static_cast<int>(op->GetInputType(op, 1)) == static_cast<int>(type)) {
      return op;
    }
  }
  Fail(name, "not registered");
}

OrtKernelInfo MakeInfo() {
  OrtKernelInfo info;
  info.ints = {{"axis", 1}, {"ignore_index", -100}, {"from_logits", 1}, {"stash_type", 1}};
  info.floats = {{"label_smoothing", 0.125f},
                 {"label_smoothing_low", 0},
                 {"epsilon", 0},
                 {"epsilon_low", 0},
                 {"z_loss", 0},
                 {"logit_softcap", 0}};
  info.strings = {{"reduction", "mean"},
                  {"mean_over", "weights"},
                  {"empty_mean", "nan"},
                  {"normalize", "none"},
                  {"class_weighting", "class"}};
  return info;
}

template <class T, class Form>
OrtValue MakeValue(std::vector<int64_t> shape, int64_t count, Form form) {
  OrtValue value = {std::move(shape), std::vector<double>(static_cast<size_t>(count))};
  for (int64_t i = 0; i < count; ++i) Write(static_cast<T>(form(i)), value.room.data(), i);
  return value;
}

struct Inputs {
  OrtValue dloss = MakeValue<float>({}, 1, [](int64_t) { return 1; });
  OrtValue logits = MakeValue<float>({kRows, kClasses}, kRows* kClasses,
                                     [](int64_t i) { return static_cast<float>(i % 61) / 8; });
  OrtValue labels = MakeValue<int64_t>({kRows}, kRows, [](int64_t i) { return i % kClasses; });
};

OrtKernelContext MakeContext(const Inputs& inputs, int threads) {
  return {{&inputs.dloss, &inputs.logits, &inputs.labels}, std::vector<OrtValue>(3), threads};
}

// Runs what every thread shares; the answer must have the bits of the first.
void RunShared(const OrtCustomOp* op, void* kernel) {
  const Inputs inputs;
  OrtKernelContext first = MakeContext(inputs, 1);
  if (op->KernelComputeV2(kernel, &first) != nullptr) Fail("glue", "a good input is refused");
  OnThreads([&](int thread) {
    for (int i = 0; i < kRuns; ++i) {
      OrtKernelContext context = MakeContext(inputs, 1 + (thread + i) % 3);
      if (op->KernelComputeV2(kernel, &context) != nullptr) Fail("glue", "a run failed");
      for (size_t output = 0; output < first.outputs.size(); ++output) {
        const OrtValue& found = context.outputs[output];
        const OrtValue& expected = first.outputs[output];
        if (found.shape != expected.shape ||
            std::memcmp(found.room.data(), expected.room.data(),
                        expected.room.size() * sizeof(double)) != 0) {
          Fail("glue", "output %zu of thread %d differs", output, thread);
        }
      }
    }
  });
}

void ExpectRefusal(const OrtCustomOp* op, void* kernel, const Inputs& inputs,
                   const std::string& message) {
  OrtKernelContext context = MakeContext(inputs, 3);
  OrtStatus* status = op->KernelComputeV2(kernel, &context);
  const std::string expected = std::string(op->GetName(op)) + ": " + message;
  if (status == nullptr || status->message != expected) {
    Fail("glue", "not refused with \"%s\"", expected.c_str());
  }
  delete status;
}

void RefuseInputs(const OrtCustomOp* op, void* kernel) {
  Inputs inputs;
  Write(kClasses, inputs.labels.room.data(), kRows - 1);
  ExpectRefusal(op, kernel, inputs, "labels[8999] is 33; expected [0, 33) or ignore_index -100.");
  // Shapes alone: there is no room for as many numbers.
  inputs.logits.shape = {1, int64_t{1} << 32, 2};
  inputs.labels.shape = {1, 2};
  ExpectRefusal(op, kernel, inputs,
                "number of classes is 4294967296; expected at most 4294967295 where the class axis "
                "is not the last.");
}

}  // namespace
}  // namespace onnxloss::tests

int main(int argc, char** argv) {
  using namespace onnxloss::tests;
  ChooseInstructionSet(argc, argv);
  const OrtCustomOp* op = FindOp("SoftmaxCrossEntropyLossAndGrad", onnxloss::ElementType::kFloat32);
  const OrtKernelInfo info = MakeInfo();
  void* kernel = nullptr;
  if (op->CreateKernelV2(op, TheApi(), &info, &kernel) != nullptr) Fail("glue", "no kernel");
  RunShared(op, kernel);
  RefuseInputs(op, kernel);
  op->KernelDestroy(kernel);
  return 0;
}
