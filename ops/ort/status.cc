// SPDX-License-Identifier: MIT
#include "ort/status.h"

#include <cstdio>
#include <cstdlib>

namespace onnxloss::ort {

std::string ToString(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

std::string ToString(float value) {
  char text[32];
  for (int digits = 1; digits <= 9; ++digits) {
    std::snprintf(text, sizeof(text), "%.*g", digits, static_cast<double>(value));
    if (std::strtof(text, nullptr) == value) break;
  }
  return text;
}

std::string ToString(double value) {
  char text[32];
  for (int digits = 1; digits <= 17; ++digits) {
    std::snprintf(text, sizeof(text), "%.*g", digits, value);
    if (std::strtod(text, nullptr) == value) break;
  }
  return text;
}

std::string Quoted(const std::string& text) {
  constexpr size_t kLongest = 40;
  const bool cut = text.size() > kLongest;
  return "\"" + (cut ? text.substr(0, kLongest) + "..." : text) + "\"";
}

OrtStatus* InvalidArgument(const OrtApi& api, const char* op, const std::string& name,
                           const std::string& value, const std::string& expected) {
  const std::string message =
      std::string(op) + ": " + name + " is " + value + "; expected " + expected + ".";
  return api.CreateStatus(ORT_INVALID_ARGUMENT, message.c_str());
}

}  // namespace onnxloss::ort
