// SPDX-License-Identifier: MIT
// As much of ONNX Runtime as the library asks for: with it a sanitizer sees the glue and the
// kernels with all that they touch, and threads whose meetings it understands.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "ort/ort_abi.h"
#include "test_support.h"

namespace onnxloss::ort {

struct OrtStatus {
  std::string message;
};
struct OrtValue {
  std::vector<int64_t> shape;
  std::vector<double> room;  // bytes, aligned for any element
};
struct OrtTensorTypeAndShapeInfo {
  const OrtValue* value;
};
struct OrtCustomOpDomain {
  std::vector<const OrtCustomOp*> ops;
};
struct OrtSessionOptions {
  OrtCustomOpDomain* domain = nullptr;
};
struct OrtKernelInfo {
  std::map<std::string, int64_t> ints;
  std::map<std::string, float> floats;
  std::map<std::string, std::string> strings;
};
struct OrtKernelContext {
  std::vector<const OrtValue*> inputs;
  std::vector<OrtValue> outputs;
  int threads;
};

}  // namespace onnxloss::ort

namespace onnxloss::tests {

using namespace onnxloss::ort;

template <class Value>
OrtStatus* Find(const std::map<std::string, Value>& values, const char* name, Value* out) {
  const auto found = values.find(name);
  if (found == values.end()) return new OrtStatus{"no such attribute"};
  *out = found->second;
  return nullptr;
}

inline OrtStatus* FindString(const OrtKernelInfo* info, const char* name, char* out, size_t* size) {
  std::string value;
  if (OrtStatus* status = Find(info->strings, name, &value)) return status;
  if (out != nullptr) std::memcpy(out, value.c_str(), value.size() + 1);
  *size = value.size() + 1;
  return nullptr;
}

inline OrtStatus* MakeOutput(OrtKernelContext* context, size_t index, const int64_t* dims,
                             size_t count, OrtValue** out) {
  OrtValue& value = context->outputs[index];
  value.shape.assign(dims, dims + count);
  int64_t elements = 1;
  for (const int64_t size : value.shape) elements *= size;
  value.room.assign(static_cast<size_t>(elements), 0.0);
  *out = &value;
  return nullptr;
}

inline void DescribeValues(OrtApi* api) {
  api->GetTensorMutableData = [](OrtValue* value, void** out) -> OrtStatus* {
    *out = value->room.data();
    return nullptr;
  };
  api->GetTensorTypeAndShape = [](const OrtValue* value,
                                  OrtTensorTypeAndShapeInfo** out) -> OrtStatus* {
    *out = new OrtTensorTypeAndShapeInfo{value};
    return nullptr;
  };
  api->ReleaseTensorTypeAndShapeInfo = [](OrtTensorTypeAndShapeInfo* info) { delete info; };
  api->GetDimensionsCount = [](const OrtTensorTypeAndShapeInfo* info, size_t* out) -> OrtStatus* {
    *out = info->value->shape.size();
    return nullptr;
  };
  api->GetDimensions = [](const OrtTensorTypeAndShapeInfo* info, int64_t* dims,
                          size_t count) -> OrtStatus* {
    for (size_t i = 0; i < count; ++i) dims[i] = info->value->shape[i];
    return nullptr;
  };
}

inline void DescribeContext(OrtApi* api) {
  api->KernelContext_GetInputCount = [](const OrtKernelContext* context,
                                        size_t* out) -> OrtStatus* {
    *out = context->inputs.size();
    return nullptr;
  };
  api->KernelContext_GetOutputCount = [](const OrtKernelContext* context,
                                         size_t* out) -> OrtStatus* {
    *out = context->outputs.size();
    return nullptr;
  };
  api->KernelContext_GetInput = [](const OrtKernelContext* context, size_t index,
                                   const OrtValue** out) -> OrtStatus* {
    *out = context->inputs[index];
    return nullptr;
  };
  api->KernelContext_GetOutput = MakeOutput;
  api->KernelContext_ParallelFor = [](const OrtKernelContext* context,
                                      void (*body)(void* data, size_t index), size_t total, size_t,
                                      void* data) -> OrtStatus* {
    ForTasks(static_cast<int64_t>(total), 1, context->threads,
             [=](int64_t first, int64_t) { body(data, static_cast<size_t>(first)); });
    return nullptr;
  };
}

inline OrtApi MakeApi() {
  OrtApi api = {};
  api.CreateStatus = [](OrtErrorCode, const char* message) { return new OrtStatus{message}; };
  api.ReleaseStatus = [](OrtStatus* status) { delete status; };
  api.CreateCustomOpDomain = [](const char*, OrtCustomOpDomain** out) -> OrtStatus* {
    *out = new OrtCustomOpDomain;
    return nullptr;
  };
  api.CustomOpDomain_Add = [](OrtCustomOpDomain* domain, const OrtCustomOp* op) -> OrtStatus* {
    domain->ops.push_back(op);
    return nullptr;
  };
  api.AddCustomOpDomain = [](OrtSessionOptions* options, OrtCustomOpDomain* domain) -> OrtStatus* {
    options->domain = domain;
    return nullptr;
  };
  api.KernelInfoGetAttribute_int64 = [](const OrtKernelInfo* info, const char* name, int64_t* out) {
    return Find(info->ints, name, out);
  };
  api.KernelInfoGetAttribute_float = [](const OrtKernelInfo* info, const char* name, float* out) {
    return Find(info->floats, name, out);
  };
  api.KernelInfoGetAttribute_string = FindString;
  DescribeValues(&api);
  DescribeContext(&api);
  return api;
}

// The one runtime of the process.
inline const OrtApi* TheApi() {
  static const OrtApi api = MakeApi();
  return &api;
}

}  // namespace onnxloss::tests
