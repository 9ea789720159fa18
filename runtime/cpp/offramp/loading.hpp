// From a bundle on disk to a network that runs.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "network.hpp"
#include "selection.hpp"

namespace offramp {

namespace detail {

// Returns the stages and exits that run: a variant's chain, or the static network to one of its exits.
inline std::pair<std::vector<Stage>, std::vector<Exit>> list_parts(const Manifest& manifest, const Variant& variant,
                                                                   const OperatingPoint* point) {
  if (point == nullptr || !point->static_exit) return {variant.stages, variant.exits};
  const Exit& end = variant.exits[static_cast<std::size_t>(*point->static_exit)];
  return {{Stage{end.static_file, manifest.inputs, {}, end.macs, std::nullopt}}, {end}};
}

// Returns a device for each stage.
inline std::vector<std::string> list_devices(const Options& options, const Engines& engines, const OperatingPoint* point,
                                             std::size_t stages) {
  std::vector<std::string> devices = options.devices;
  if (devices.empty() && point != nullptr) devices = point->placement;
  if (devices.empty() && !engines.empty()) devices = {engines[0]->default_device()};
  if (devices.size() == 1) devices.resize(stages, devices[0]);
  if (devices.size() != stages) {
    throw UsageError("There are " + std::to_string(devices.size()) + " devices for " + std::to_string(stages) +
                     " stages: give one for all, or one for each.");
  }
  return devices;
}

inline std::pair<Engine*, std::string> find_engine(const Engines& engines, const std::string& device) {
  std::string known;
  for (const auto& engine : engines) {
    if (const auto place = engine->find_place(device)) return {engine.get(), *place};
    known += (known.empty() ? "" : ", ") + engine->default_device();
  }
  throw MissingError("No engine of this program runs the device " + quote(device) + ". Give another by `devices`, such as " +
                     known + ", or give `load` the engine.");
}

// Compiles the stages, each file once for each of its devices, and joins them to the chain's tensors.
inline std::vector<Link> compile_links(const Bundle& bundle, const Variant& variant, const std::vector<Stage>& stages,
                                       const std::vector<Exit>& exits, const std::vector<std::string>& devices,
                                       const Engines& engines, const Options& options) {
  const PrivateFolder folder;
  const std::int64_t classes = bundle.manifest().classes;
  const bool reads_parts = options.logits || classes == 0;
  std::map<std::pair<std::string, std::string>, std::shared_ptr<Compiled>> compiled;
  std::map<std::string, std::size_t> first;
  std::set<std::string> seen_outside;
  for (const auto& tensor : bundle.manifest().inputs) seen_outside.insert(tensor.name);
  for (const auto& exit : exits) {
    for (const auto& part : exit.parts(classes)) seen_outside.insert(part.second.name);
  }
  std::vector<Link> links;
  for (std::size_t k = 0; k < stages.size(); ++k) {
    const std::size_t owner = first.emplace(stages[k].file, k).first->second;
    const Stage& in_file = stages[owner];
    const Exit& exit_in_file = exits[owner];
    Link link{nullptr, devices[k], stages[k].file, {}, {}, stages[k].outputs, exits[k], {}};
    if (reads_parts) link.parts = exits[k].parts(classes);
    for (std::size_t i = 0; i < stages[k].inputs.size(); ++i)
      link.reads.emplace_back(in_file.inputs[i].name, stages[k].inputs[i].name);
    // The last pass of a loop has no later stage, so the file's other outputs are not bound.
    for (std::size_t i = 0; i < stages[k].outputs.size(); ++i)
      link.writes.emplace_back(in_file.outputs[i].name, stages[k].outputs[i].name);
    const auto add = [&](const std::string& name_in_file, const std::string& name) {
      const std::pair<std::string, std::string> pair(name_in_file, name);
      if (std::find(link.writes.begin(), link.writes.end(), pair) == link.writes.end()) link.writes.push_back(pair);
    };
    add(exit_in_file.score, exits[k].score);
    if (classes > 0) add(exit_in_file.label, exits[k].label);
    const auto parts_in_file = exit_in_file.parts(classes);
    for (std::size_t i = 0; i < link.parts.size(); ++i) add(parts_in_file[i].second.name, link.parts[i].second.name);
    auto& shared = compiled[{stages[k].file, devices[k]}];
    if (shared == nullptr) {
      StageFile file{bundle, variant, in_file.file, in_file.guarded, in_file.inputs, {}, {}, folder.path()};
      std::set<std::string> outputs;
      for (const auto& tensor : in_file.outputs) outputs.insert(tensor.name);
      for (const auto* tensors : {&in_file.inputs, &in_file.outputs}) {
        for (const auto& tensor : *tensors) {
          if (seen_outside.count(tensor.name) == 0) file.boundaries.insert(tensor.name);
        }
      }
      outputs.insert(exit_in_file.score);
      if (classes > 0) outputs.insert(exit_in_file.label);
      if (reads_parts) {
        for (const auto& part : parts_in_file) outputs.insert(part.second.name);
      }
      file.outputs.assign(outputs.begin(), outputs.end());
      const auto [engine, place] = find_engine(engines, devices[k]);
      shared = engine->compile(file, place, options.threads);
    }
    link.compiled = shared;
    links.push_back(std::move(link));
  }
  return links;
}

}  // namespace detail

// Loads a bundle to run on engines, such as `load("digits.offramp", {offramp::openvino()})`. The bundle's signatures are not
// read: what its files hold is compared with the hashes in its manifest.
//
// Throws UsageError, BundleError and MissingError.
inline Network load(const std::filesystem::path& path, const Engines& engines, const Options& options = {}) {
  if (options.threads < 1 || options.threads > 512)
    throw UsageError("threads is a whole number from 1 to 512, not " + std::to_string(options.threads) + ".");
  if (engines.empty()) throw UsageError("load takes one engine or more, such as offramp::openvino().");
  Network net;
  net.bundle_ = std::make_shared<const Bundle>(path);
  const Manifest& manifest = net.bundle_->manifest();
  auto [variant, calibration, name, notices] = detail::choose_point(*net.bundle_, options);
  const OperatingPoint* const point = calibration ? calibration->find(name) : nullptr;
  const auto [stages, exits] = detail::list_parts(manifest, *variant, point);
  const auto devices = detail::list_devices(options, engines, point, stages.size());
  net.links_ = detail::compile_links(*net.bundle_, *variant, stages, exits, devices, engines, options);
  for (const auto& tensor : manifest.inputs) {
    const auto rows = manifest.table_rows.find(tensor.name);
    net.inputs_.emplace_back(tensor, rows == manifest.table_rows.end() ? 0 : rows->second);
    net.named_ = net.named_ || !tensor.is_sized();
  }
  net.thresholds_.assign(exits.size() - 1, NEVER);
  if (point != nullptr) {
    net.thresholds_ = point->thresholds;
    net.first_exit_ = static_cast<std::size_t>(point->static_exit.value_or(0));
    net.points_ = calibration->points;
    net.in_use_ = static_cast<std::size_t>(point - calibration->points.data());
    for (const auto& chain : calibration->chains) {
      const bool is_it = !point->static_exit && chain.variant == point->variant && chain.placement == devices;
      if (is_it && net.latencies_.empty()) net.latencies_ = chain.exits;
    }
    if (devices != point->placement) {
      std::string here, there;
      for (const auto& device : devices) here += (here.empty() ? "" : ", ") + device;
      for (const auto& device : point->placement) there += (there.empty() ? "" : ", ") + device;
      notices.push_back("The stages run on " + detail::quote(here) + ", but were calibrated on " + detail::quote(there) +
                        ": the calibration's latencies do not hold here. Point " + detail::quote(name) +
                        " is in use. Calibrate with these devices.");
    }
  }
  net.notices_ = std::move(notices);
  if (!net.named_) {
    std::vector<Shape> shapes;
    for (const auto& tensor : manifest.inputs) shapes.push_back(tensor.single());
    net.kept_.push_front({shapes, std::make_unique<detail::Memory>(manifest.inputs, shapes)});
    net.memory_ = net.kept_.front().memory.get();
    net.memory_->tie(net.links_, false);
  }
  return net;
}

}  // namespace offramp
