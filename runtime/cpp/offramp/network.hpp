// The loaded network: call it with samples, switch its operating point.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bundle.hpp"
#include "deadlines.hpp"
#include "engine.hpp"
#include "memory.hpp"
#include "selection.hpp"

namespace offramp {

// The answer to one sample.
struct Result {
  std::int64_t label;  // -1 if the network does not classify
  float score;
  std::size_t exit;  // the number of the exit where the sample left, counted from 0 in the variant; of a static network its own
  double latency_s;
  bool cut = false;   // the sample would have gone on, but for its deadline
  bool late = false;  // the answer came after its deadline
  std::map<std::string, Array> answer;  // what the exit gives by name, without the batch axis; `logits` if they were asked for
};

inline constexpr double NO_DEADLINE = std::numeric_limits<double>::infinity();

// A loaded network, made by `load`. It runs one call at a time: load one for each thread.
class Network {
 public:
  Network(Network&&) = default;
  Network& operator=(Network&&) = default;

  // Runs one sample.
  //
  // With a deadline, a time in seconds from call to answer, a stage that may end later is not started: the exit before it answers,
  // and the result is `cut`. The first stage always runs, so a result may be `late`.
  //
  // Throws DataError if the sample has another shape or dtype, holds NaN or infinity, or an index beyond its table; BundleError if a
  // stage runs for no sample, or answers what no exit can.
  Result operator()(const View& sample, double deadline_s = NO_DEADLINE) { return run(&sample, 1, deadline_s); }

  // Runs one sample of several inputs, in the order of `inputs`.
  Result run(const std::vector<View>& sample, double deadline_s = NO_DEADLINE) { return run(sample.data(), sample.size(), deadline_s); }

  const Bundle& bundle() const { return *bundle_; }
  const std::vector<Tensor>& inputs() const { return inputs_; }
  std::size_t exits() const { return links_.size(); }

  // What runs each stage: its device, and what the engine reports.
  std::vector<std::pair<std::string, std::string>> stages() const {
    std::vector<std::pair<std::string, std::string>> found;
    for (const auto& link : links_) found.emplace_back(link.device, link.compiled->runs_on());
    return found;
  }

  // What is to be known of this network: that it runs uncalibrated, say, or elsewhere than it was calibrated.
  const std::vector<std::string>& notices() const { return notices_; }

  // The operating points of its calibration, between which `use` switches, and the one in use; null without a calibration.
  const std::vector<OperatingPoint>& points() const { return points_; }
  const OperatingPoint* point() const { return in_use_ < points_.size() ? &points_[in_use_] : nullptr; }

  // Switches to another operating point, between two calls.
  void use(const std::string& name) {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < points_.size(); ++i) {
      names.push_back(points_[i].name);
      if (points_[i].name != name) continue;
      const OperatingPoint &chosen = points_[i], &current = *point();
      if (chosen.variant != current.variant || chosen.static_exit != current.static_exit || chosen.placement != current.placement) {
        throw UsageError("The operating point " + detail::quote(name) + " runs another network or on other devices than this one. Load it anew.");
      }
      thresholds_ = chosen.thresholds;
      in_use_ = i;
      return;
    }
    throw detail::unknown_name("operating point", name, names);
  }

  // One threshold for each exit but the last, which always accepts. NEVER means never.
  const std::vector<double>& thresholds() const { return thresholds_; }

  void set_thresholds(const std::vector<double>& values) {
    if (values.size() + 1 != exits()) {
      throw UsageError(exits() == 1 ? "This is a static network: it has one exit and takes no threshold."
                                    : std::to_string(exits()) + " exits take " + std::to_string(exits() - 1) + " thresholds, not " +
                                          std::to_string(values.size()) + ".");
    }
    for (const double value : values) {
      if (!(value >= 0 && value <= NEVER)) throw UsageError("Thresholds lie between 0 and 2.0 (never), not " + std::to_string(value) + ".");
    }
    for (std::size_t k = 0; k < values.size(); ++k) thresholds_[k] = static_cast<float>(values[k]);  // as scores are
  }

 private:
  friend Network load(const std::filesystem::path&, const Engines&, const Options&);

  using Clock = std::chrono::steady_clock;

