// SPDX-License-Identifier: MIT
// Neighbours of a class that are too few for a vector: moved one by one between memory and tiles.
#pragma once

#include <type_traits>
#include <utility>

#include "cpu/finish.h"

namespace onnxloss::ONNXLOSS_TARGET {

// From so many neighbours on, vectors that are partly empty cost less.
constexpr int64_t kFewestNeighbours = 16;

constexpr int64_t kAheadInRows = 4096;  // bytes

// Calls visit(length) with a length below kFewestNeighbours as a type: a loop of a few steps costs
// more than the steps.
template <class Visitor, int... kLengths>
inline void WithLength(int64_t length, const Visitor& visit,
                       std::integer_sequence<int, kLengths...>) {
  const auto try_length = [&](auto each) {
    if (length == each.value) visit(each);
  };
  (try_length(std::integral_constant<int, kLengths>()), ...);
}
template <class Visitor>
inline void WithLength(int64_t length, const Visitor& visit) {
  WithLength(length, visit, std::make_integer_sequence<int, kFewestNeighbours>());
}

// Runs of `length` elements in n classes: where the first class's is, and how far each is from the
// one before.
template <class Element>
struct Runs {
  Element* first;
  int64_t step;

  Element* operator[](int64_t c) const { return first + c * step; }
};

template <class T>
ONNXLOSS_FOR_MANY void LoadShortRuns(Runs<const T> source, int64_t length, int64_t n,
                                     Runs<Accumulator<T>> target) {
  WithLength(length, [=](auto run) {
    for (int64_t c = 0; c < n; ++c) {
      FetchAhead(source[c], kAheadInRows);
      for (int64_t i = 0; i < run.value; ++i) target[c][i] = ToFloat(source[c][i]);
    }
  });
}

template <class T>
ONNXLOSS_FOR_MANY void StoreShortRuns(Runs<const Accumulator<T>> source, int64_t length, int64_t n,
                                      Runs<T> target) {
  WithLength(length, [=](auto run) {
    for (int64_t c = 0; c < n; ++c) {
      FetchToWrite(target[c]);
      for (int64_t i = 0; i < run.value; ++i) target[c][i] = FromFloat<T>(source[c][i]);
    }
  });
}

// Gradients by capped logits become those by the logits, as WriteGradients does for long runs.
template <class T>
ONNXLOSS_FOR_MANY void ChainShortRuns(Accumulator<T> cap, Runs<const T> logits, int64_t length,
                                      int64_t n, Runs<Accumulator<T>> gradients) {
  using Acc = Accumulator<T>;
  for (int64_t c = 0; c < n; ++c) {
    for (int64_t i = 0; i < length; ++i) {
      Acc& gradient = gradients[c][i];
      if (gradient != 0) gradient *= SoftCapSlope(Acc{ToFloat(logits[c][i])}, cap);
    }
  }
}

}  // namespace onnxloss::ONNXLOSS_TARGET
