// Stages on OpenVINO: `openvino:CPU`, `openvino:GPU`, `openvino:NPU`. Each is compiled for one sample.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <openvino/op/avg_pool.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/parameter.hpp>
#include <openvino/op/result.hpp>
#include <openvino/op/transpose.hpp>
#include <openvino/openvino.hpp>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "engine.hpp"

namespace offramp {

namespace detail {

// Ends the name of an input or output of a compiled stage that holds a map as (N, H, W, C).
inline const std::string CHANNELS_LAST = " channels last";

inline const ov::element::Type& ov_type(Dtype dtype) {
  static const std::array<ov::element::Type, 12> TYPES = {
      ov::element::f16, ov::element::f32, ov::element::f64, ov::element::i8,  ov::element::i16, ov::element::i32,
      ov::element::i64, ov::element::u8,  ov::element::u16, ov::element::u32, ov::element::u64, ov::element::boolean};
  return TYPES[static_cast<std::size_t>(dtype)];
}

// Returns the line of OpenVINO's errors that is meant for people.
inline std::string ov_reason(const std::exception& error) {
  std::istringstream lines(error.what());
  for (std::string line; std::getline(lines, line);) {
    const auto start = line.find_first_not_of(" \t\r");
    if (start != std::string::npos && line.compare(start, 14, "Exception from") != 0)
      return quote(line.substr(start), MOST_REASON);
  }
  return "OpenVINO does not say why.";
}

// Copies a map from (N, C, H, W) to (N, H, W, C), or back.
inline void turn_map(const float* from, float* to, const Shape& shape, bool to_channels_last) {
  const auto channels = static_cast<std::size_t>(shape[1]), pixels = static_cast<std::size_t>(shape[2] * shape[3]);
  for (std::size_t n = 0; n < static_cast<std::size_t>(shape[0]); ++n) {
    const std::size_t start = n * channels * pixels;
    for (std::size_t c = 0; c < channels; ++c) {
      for (std::size_t p = 0; p < pixels; ++p) {
        const std::size_t first = start + c * pixels + p, last = start + p * channels + c;
        to[to_channels_last ? last : first] = from[to_channels_last ? first : last];
      }
    }
  }
}

class OpenVinoRun : public Run {
 public:
  struct Turn {
    ov::Tensor ours;
    Slot theirs;
  };

  OpenVinoRun(ov::InferRequest request, std::vector<Turn> before, std::vector<Turn> after)
      : request_(std::move(request)), before_(std::move(before)), after_(std::move(after)) {}

  void run() override {
    for (auto& each : before_) turn_map(static_cast<float*>(each.theirs.data), each.ours.data<float>(), each.theirs.shape, true);
    request_.infer();
    for (auto& each : after_) turn_map(each.ours.data<float>(), static_cast<float*>(each.theirs.data), each.theirs.shape, false);
  }

 private:
  ov::InferRequest request_;
  std::vector<Turn> before_, after_;
};

class OpenVinoStage : public Compiled {
 public:
  OpenVinoStage(ov::CompiledModel compiled, std::string runs_on) : compiled_(std::move(compiled)), runs_on_(std::move(runs_on)) {
    for (const auto& ports : {compiled_.inputs(), compiled_.outputs()}) {
      for (const auto& port : ports) {
        for (const auto& name : port.get_names()) {
          const auto at = name.rfind(CHANNELS_LAST);
          if (at != std::string::npos && at + CHANNELS_LAST.size() == name.size()) turned_.insert(name.substr(0, at));
        }
      }
    }
  }

  std::string runs_on() const override { return runs_on_; }
  bool is_channels_last(const std::string& name) const override { return turned_.count(name) != 0; }

