// The manifest of a bundle: its parts as types.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor.hpp"

namespace offramp {

// The threshold that no score reaches: the exit is never taken.
inline constexpr double NEVER = 2.0;

// The label in results of a network that does not classify.
inline constexpr std::int64_t NO_LABEL = -1;

// The part of the network that runs between two exits: one graph.
struct Stage {
  std::string file;
  std::vector<Tensor> inputs, outputs;
  std::int64_t macs = 0;
  std::optional<std::string> guarded;

  // Tells whether this stage's file can run as another stage: numbers, dtypes and shapes of their tensors agree.
  bool serves(const Stage& other) const {
    const auto fit = [](const Tensor& a, const Tensor& b) { return a.fits(b); };
    return inputs.size() == other.inputs.size() && outputs.size() >= other.outputs.size() &&
           std::equal(inputs.begin(), inputs.end(), other.inputs.begin(), fit) &&
           std::equal(other.outputs.begin(), other.outputs.end(), outputs.begin(), fit);
  }
};

// One exit of a variant, with the names of its outputs. `answer` has what it gives by name, if the network does not classify.
struct Exit {
  std::string name, logits, score, label, static_file;
  std::int64_t macs = 0;
  double temperature = 1.0;
  std::vector<std::pair<std::string, Tensor>> answer;

  // The outputs that make up its answer, by name: `answer`, or its logits of so many classes.
  std::vector<std::pair<std::string, Tensor>> parts(std::int64_t classes) const {
    if (!answer.empty()) return answer;
    return {{"logits", Tensor{logits, Dtype::float32, {{Axis::BATCH, ""}, {classes, ""}}}}};
  }
};

// The size of a file and the sha256 of its content.
struct FileFacts {
  std::int64_t bytes = 0;
  std::string sha256;
};

// One form of the network. File names are relative to its folder.
struct Variant {
  std::string name, folder, precision, rule, weights, whole, golden;
  std::vector<Stage> stages;
  std::vector<Exit> exits;
  std::map<std::string, FileFacts> files;
  std::string digest;
};

// The contents of a bundle.
struct Manifest {
  std::int64_t classes = 0;
  std::optional<std::vector<std::string>> class_names;
  std::vector<Tensor> inputs;
  std::vector<Variant> variants;
  std::map<std::string, std::int64_t> table_rows;
};

namespace detail {

inline constexpr std::int64_t SCHEMA = 3, OLDEST_SCHEMA = 2, MOST_CLASSES = 1 << 24, MOST_VALUES = 1 << 28;
inline constexpr std::size_t MOST_VARIANTS = 500, MOST_EXITS = 1000, MOST_FILES = 10'000, MOST_IN_NAME = 255, MOST_AXES = 32,
                             MOST_NAMED = 1000, MOST_CHANNELS = 10'000;

}  // namespace detail
}  // namespace offramp
