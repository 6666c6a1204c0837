// SPDX-License-Identifier: MIT
// Runs a kernel of a PTX text, for the tests of what runs it.
#include <stdexcept>

#include "ptx.h"

// Null, or what went wrong; sectors: [read, written].
extern "C" const char* RunPtx(const char* text, const char* kernel, int64_t blocks, int threads,
                              int cluster, int overlaps, const void* parameters, int64_t* sectors) {
  static std::string failure;
  static onnxloss::ptx::Traffic traffic;
  try {
    onnxloss::ptx::Module module(text);
    traffic.sectors_read = traffic.sectors_written = 0;
    onnxloss::ptx::Run(module.Find(kernel),
                       {blocks, threads, cluster, overlaps != 0, parameters, {}}, &traffic);
    sectors[0] = traffic.sectors_read;
    sectors[1] = traffic.sectors_written;
    return nullptr;
  } catch (const std::exception& error) {
    failure = error.what();
    return failure.c_str();
  }
}