  std::unique_ptr<Run> bind(const Slots& inputs, const Slots& outputs) override {
    std::vector<OpenVinoRun::Turn> turns[2];
    try {
      ov::InferRequest request = compiled_.create_infer_request();
      for (const bool is_output : {false, true}) {
        for (const auto& [name, slot] : is_output ? outputs : inputs) {
          if (!is_channels_last(name)) {
            request.set_tensor(name, ov::Tensor(ov_type(slot.dtype), to_ov(slot.shape), slot.data));
            continue;
          }
          const ov::Shape turned = to_ov({slot.shape[0], slot.shape[2], slot.shape[3], slot.shape[1]});
          ov::Tensor tensor =
              slot.channels_last ? ov::Tensor(ov::element::f32, turned, slot.data) : ov::Tensor(ov::element::f32, turned);
          request.set_tensor(name + CHANNELS_LAST, tensor);
          if (!slot.channels_last) turns[is_output].push_back({tensor, slot});
        }
      }
      return std::make_unique<OpenVinoRun>(std::move(request), std::move(turns[0]), std::move(turns[1]));
    } catch (const std::exception& error) {
      throw BundleError("A stage and its manifest do not fit together: " + ov_reason(error) + " Export the network anew.");
    }
  }

  // Is asked for stages with open shapes alone, whose maps lie as they are.
  std::map<std::string, Array> infer(const Slots& inputs, const std::vector<std::string>& outputs) override {
    ov::InferRequest request = compiled_.create_infer_request();
    for (const auto& [name, slot] : inputs)
      request.set_tensor(name, ov::Tensor(ov_type(slot.dtype), to_ov(slot.shape), slot.data));
    request.infer();
    std::map<std::string, Array> arrays;
    for (const auto& name : outputs) {
      const ov::Tensor tensor = request.get_tensor(name);
      const ov::Shape shape = tensor.get_shape();
      Array array{find_dtype(tensor.get_element_type(), ov_type), Shape(shape.begin(), shape.end()), {}};
      const auto* data = static_cast<const std::byte*>(tensor.data());
      array.bytes.assign(data, data + tensor.get_byte_size());
      arrays.emplace(name, std::move(array));
    }
    return arrays;
  }

 private:
  static ov::Shape to_ov(const Shape& shape) { return ov::Shape(shape.begin(), shape.end()); }

  ov::CompiledModel compiled_;
  std::string runs_on_;
  std::set<std::string> turned_;
};

}  // namespace detail

class OpenVino : public Engine {
 public:
  std::string default_device() const override { return "openvino:CPU"; }

  std::optional<std::string> find_place(const std::string& device) const override {
    const std::string prefix = "openvino:";
    if (device.compare(0, prefix.size(), prefix) != 0 || device.size() == prefix.size()) return std::nullopt;
    return device.substr(prefix.size());
  }

  std::shared_ptr<Compiled> compile(const StageFile& stage, const std::string& place, int threads) override {
    check_place(place);
    const std::string path = (stage.bundle.path() / stage.variant.folder / stage.file).string();
    const ov::AnyMap settings = make_settings(place, threads);
    stage.bundle.copy(stage.variant, stage.variant.weights, stage.folder);
    const auto copy = stage.bundle.copy(stage.variant, stage.file, stage.folder);
    std::shared_ptr<ov::Model> model;
    try {
      const auto whole = core_.read_model(copy.string());
      ov::ResultVector results;
      for (const auto& name : stage.outputs) {
        results.push_back(std::dynamic_pointer_cast<ov::op::v0::Result>(whole->output(name).get_node_shared_ptr()));
      }
      model = std::make_shared<ov::Model>(results, whole->get_parameters(), stage.file);
    } catch (const std::exception& error) {
      throw BundleError("OpenVINO cannot load " + path + ": " + detail::ov_reason(error));
    }
    ov::CompiledModel compiled;
    try {
      compiled = compile_model(stage, model, place, settings);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw UnsupportedError("OpenVINO cannot run " + path + " on " + place + ": " + detail::ov_reason(error));
    }
    return std::make_shared<detail::OpenVinoStage>(compiled, name_devices(compiled, place, path));
  }

 private:
  void check_place(const std::string& place) {
    std::string found;
    for (const auto& name : core_.get_available_devices()) {
      if (name == place || name.compare(0, place.size() + 1, place + ".") == 0) return;
      found += (found.empty() ? "" : ", ") + name;
    }
    throw MissingError("OpenVINO finds no device " + detail::quote(place) + " here; it finds " +
                       (found.empty() ? "none" : found) +
                       ". Its driver must be installed and the user be allowed to use it (group render).");
  }