  static constexpr float LEAST_SCORE = -0.02f, MOST_SCORE = 1.02f;  // half precision may lead so far beyond 0 and 1
  static constexpr std::size_t MOST_LENGTHS = 8;  // memory is kept for so many sizes of named axes

  struct Kept {
    std::vector<Shape> shapes;
    std::unique_ptr<detail::Memory> memory;
  };

  Network() = default;

  static double count_s(Clock::time_point from, Clock::time_point to) { return std::chrono::duration<double>(to - from).count(); }

  Result run(const View* sample, std::size_t count, double deadline_s) {
    const auto start = Clock::now();
    if (!(deadline_s > 0)) throw UsageError("deadline_s is a number of seconds above 0, not " + std::to_string(deadline_s) + ".");
    put(sample, count);
    auto& steps = memory_->steps;
    std::size_t k = 0;
    if (deadline_s == NO_DEADLINE) {
      for (;; ++k) {
        run_stage(k);
        if (k + 1 == steps.size() || *steps[k].score >= thresholds_[k]) break;
      }
      return answer(k, start, NO_DEADLINE, false);
    }
    if (!limits_) limits_ = detail::StageLimits(exits(), latencies_);
    bool cut = false;
    auto now = Clock::now();
    for (;; ++k) {
      if (k > 0 && count_s(start, now) + limits_->limit_s(k) + end_s_ > deadline_s) {
        limits_->pass_over(k--);
        cut = true;
        break;
      }
      run_stage(k);
      const auto before = std::exchange(now, Clock::now());
      limits_->note(k, count_s(before, now));
      if (k + 1 == steps.size() || *steps[k].score >= thresholds_[k]) break;
    }
    Result result = answer(k, start, deadline_s, cut);
    end_s_ = std::min(result.latency_s - count_s(start, now), 2 * end_s_ + 1e-6);  // one long pause there is chance
    return result;
  }

  Result answer(std::size_t k, Clock::time_point start, double deadline_s, bool cut) const {
    const auto& step = memory_->steps[k];
    const float score = *step.score;
    const std::int64_t label = *step.label, classes = bundle_->manifest().classes;
    if (!(score >= LEAST_SCORE && score <= MOST_SCORE) || (classes > 0 && !(label >= 0 && label < classes))) refuse_answer(k);
    Result result{label, score, first_exit_ + k, 0, cut, false, {}};
    for (const auto& [name, slot] : step.parts) {
      const auto* data = static_cast<const std::byte*>(slot->data);
      const std::size_t bytes = count_values(slot->shape) * bytes_of(slot->dtype);
      result.answer.emplace(name, Array{slot->dtype, Shape(slot->shape.begin() + 1, slot->shape.end()), {data, data + bytes}});
    }
    result.latency_s = count_s(start, Clock::now());
    result.late = result.latency_s > deadline_s;
    return result;
  }

  [[noreturn]] void refuse_answer(std::size_t k) const {
    const auto& step = memory_->steps[k];
    const auto classes = bundle_->manifest().classes;
    const std::string where = detail::quote(links_[k].file) + " on " + links_[k].device, score = std::to_string(*step.score);
    if (std::isnan(*step.score)) {
      throw DataError("The network's answer to the sample is not a number, though every value of the sample is finite (" + where +
                      "): weights that are NaN, a division by zero or an overflow within the network make it so.");
    }
    const std::string given = classes == 0 ? "score " + score : "label " + std::to_string(*step.label) + " and score " + score;
    const std::string range = classes == 0 ? "scores run" : "labels run from 0 to " + std::to_string(classes - 1) + " and scores";
    throw BundleError(where + " answers the sample with " + given + ", but " + range +
                      " from 0 to 1. The file is not what was exported, the engine computes it wrongly, or a gate of the network itself "
                      "leaves that range. Run: offramp verify");
  }

  void run_stage(std::size_t k) {
    try {
      memory_->steps[k].run->run();
    } catch (const std::exception& error) {
      explain(error, k);
    }
  }

