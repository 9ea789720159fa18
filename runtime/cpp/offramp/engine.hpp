// What an engine is: it compiles a stage for a device, and ties the stage to memory in which it then runs again and again.
//
//     StageFile --- compile ---> Compiled --- bind(inputs, outputs) ---> Run --- run() ---> outputs are filled
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "tensor.hpp"

namespace offramp {

// A tensor's memory. A map (N, C, H, W) may lie there as (N, H, W, C), if all stages that share it hold it so.
struct Slot {
  void* data;
  Dtype dtype;
  Shape shape;
  bool channels_last = false;
};

using Slots = std::map<std::string, Slot>;

namespace detail {

// Returns the dtype of an engine's type, by a function that returns the engine's type of a dtype.
template <typename Type, typename TypeOf>
Dtype find_dtype(const Type& type, TypeOf type_of) {
  for (std::size_t i = 0; i < DTYPES.size(); ++i) {
    if (type_of(static_cast<Dtype>(i)) == type) return static_cast<Dtype>(i);
  }
  throw BundleError("A stage gives a tensor of a dtype that no manifest has. Export the network anew.");
}

}  // namespace detail

// A stage that is tied to memory.
class Run {
 public:
  virtual ~Run() = default;
  virtual void run() = 0;
};

class Compiled {
 public:
  virtual ~Compiled() = default;

  // What runs the stage, as the engine reports it.
  virtual std::string runs_on() const = 0;

  // Tells whether the stage holds one of its boundaries as (N, H, W, C).
  virtual bool is_channels_last(const std::string&) const { return false; }

  // Ties memory to the stage, by the names that its file has for its tensors.
  virtual std::unique_ptr<Run> bind(const Slots& inputs, const Slots& outputs) = 0;

  // Runs the stage once into new arrays, for outputs whose shapes are not known before.
  virtual std::map<std::string, Array> infer(const Slots& inputs, const std::vector<std::string>& outputs) = 0;
};

// The file of a stage. Engines read copies, which hold what the manifest says: see `Bundle::copy`.
struct StageFile {
  const Bundle& bundle;
  const Variant& variant;
  std::string file;
  std::optional<std::string> guarded;  // the same stage with guards on its inputs, for ONNX Runtime on x86-64
  std::vector<Tensor> inputs;          // by their names in the file
  std::vector<std::string> outputs;    // those that will be bound
  std::set<std::string> boundaries;    // the inputs and outputs that only stages see
  std::filesystem::path folder;        // a private one for copies, which is there until the stage is compiled
};

class Engine {
 public:
  virtual ~Engine() = default;

  // The device that this engine runs networks on unless another is asked for: `openvino:CPU`.
  virtual std::string default_device() const = 0;

  // The place of this engine that a device is, `CPU` of `openvino:CPU`; none if the device is another engine's.
  virtual std::optional<std::string> find_place(const std::string& device) const = 0;

  // Throws MissingError if the place does not exist, UnsupportedError if it cannot run the stage, BundleError if the engine
  // cannot read the file.
  virtual std::shared_ptr<Compiled> compile(const StageFile& stage, const std::string& place, int threads) = 0;
};

using Engines = std::vector<std::shared_ptr<Engine>>;

}  // namespace offramp
