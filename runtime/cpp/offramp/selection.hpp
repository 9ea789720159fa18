// Which variant, calibration and operating point a bundle runs with.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bundle.hpp"

namespace offramp {

// What is to run, and how. Everything may be left as it is.
struct Options {
  std::vector<std::string> devices;   // one for all stages, or one for each; by default those that were calibrated
  std::string variant, point;         // their names; by default the first point of the calibration, and its variant
  std::filesystem::path calibration;  // a calibration outside the bundle; by default the one in it that fits
  bool calibrated = true;             // false: no calibration is looked for, and thresholds are set by hand
  int threads = 1;                    // that an engine may use within a stage
  bool logits = false;                // true: answers of a network that classifies carry the logits of the exit
};

namespace detail {

struct Choice {
  const Variant* variant;
  std::optional<Calibration> calibration;
  std::string point;
  std::vector<std::string> notices;
};

// Tells whether a point runs two variants as one chain, such as `int8:0+fp32`, which this runtime does not.
inline bool is_across(const OperatingPoint& point) { return point.variant.find('+') != std::string::npos; }

// Returns the variant that a point was made for; null if the bundle does not hold it, or not any more.
inline const Variant* find_measured(const Manifest& manifest, const Calibration& calibration, const OperatingPoint& point) {
  for (const auto& variant : manifest.variants) {
    if (variant.name == point.variant && variant.digest == calibration.variants.at(point.variant)) return &variant;
  }
  return nullptr;
}

// Says which point of a calibration has other exits than its variant; empty if none has.
inline std::string find_wrong_exits(const Manifest& manifest, const Calibration& calibration) {
  for (const auto& point : calibration.points) {
    const Variant* const variant = find_measured(manifest, calibration, point);
    if (variant == nullptr) continue;
    const std::size_t exits = variant->exits.size();
    if (point.static_exit ? *point.static_exit < static_cast<std::int64_t>(exits) : point.placement.size() == exits) continue;
    return "its point " + quote(point.name) + " has other exits than variant " + variant->name + ", which has exits 0 to " +
           std::to_string(exits - 1);
  }
  return "";
}

// Tells whether a calibration was made for what the bundle holds. Points across two variants are not asked.
inline bool belongs(const Manifest& manifest, const Calibration& calibration) {
  for (const auto& point : calibration.points) {
    if (!is_across(point) && find_measured(manifest, calibration, point) == nullptr) return false;
  }
  return true;
}

inline bool is_of(const Calibration& calibration, const std::string& variant) {
  for (const auto& point : calibration.points) {
    if (variant.empty() || point.variant == variant) return true;
  }
  return false;
}

// Returns the calibration in a bundle that was made for what it holds. Devices are not compared: of several one must be named.
inline std::optional<Calibration> find_calibration(const Bundle& bundle, const Options& options,
                                                   std::vector<std::string>& notices) {
  std::optional<Calibration> found;
  std::string names, stale;
  std::size_t count = 0;
  for (const auto& name : bundle.calibrations()) {
    std::optional<Calibration> calibration;
    try {
      calibration = bundle.read_calibration(name);
    } catch (const OutdatedError& error) {
      notices.push_back(std::string(error.what()) + " It is not used.");
      continue;
    }
    if (const auto problem = find_wrong_exits(bundle.manifest(), *calibration); !problem.empty()) {
      notices.push_back(show(bundle.path()) + ": " + quote(name) + " is not used: " + problem + ". Run: offramp calibrate");
    } else if (!belongs(bundle.manifest(), *calibration)) {
      stale += (stale.empty() ? "" : ", ") + quote(name);
    } else if (is_of(*calibration, options.variant)) {
      names += (names.empty() ? "" : ", ") + quote(name);
      found = std::move(calibration);
      ++count;
    }
  }
  if (!stale.empty()) {
    notices.push_back(show(bundle.path()) + " holds other variants than when it was calibrated. Not used: " + stale +
                      ". Run: offramp calibrate");
  }
  if (count > 1) {
    throw UsageError(show(bundle.path()) + " has several calibrations that fit its variants (" + names +
                     "). The C++ runtime does not compare devices: name one by `calibration`, or its variant by `variant`.");
  }
  return found;
}

inline Choice choose_point(const Bundle& bundle, const Options& options) {
  Choice choice{&bundle.variant(options.variant), std::nullopt, "", {}};
  const bool is_given = !options.calibration.empty();
  if (is_given) {
    choice.calibration = offramp::read_calibration(options.calibration);
    const std::string shown = show(options.calibration);
    if (const auto problem = find_wrong_exits(bundle.manifest(), *choice.calibration); !problem.empty()) {
      throw BundleError("The calibration " + shown + " is damaged: " + problem + ". Calibrate again.");
    }
    if (!belongs(bundle.manifest(), *choice.calibration)) {
      throw BundleError("The calibration " + shown + " was made for another export than the one at " + show(bundle.path()) +
                        ". Calibrate again, or bring the bundle it was made for.");
    }
  } else if (options.calibrated) {
    choice.calibration = find_calibration(bundle, options, choice.notices);
  }
  if (!choice.calibration) {
    if (!options.point.empty()) {
      throw UsageError(show(bundle.path()) + " has no calibration that is used, so no operating point '" + quote(options.point) +
                       "'. Run: offramp calibrate");
    }
    if (options.calibrated) {
      choice.notices.push_back(show(bundle.path()) + " has no calibration" +
                               (options.variant.empty() ? "" : " of variant " + options.variant) +
                               ": every input runs to the last exit. Run: offramp calibrate");
    }
    return choice;
  }
  const OperatingPoint* chosen = nullptr;
  std::vector<std::string> names;
  for (const auto& point : choice.calibration->points) {
    names.push_back(point.name);
    const bool fits = options.variant.empty() || point.variant == options.variant;
    if (chosen == nullptr && (options.point.empty() ? fits : point.name == options.point)) chosen = &point;
  }
  if (chosen == nullptr && !options.point.empty()) throw unknown_name("operating point", options.point, names);
  if (chosen == nullptr || (!options.variant.empty() && chosen->variant != options.variant)) {
    throw BundleError("The calibration's operating points are not of " + options.variant +
                      ". Calibrate that variant, or leave it out.");
  }
  if (is_across(*chosen)) {
    throw UnsupportedError(
        "The operating point " + quote(chosen->name) + " is of " + quote(chosen->variant) +
        ", a chain across two variants, which the C++ runtime does not run. Name another point, or a variant.");
  }
  choice.point = chosen->name;
  choice.variant = find_measured(bundle.manifest(), *choice.calibration, *chosen);
  return choice;
}

}  // namespace detail
}  // namespace offramp
