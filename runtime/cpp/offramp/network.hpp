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
#include "inputs.hpp"
#include "memory.hpp"
#include "selection.hpp"

namespace offramp {

// The answer to one sample.
struct Result {
  std::int64_t label;  // -1 if the network does not classify
  float score;
  std::size_t exit;  // the number of the exit where the sample left, counted from 0 in the variant; of a static network its own
  double latency_s;
  bool cut = false;                     // the sample would have gone on, but for its deadline
  bool late = false;                    // the answer came after its deadline
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
  // With a deadline, a time in seconds from call to answer, a stage that may end later is not started: the exit before it
  // answers, and the result is `cut`. The first stage always runs, so a result may be `late`.
  //
  // Throws DataError if the sample has another shape or dtype, holds NaN or infinity, or an index beyond its table; BundleError
  // if a stage runs for no sample, or answers what no exit can.
  Result operator()(const View& sample, double deadline_s = NO_DEADLINE) { return run(&sample, 1, deadline_s); }

  // Runs one sample of several inputs, in the order of `inputs`.
  Result run(const std::vector<View>& sample, double deadline_s = NO_DEADLINE) {
    return run(sample.data(), sample.size(), deadline_s);
  }

  const Bundle& bundle() const { return *bundle_; }
  const std::vector<Tensor>& inputs() const { return bundle_->manifest().inputs; }
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
      if (chosen.variant != current.variant || chosen.static_exit != current.static_exit ||
          chosen.placement != current.placement) {
        throw UsageError("The operating point " + detail::quote(name) +
                         " runs another network or on other devices than this one. Load it anew.");
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
                                    : std::to_string(exits()) + " exits take " + std::to_string(exits() - 1) +
                                          " thresholds, not " + std::to_string(values.size()) + ".");
    }
    for (const double value : values) {
      if (!(value >= 0 && value <= NEVER))
        throw UsageError("Thresholds lie between 0 and 2.0 (never), not " + std::to_string(value) + ".");
    }
    for (std::size_t k = 0; k < values.size(); ++k) thresholds_[k] = static_cast<float>(values[k]);  // as scores are
  }

 private:
  friend Network load(const std::filesystem::path&, const Engines&, const Options&);

  using Clock = std::chrono::steady_clock;

  static constexpr float LEAST_SCORE = -0.02f, MOST_SCORE = 1.02f;  // half precision may lead so far beyond 0 and 1
  static constexpr std::size_t MOST_LENGTHS = 8;                    // memory is kept for so many sizes of named axes

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
    throw BundleError(
        where + " answers the sample with " + given + ", but " + range +
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
      if (named_)
        throw DataError("The engine cannot run this sample: " + said +
                        " Nor can it run zeros of the same shape: is a sequence too short or long?");
      throw BundleError(file + " on " + links_[k].device + " cannot run any sample, not even zeros: " + said +
                        " It does not fit the manifest, or the engine fails. Run: offramp verify");
    }
    throw DataError("The engine cannot run this sample: " + said +
                    " It can run zeros of the same shape: is a value out of range?");
  }

  // Copies a sample into the inputs' memory.
  void put(const View* sample, std::size_t count) {
    if (count != inputs_.size()) {
      throw DataError("The network takes " + std::to_string(inputs_.size()) + " inputs, not " + std::to_string(count) + ".");
    }
    std::map<std::string, std::int64_t> lengths;
    for (std::size_t i = 0; i < count; ++i) inputs_[i].check_form(sample[i], lengths);
    if (named_) turn_to(sample);
    for (std::size_t i = 0; i < count; ++i) inputs_[i].copy_in(sample[i], memory_->inputs[i]);
    if (memory_->steps.empty()) learn();
  }

  // Uses the memory for the shapes of a sample. For new shapes it is made, and tied once the sample lies in it.
  void turn_to(const View* sample) {
    std::vector<Shape> shapes;
    for (std::size_t i = 0; i < inputs_.size(); ++i) shapes.push_back(inputs_[i].shape_of(sample[i]));
    const auto at = std::find_if(kept_.begin(), kept_.end(), [&](const Kept& each) { return each.shapes == shapes; });
    if (at != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, at);
    } else {
      kept_.push_front({shapes, std::make_unique<detail::Memory>(inputs(), shapes)});
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
      throw DataError("The engine cannot run this sample: " + detail::quote(error.what(), 400) +
                      " Is a sequence too short or long?");
    }
  }

  std::shared_ptr<const Bundle> bundle_;
  std::vector<detail::Link> links_;
  std::vector<detail::Input> inputs_;
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

}  // namespace offramp
