// SPDX-License-Identifier: MIT
// Errors in the project's form, as statuses of ONNX Runtime.
#pragma once

#include <exception>
#include <string>
#include <vector>

#include "ort/ort_abi.h"

namespace onnxloss::ort {

using Shape = std::vector<int64_t>;

// "[2, 3]".
std::string ToString(const Shape& shape);
// The shortest text that reads back as the same number.
std::string ToString(float value);
std::string ToString(double value);
// In double quotes, long text cut.
std::string Quoted(const std::string& text);

// "<op>: <name> is <value>; expected <expected>."
OrtStatus* InvalidArgument(const OrtApi& api, const char* op, const std::string& name,
                           const std::string& value, const std::string& expected);

// Runs `body`, which returns a status; what it throws becomes one, since nothing may be thrown into
// the runtime.
template <class Body>
OrtStatus* Guarded(const OrtApi& api, const char* op, Body body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    char message[256];
    size_t length = 0;
    for (const char* part : {op, ": ", error.what()}) {
      while (*part != '\0' && length + 1 < sizeof(message)) message[length++] = *part++;
    }
    message[length] = '\0';
    return api.CreateStatus(ORT_FAIL, message);
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, "onnxloss: unknown exception");
  }
}

}  // namespace onnxloss::ort
