// The chain tied to memory: which tensor has which name in a stage's file, and where it lies.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "engine.hpp"

namespace offramp::detail {

using Names = std::vector<std::pair<std::string, std::string>>;

// A stage in the chain. Stages that share a file share its names, which are those of the first of them.
struct Link {
  std::shared_ptr<Compiled> compiled;
  std::string device, file;
  Names reads, writes;  // the chain's tensors by the names that the stage's file has for them
  std::vector<Tensor> outputs;
  Exit exit;
  std::vector<std::pair<std::string, Tensor>> parts;  // the tensors of the exit's answer that are read, by name
};

// What runs for a sample at each stage.
struct Step {
  std::unique_ptr<Run> run;
  const float* score;
  const std::int64_t* label;
  std::vector<std::pair<std::string, const Slot*>> parts;
};

// The memory of a chain for one size of its named axes. `tie` makes all but the inputs, in which a sample must lie if there are
// such.
class Memory {
 public:
  Memory(const std::vector<Tensor>& tensors, const std::vector<Shape>& shapes) {
    for (std::size_t i = 0; i < tensors.size(); ++i) inputs.push_back(take(tensors[i].name, tensors[i].dtype, shapes[i]));
  }

  void tie(const std::vector<Link>& links, bool has_named_axes) {
    std::map<std::string, Array> learnt;
    if (has_named_axes) learnt = learn_shapes(links);
    for (const auto& link : links) {
      for (const auto& tensor : link.outputs) {
        take(tensor.name, tensor.dtype, shape_of(tensor, learnt)).channels_last = holds_channels_last(links, tensor.name);
      }
      take(link.exit.score, Dtype::float32, {1});
      if (!link.exit.label.empty()) take(link.exit.label, Dtype::int64, {1});
      for (const auto& part : link.parts) take(part.second.name, part.second.dtype, shape_of(part.second, learnt));
    }
    for (const auto& link : links) {
      Step step{link.compiled->bind(choose(link.reads), choose(link.writes)), nullptr, &NONE, {}};
      step.score = static_cast<const float*>(slots_.at(link.exit.score).data);
      if (!link.exit.label.empty()) step.label = static_cast<const std::int64_t*>(slots_.at(link.exit.label).data);
      for (const auto& [name, tensor] : link.parts) step.parts.emplace_back(name, &slots_.at(tensor.name));
      steps.push_back(std::move(step));
    }
  }

  std::vector<Slot> inputs;
  std::vector<Step> steps;

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };

  static constexpr std::size_t ALIGNMENT = 64;  // a line of the cache, and the widest loads
  static constexpr std::int64_t NONE = NO_LABEL;

  // Returns the memory of a tensor; it is made where there is none.
  Slot& take(const std::string& name, Dtype dtype, const Shape& shape) {
    const auto [at, is_new] = slots_.try_emplace(name, Slot{nullptr, dtype, shape});
    if (is_new) {
      const std::size_t bytes = (count_values(shape) * bytes_of(dtype) / ALIGNMENT + 1) * ALIGNMENT;
      owned_.emplace_back(std::aligned_alloc(ALIGNMENT, bytes));
      if (owned_.back() == nullptr) throw std::bad_alloc();
      std::memset(owned_.back().get(), 0, bytes);
      at->second.data = owned_.back().get();
    }
    return at->second;
  }

  Slots choose(const Names& names) const {
    Slots chosen;
    for (const auto& [in_file, name] : names) chosen.emplace(in_file, slots_.at(name));
    return chosen;
  }

  // Tells whether all stages that share a boundary hold it as (N, H, W, C).
  static bool holds_channels_last(const std::vector<Link>& links, const std::string& name) {
    for (const auto& link : links) {
      for (const Names* names : {&link.reads, &link.writes}) {
        for (const auto& [in_file, in_chain] : *names) {
          if (in_chain == name && !link.compiled->is_channels_last(in_file)) return false;
        }
      }
    }
    return true;
  }

  // Runs the sample once in memory of the engines, and returns what has named axes, or is read on the way there.
  std::map<std::string, Array> learn_shapes(const std::vector<Link>& links) {
    std::map<std::string, Array> known;
    for (const auto& link : links) {
      Slots feeds;
      for (const auto& [in_file, name] : link.reads) {
        const auto at = known.find(name);
        feeds.emplace(in_file,
                      at == known.end() ? slots_.at(name) : Slot{at->second.bytes.data(), at->second.dtype, at->second.shape});
      }
      std::map<std::string, std::string> wanted;
      for (const auto& [in_file, name] : link.writes) {
        const auto is_it = [&name = name](const Tensor& tensor) { return tensor.name == name; };
        const bool is_part = std::any_of(link.parts.begin(), link.parts.end(),
                                         [&](const auto& part) { return is_it(part.second) && !part.second.is_sized(); });
        if (is_part || std::any_of(link.outputs.begin(), link.outputs.end(), is_it)) wanted[in_file] = name;
      }
      std::vector<std::string> outputs;
      for (const auto& each : wanted) outputs.push_back(each.first);
      if (outputs.empty()) continue;
      for (auto& [in_file, array] : link.compiled->infer(feeds, outputs)) known[wanted.at(in_file)] = std::move(array);
    }
    return known;
  }

  // Returns a tensor's shape for one sample, the sizes of its named axes taken from what was learnt.
  static Shape shape_of(const Tensor& tensor, const std::map<std::string, Array>& learnt) {
    Shape shape = tensor.single();
    if (tensor.is_sized()) return shape;
    const auto& found = learnt.at(tensor.name).shape;
    if (found.size() != shape.size())
      throw BundleError("The tensor " + quote(tensor.name) + " has other axes than in the manifest.");
    for (std::size_t i = 0; i < shape.size(); ++i) {
      if (shape[i] == Axis::NAMED) shape[i] = found[i];
    }
    return shape;
  }

  Slots slots_;
  std::vector<std::unique_ptr<void, Free>> owned_;
};

}  // namespace offramp::detail