  // Returns what really runs a stage, as OpenVINO reports it.
  static std::string name_devices(const ov::CompiledModel& compiled, const std::string& place, const std::string& path) {
    std::string devices;
    bool is_there = true;
    for (const auto& name : compiled.get_property(ov::execution_devices)) {
      is_there = is_there && (name == place || name.substr(0, name.find('.')) == place);
      devices += (devices.empty() ? "" : ", ") + name;
    }
    if (devices.empty() || !is_there) {
      throw MissingError("openvino:" + place + " was asked for, but OpenVINO runs " + path + " on " + devices + ".");
    }
    return std::string("OpenVINO ") + ov::get_openvino_version().buildNumber + ", " + devices;
  }

  // ACCURACY keeps the precision of the graph, and with it the scores. Threads are not pinned to cores, since two networks in two
  // threads might be pinned to the same core.
  ov::AnyMap make_settings(const std::string& place, int threads) {
    ov::AnyMap settings = {ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                           ov::hint::execution_mode(ov::hint::ExecutionMode::ACCURACY), ov::num_streams(1),
                           ov::inference_num_threads(threads), ov::hint::enable_cpu_pinning(false)};
    ov::AnyMap known;
    for (const auto& name : core_.get_property(place, ov::supported_properties)) {
      const auto found = settings.find(name);
      if (found != settings.end() && name.is_mutable()) known.insert(*found);
    }
    return known;
  }

  ov::CompiledModel compile_model(const StageFile& stage, const std::shared_ptr<ov::Model>& model, const std::string& place,
                                  const ov::AnyMap& settings) {
    const bool is_sized =
        std::all_of(stage.inputs.begin(), stage.inputs.end(), [](const Tensor& each) { return each.is_sized(); });
    if (is_sized && !(place == "CPU" && (repeats_weights(*model) || subtracts_from_products(*model)))) {
      std::map<std::string, ov::PartialShape> shapes;
      for (const auto& tensor : stage.inputs) {
        const Shape single = tensor.single();
        shapes[tensor.name] = ov::Shape(single.begin(), single.end());
      }
      model->reshape(shapes);  // named axes stay open, and then the batch must too
      if (place == "CPU") return compile_channels_last(model, stage.boundaries, settings);
    }
    return core_.compile_model(model, place, settings);
  }

  // Compiles a model of fixed shapes for the CPU with its boundaries' maps channels last, where its convolutions have them so:
  // else each stage would transpose what it reads and writes. A map that the compiled model transposes all the same stays as it
  // is.
  ov::CompiledModel compile_channels_last(const std::shared_ptr<ov::Model>& model, const std::set<std::string>& boundaries,
                                          const ov::AnyMap& settings) {
    std::set<std::string> maps;
    const auto note = [&](const ov::Output<ov::Node>& port) {
      if (port.get_shape().size() != 4 || port.get_element_type() != ov::element::f32) return;
      for (const auto& name : port.get_names()) {
        if (boundaries.count(name) != 0) maps.insert(name);
      }
    };
    for (const auto& node : model->get_parameters()) note(node->output(0));
    for (const auto& node : model->get_results()) note(node->input_value(0));
    while (!maps.empty()) {
      ov::CompiledModel compiled = core_.compile_model(turn(*model, maps), "CPU", settings);
      const std::size_t before = maps.size();
      for (const auto& node : compiled.get_runtime_model()->get_ops()) {
        const auto& info = node->get_rt_info();
        if (info.at("layerType").as<std::string>() != "Transpose") continue;
        std::istringstream names(info.at("originalLayersNames").as<std::string>());
        for (std::string name; std::getline(names, name, ',');) {
          const auto at = name.rfind(detail::CHANNELS_LAST);
          maps.erase(at == std::string::npos ? name : name.substr(0, at));
        }
      }
      if (maps.size() == before) return compiled;
    }
    return core_.compile_model(model, "CPU", settings);
  }

  static ov::Output<ov::Node> transpose(const ov::Output<ov::Node>& value, const std::string& name,
                                        const std::vector<int64_t>& order) {
    const auto axes = ov::op::v0::Constant::create(ov::element::i64, {order.size()}, order);
    const auto node = std::make_shared<ov::op::v1::Transpose>(value, axes);
    node->set_friendly_name(name + detail::CHANNELS_LAST);
    return node->output(0);
  }

