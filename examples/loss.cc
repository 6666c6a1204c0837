// SPDX-License-Identifier: MIT
// Runs a loss in ONNX Runtime from C++: loss MODEL LIBRARY. The model is that of
//   onnxloss export --api torch.nn.CrossEntropyLoss --label-smoothing 0.1 --logits N,3 -o loss.onnx
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <iostream>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: loss MODEL LIBRARY\n";
    return 2;
  }
  try {
    Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "loss");
    Ort::SessionOptions options;
    options.RegisterCustomOpsLibrary(argv[2]);
    Ort::Session session(env, argv[1], options);

    std::vector<float> logits{2, 1, 0, 0, 3, 1};
    std::vector<int64_t> labels{0, 2};
    const std::array<int64_t, 2> logits_shape{2, 3};
    const std::array<int64_t, 1> labels_shape{2};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const std::array<Ort::Value, 2> inputs{
        Ort::Value::CreateTensor<float>(memory, logits.data(), logits.size(), logits_shape.data(),
                                        logits_shape.size()),
        Ort::Value::CreateTensor<int64_t>(memory, labels.data(), labels.size(), labels_shape.data(),
                                          labels_shape.size())};
    const std::array<const char*, 2> input_names{"logits", "labels"};
    const std::array<const char*, 1> output_names{"loss"};
    const auto outputs = session.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(),
                                     inputs.size(), output_names.data(), output_names.size());
    std::cout << outputs[0].GetTensorData<float>()[0] << '\n';
  } catch (const Ort::Exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
