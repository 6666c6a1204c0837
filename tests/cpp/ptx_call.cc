// SPDX-License-Identifier: MIT
// Runs a kernel of a PTX text, for the tests of what runs it.
#include <stdexcept>

#include "ptx.h"

// Null, or what went wrong.
extern "C" const char* RunPtx(const char* text, const char* kernel, int64_t blocks, int threads,
                              int cluster, const void* parameters, int64_t* sectors) {
  static std::string failure;
  try {
    onnxloss::ptx::Module module(text);
    onnxloss::ptx::Sectors counted;
    onnxloss::ptx::Run(module.Find(kernel), {blocks, threads, cluster, parameters, &counted});
    sectors[0] = counted.read;
    sectors[1] = counted.written;
    return nullptr;
  } catch (const std::exception& error) {
    failure = error.what();
    return failure.c_str();
  }
}