  // Throws the error for a sample that stage k cannot run. If it can run zeros, the values are to blame.
  [[noreturn]] void explain(const std::exception& error, std::size_t k) {
    const std::string said = detail::quote(error.what(), 400), file = detail::quote(links_[k].file);
    if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) throw MissingError("Memory ran out in " + file + ": " + said);
    try {
      for (const auto& slot : memory_->inputs) std::memset(slot.data, 0, count_values(slot.shape) * bytes_of(slot.dtype));
      for (std::size_t i = 0; i <= k; ++i) memory_->steps[i].run->run();
    } catch (const std::exception&) {
      if (named_) throw DataError("The engine cannot run this sample: " + said + " Nor can it run zeros of the same shape: is a sequence too short or long?");
      throw BundleError(file + " on " + links_[k].device + " cannot run any sample, not even zeros: " + said +
                        " It does not fit the manifest, or the engine fails. Run: offramp verify");
    }
    throw DataError("The engine cannot run this sample: " + said + " It can run zeros of the same shape: is a value out of range?");
  }

  // Copies a sample into the inputs' memory.
  void put(const View* sample, std::size_t count) {
    if (count != inputs_.size()) {
      throw DataError("The network takes " + std::to_string(inputs_.size()) + " inputs, not " + std::to_string(count) + ".");
    }
    std::map<std::string, std::int64_t> lengths;
    for (std::size_t i = 0; i < count; ++i) check_form(sample[i], inputs_[i], lengths);
    if (named_) turn_to(sample);
    for (std::size_t i = 0; i < count; ++i) copy_in(sample[i], i);
    if (memory_->steps.empty()) learn();
  }

  // Uses the memory for the shapes of a sample. For new shapes it is made, and tied once the sample lies in it.
  void turn_to(const View* sample) {
    std::vector<Shape> shapes;
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      Shape shape = sample[i].shape();
      const std::size_t axis = inputs_[i].batch_axis();
      if (shape.size() < inputs_[i].shape.size()) shape.insert(shape.begin() + static_cast<std::ptrdiff_t>(axis), 1);
      shapes.push_back(std::move(shape));
    }
    if (!kept_.empty() && kept_.front().shapes == shapes) return;
    const auto at = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& each) { return each.shapes == shapes; });
    if (at != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, at);
    } else {
      kept_.push_front({shapes, std::make_unique<detail::Memory>(inputs_, shapes)});
      if (kept_.size() > MOST_LENGTHS) kept_.pop_back();
    }
    memory_ = kept_.front().memory.get();
  }

  void learn() {
    try {
      memory_->tie(links_, true);
    } catch (const Error&) {
      kept_.pop_front();
      throw;
    } catch (const std::exception& error) {
      kept_.pop_front();
      throw DataError("The engine cannot run this sample: " + detail::quote(error.what(), 400) + " Is a sequence too short or long?");
    }
  }

  // Sees that a sample has an input's dtype and shape, with or without its batch axis.
  void check_form(const View& view, const Tensor& tensor, std::map<std::string, std::int64_t>& lengths) const {
    if (view.dtype() != tensor.dtype) {
      throw DataError("The network takes " + std::string(name_of(tensor.dtype)) + " for " + detail::quote(tensor.name) + ", not " +
                      std::string(name_of(view.dtype())) + ". Prepare samples as in training (scale, normalise) before they are passed.");
    }
    const Shape& shape = view.shape();
    if (shape.empty() && tensor.is_sized()) {
      if (view.size() == count_values(tensor.single())) return;
      throw DataError("The network takes " + std::to_string(count_values(tensor.single())) + " values for " +
                      detail::quote(tensor.name) + ", not " + std::to_string(view.size()) + ".");
    }
    const std::size_t axes = tensor.shape.size(), batch = tensor.batch_axis(), skipped = shape.size() + 1 == axes ? batch : axes;
    bool fits = shape.size() == axes || skipped == batch;
    std::uint64_t values = 1;
    for (std::size_t i = 0, at = 0; fits && i < axes; ++i) {
      if (i == skipped) continue;
      const std::int64_t size = shape[at++];
      const Axis& axis = tensor.shape[i];
      if (axis.size == Axis::NAMED) fits = size > 0 && size <= detail::MOST_VALUES && lengths.try_emplace(axis.name, size).first->second == size;
      else fits = size == (axis.size == Axis::BATCH ? 1 : axis.size);
      values *= static_cast<std::uint64_t>(size);
      fits = fits && values <= view.size();
    }
    if (fits && values == view.size()) return;
    std::string wanted;
    for (std::size_t i = 0; i < axes; ++i) {
      if (i == batch) continue;
      wanted += (wanted.empty() ? "" : ", ") + (tensor.shape[i].size == Axis::NAMED ? detail::quote(tensor.shape[i].name) : std::to_string(tensor.shape[i].size));
    }
    throw DataError("The network takes a sample of shape (" + wanted + ") for " + detail::quote(tensor.name) + ", axes of the same name equally long, not " +
                    std::to_string(view.size()) + " values of shape " + detail::show_shape(shape) + ".");
  }

  // Copies an input into its memory, and looks for what engines do not look for: NaN, infinity, indices beyond their table.
  void copy_in(const View& view, std::size_t i) {
    const Slot& slot = memory_->inputs[i];
    std::memcpy(slot.data, view.data(), view.size() * bytes_of(slot.dtype));
    bool is_right = true;
    switch (slot.dtype) {
      case Dtype::float16: is_right = is_finite<std::uint16_t>(static_cast<const std::uint16_t*>(slot.data), view.size(), 0x7c00); break;
      case Dtype::float32: is_right = is_finite<std::uint32_t>(static_cast<const std::uint32_t*>(slot.data), view.size(), 0x7f800000); break;
      case Dtype::float64: is_right = is_finite<std::uint64_t>(static_cast<const std::uint64_t*>(slot.data), view.size(), 0x7ff0000000000000); break;
      case Dtype::int8: return check_rows<std::int8_t>(slot, view.size(), i);
      case Dtype::int16: return check_rows<std::int16_t>(slot, view.size(), i);
      case Dtype::int32: return check_rows<std::int32_t>(slot, view.size(), i);
      case Dtype::int64: return check_rows<std::int64_t>(slot, view.size(), i);
      case Dtype::uint8: return check_rows<std::uint8_t>(slot, view.size(), i);
      case Dtype::uint16: return check_rows<std::uint16_t>(slot, view.size(), i);
      case Dtype::uint32: return check_rows<std::uint32_t>(slot, view.size(), i);
      case Dtype::uint64: return check_rows<std::uint64_t>(slot, view.size(), i);
      case Dtype::boolean: break;
    }
    if (!is_right) throw DataError("The sample holds NaN or infinity in " + detail::quote(inputs_[i].name) + ".");
  }

  // Tells whether no float has an exponent of ones alone; its bits are those of the mask.
  template <typename Bits>
  static bool is_finite(const Bits* values, std::size_t count, Bits mask) {
    unsigned found = 0;
    for (std::size_t i = 0; i < count; ++i) found |= (values[i] & mask) == mask;
    return found == 0;
  }

  template <typename T>
  void check_rows(const Slot& slot, std::size_t count, std::size_t i) const {
    if (rows_[i] == 0) return;
    const auto* values = static_cast<const T*>(slot.data);
    const auto rows = static_cast<std::uint64_t>(rows_[i]);
    for (std::size_t at = 0; at < count; ++at) {
      const bool is_below = std::is_signed_v<T> && values[at] < 0;
      const std::uint64_t row = is_below ? ~static_cast<std::uint64_t>(values[at]) : static_cast<std::uint64_t>(values[at]);
      if (row >= rows) {
        const std::string most = std::to_string(rows);
        throw DataError("The sample holds " + std::to_string(values[at]) + " in " + detail::quote(inputs_[i].name) + ", which is an index into " +
                        most + " rows: 0 to " + std::to_string(rows - 1) + ", or from the end -1 to -" + most + ".");
      }
    }
  }

  std::shared_ptr<const Bundle> bundle_;
  Engines engines_;
  std::vector<detail::Link> links_;
  std::vector<Tensor> inputs_;
  std::vector<std::int64_t> rows_;  // of the table into which an input's values are indices; 0 if there is none
  bool named_ = false;
  std::size_t first_exit_ = 0, in_use_ = 0;
  std::vector<double> thresholds_;
  std::vector<OperatingPoint> points_;
  std::vector<Latency> latencies_;
  std::vector<std::string> notices_;
  std::list<Kept> kept_;
  detail::Memory* memory_ = nullptr;
  std::optional<detail::StageLimits> limits_;
  double end_s_ = 0;  // what a call with a deadline takes behind its last stage
};