  // Returns a copy of a model whose named inputs and outputs are channels last. Their names end in CHANNELS_LAST.
  static std::shared_ptr<ov::Model> turn(const ov::Model& model, const std::set<std::string>& maps) {
    const auto copy = model.clone();
    ov::ParameterVector parameters = copy->get_parameters();
    ov::ResultVector results = copy->get_results();
    const auto find_name = [&](const ov::Output<ov::Node>& port) {
      for (const auto& name : port.get_names()) {
        if (maps.count(name) != 0) return name;
      }
      return std::string();
    };
    for (auto& parameter : parameters) {
      ov::Output<ov::Node> port = parameter->output(0);
      const std::string name = find_name(port);
      if (name.empty()) continue;
      const ov::Shape shape = port.get_shape();
      parameter = std::make_shared<ov::op::v0::Parameter>(ov::element::f32, ov::Shape{shape[0], shape[2], shape[3], shape[1]});
      parameter->output(0).set_names({name + detail::CHANNELS_LAST});
      port.set_names({});
      const auto turned = transpose(parameter, name, {0, 3, 1, 2});
      for (auto reader : port.get_target_inputs()) reader.replace_source_output(turned);
    }
    for (auto& result : results) {
      const ov::Output<ov::Node> port = result->input_value(0);
      const std::string name = find_name(port);
      if (name.empty()) continue;
      // The pooling changes nothing. Right behind an addition that is part of a convolution, OpenVINO would transpose.
      const auto pooled = std::make_shared<ov::op::v1::AvgPool>(port, ov::Strides{1, 1}, ov::Shape{0, 0}, ov::Shape{0, 0},
                                                                ov::Shape{1, 1}, false);
      ov::Output<ov::Node> turned = transpose(pooled, name, {0, 2, 3, 1});
      turned.set_names({name + detail::CHANNELS_LAST});
      result = std::make_shared<ov::op::v0::Result>(turned);
    }
    return std::make_shared<ov::Model>(results, parameters, model.get_friendly_name());
  }

  // With fixed shapes and one thread OpenVINO 2026.4.1 crashes the process when it compiles a graph for the CPU in which several
  // layers use the same weights, as the passes of a loop do.
  static bool repeats_weights(const ov::Model& model) {
    static const std::set<std::string> LAYERS = {"MatMul", "Convolution", "GroupConvolution"};
    for (const auto& node : model.get_ops()) {
      if (std::string(node->get_type_name()) != "Constant") continue;
      std::size_t layers = 0;
      for (const auto& target : node->output(0).get_target_inputs()) layers += LAYERS.count(target.get_node()->get_type_name());
      if (layers > 1) return true;
    }
    return false;
  }

  // Nor does it compile one in which something that is no constant is subtracted from, or divides, what two matrix products in a
  // row give, unless a value in between is used twice.
  static bool subtracts_from_products(const ov::Model& model) {
    for (const auto& node : model.get_ops()) {
      const std::string type = node->get_type_name();
      if (type != "Subtract" && type != "Divide") continue;
      auto value = node->input_value(0);
      std::size_t products = 0;
      while (value.get_node()->get_input_size() > 0 && count_users(value) == 1) {
        products += std::string(value.get_node()->get_type_name()) == "MatMul";
        value = value.get_node()->input_value(0);
      }
      if (products > 1 && std::string(node->input_value(1).get_node()->get_type_name()) != "Constant") return true;
    }
    return false;
  }

  // Counts the nodes that read a value, outputs of the graph left out.
  static std::size_t count_users(const ov::Output<ov::Node>& value) {
    const auto targets = value.get_target_inputs();
    return static_cast<std::size_t>(std::count_if(targets.begin(), targets.end(), [](const ov::Input<ov::Node>& target) {
      return std::string(target.get_node()->get_type_name()) != "Result";
    }));
  }

  ov::Core core_;
};

// Returns the engine, for `load`.
inline std::shared_ptr<Engine> openvino() { return std::make_shared<OpenVino>(); }

}  // namespace offramp