namespace detail {

// Returns the stages and exits that run: a variant's chain, or the static network to one of its exits.
inline std::pair<std::vector<Stage>, std::vector<Exit>> list_parts(const Manifest& manifest, const Variant& variant,
                                                                   const OperatingPoint* point) {
  if (point == nullptr || !point->static_exit) return {variant.stages, variant.exits};
  const Exit& end = variant.exits[static_cast<std::size_t>(*point->static_exit)];
  return {{Stage{end.static_file, manifest.inputs, {}, end.macs, std::nullopt}}, {end}};
}

// Returns a device for each stage.
inline std::vector<std::string> list_devices(const Options& options, const Engines& engines, const OperatingPoint* point, std::size_t stages) {
  std::vector<std::string> devices = options.devices;
  if (devices.empty() && point != nullptr) devices = point->placement;
  if (devices.empty() && !engines.empty()) devices = {engines[0]->default_device()};
  if (devices.size() == 1) devices.resize(stages, devices[0]);
  if (devices.size() != stages) {
    throw UsageError("There are " + std::to_string(devices.size()) + " devices for " + std::to_string(stages) + " stages: give one for all, or one for each.");
  }
  return devices;
}

inline std::pair<Engine*, std::string> find_engine(const Engines& engines, const std::string& device) {
  std::string known;
  for (const auto& engine : engines) {
    if (const auto place = engine->find_place(device)) return {engine.get(), *place};
    known += (known.empty() ? "" : ", ") + engine->default_device();
  }
  throw MissingError("No engine of this program runs the device " + quote(device) + ". Give another by `devices`, such as " + known +
                     ", or give `load` the engine.");
}

// Compiles the stages, each file once for each of its devices, and joins them to the chain's tensors.
inline std::vector<Link> compile_links(const Bundle& bundle, const Variant& variant, const std::vector<Stage>& stages,
                                       const std::vector<Exit>& exits, const std::vector<std::string>& devices, const Engines& engines,
                                       const Options& options) {
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
    for (std::size_t i = 0; i < stages[k].inputs.size(); ++i) link.reads.emplace_back(in_file.inputs[i].name, stages[k].inputs[i].name);
    // The last pass of a loop has no later stage, so the file's other outputs are not bound.
    for (std::size_t i = 0; i < stages[k].outputs.size(); ++i) link.writes.emplace_back(in_file.outputs[i].name, stages[k].outputs[i].name);
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

// Loads a bundle to run on engines, such as `load("digits.offramp", {offramp::openvino()})`. The bundle's signatures are not read:
// what its files hold is compared with the hashes in its manifest.
//
// Throws UsageError, BundleError and MissingError.
inline Network load(const std::filesystem::path& path, const Engines& engines, const Options& options = {}) {
  if (options.threads < 1 || options.threads > 512) throw UsageError("threads is a whole number from 1 to 512, not " + std::to_string(options.threads) + ".");
  if (engines.empty()) throw UsageError("load takes one engine or more, such as offramp::openvino().");
  Network net;
  net.bundle_ = std::make_shared<const Bundle>(path);
  const Manifest& manifest = net.bundle_->manifest();
  auto [variant, calibration, name, notices] = detail::choose_point(*net.bundle_, options);
  const OperatingPoint* const point = calibration ? calibration->find(name) : nullptr;
  const auto [stages, exits] = detail::list_parts(manifest, *variant, point);
  const auto devices = detail::list_devices(options, engines, point, stages.size());
  net.links_ = detail::compile_links(*net.bundle_, *variant, stages, exits, devices, engines, options);
  net.engines_ = engines;
  net.inputs_ = manifest.inputs;
  for (const auto& tensor : manifest.inputs) {
    const auto rows = manifest.table_rows.find(tensor.name);
    net.rows_.push_back(rows == manifest.table_rows.end() ? 0 : rows->second);
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
