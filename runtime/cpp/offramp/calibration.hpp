// A calibration: the operating points and latencies of one device. All of it is checked, and what a network needs is kept.
#pragma once

#include <cmath>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "json.hpp"
#include "manifest.hpp"

namespace offramp {

// A variant, its placement, and its thresholds: one for each exit but the last.
struct OperatingPoint {
  std::string name, variant, promise;
  std::vector<std::string> placement;
  std::vector<double> thresholds;
  std::optional<std::int64_t> static_exit;
  double latency_s = 0;
  bool met = false;
};

// Measured latency of leaving at one exit.
struct Latency {
  double p50_s, p99_s;
};

// The measured latencies of a variant where it was placed.
struct Chain {
  std::string variant;
  std::vector<std::string> placement;
  std::vector<Latency> exits;
};

struct Calibration {
  std::map<std::string, std::string> variants;  // their digests, by name
  std::vector<Chain> chains;
  std::vector<OperatingPoint> points;  // the first is the recommended one

  const OperatingPoint* find(const std::string& name) const {
    for (const auto& point : points) {
      if (point.name == name) return &point;
    }
    return nullptr;
  }
};

namespace detail {

inline constexpr std::int64_t CALIBRATION_SCHEMA = 4, OLDEST_CALIBRATION_SCHEMA = 3;
inline constexpr std::size_t MOST_EXITS_OF_POINTS = 10'000;

inline std::vector<std::string> read_texts(const Place& place) {
  std::vector<std::string> texts;
  place.each([&](const Place& each) { texts.push_back(each.text()); }, 0, MOST_NAMED);
  return texts;
}

inline std::vector<double> read_numbers(const Place& place, double least, double most) {
  std::vector<double> numbers;
  place.each([&](const Place& each) { numbers.push_back(each.number(least, most)); });
  return numbers;
}

inline void check_pair(const Place& place, double least, double most) {
  place.each([&](const Place& each) { each.number(least, most); }, 2, 2);
}

inline constexpr double ANY = std::numeric_limits<double>::infinity();

inline void check_target(const Place& place) {
  Fields fields(place);
  std::map<std::string, double> given;
  const auto read = [&](const char* name) { fields.may_null(name, [&](const Place& each) { given[name] = each.number(); }); };
  for (const char* name : {"min_accuracy", "max_drop", "max_disagreement", "max_loss", "max_late"}) {
    read(name);
    if (given.count(name) != 0 && !(given[name] >= 0 && given[name] < 1 && (given[name] == 0 || given[name] >= 1e-9))) {
      place.refuse(std::string(name) + " is a fraction from 0 to below 1");
    }
  }
  const bool limits_loss = given.size() > given.count("max_late");
  for (const char* name : {"max_latency_s", "deadline_s", "max_energy_j", "link_j_per_byte"}) {
    read(name);
    if (given.count(name) != 0 && !(given[name] > 0 && given[name] < ANY))
      place.refuse(std::string(name) + " is a number above 0");
  }
  bool wants_energy = given.count("max_energy_j") != 0, has_by = false;
  fields.may_null("goal", [&](const Place& each) {
    wants_energy = each.one_of({"latency", "energy", "accuracy"}) == "energy" || wants_energy;
  });
  fields.may("counts", [](const Place& each) { each.one_of({"labels", "losses"}); });
  fields.may_null("by", [&](const Place& each) {
    each.one_of({"class", "group"});
    has_by = true;
  });
  fields.end();
  if (given.count("max_late") != 0 && given.count("deadline_s") == 0)
    place.refuse("max_late says how many may be later than deadline_s");
  if (has_by && !limits_loss) place.refuse("by needs a limit of what each may lose");
  if (given.count("link_j_per_byte") != 0 && !wants_energy) place.refuse("link_j_per_byte is part of an energy");
  if (given.size() == given.count("link_j_per_byte")) place.refuse("A target needs a limit");
}

inline void check_certificate(const Place& place) {
  Fields fields(place);
  fields["limits"].members([](const std::string&, const Place& each) { each.number(); }, 0, MOST_NAMED);
  fields["confidence"].share();
  for (const char* name : {"promises", "samples", "steps"}) fields[name].count(1);
  fields["step"].count();
  fields.may("machine_noise", [](const Place& each) { each.number(0); });
  fields.may_null("every_s", [](const Place& each) { each.seconds(); });
  fields.may("question", [](const Place& each) { each.count(1); });
  for (const char* name : {"independent", "groups", "parts"}) fields.may_null(name, [](const Place& each) { each.count(1); });
  fields.may_null("labels", [](const Place& each) { each.count(); });
  fields.end();
}

inline void check_reuse(const Place& place) {
  Fields fields(place);
  fields["difference"].number(0);
  for (const char* name : {"most_in_row", "rules"}) fields.may(name, [](const Place& each) { each.count(1); });
  for (const char* name : {"clips", "samples"}) fields.may(name, [](const Place& each) { each.count(); });
  for (const char* name : {"most", "share"}) fields.may(name, [](const Place& each) { each.share(); });
  for (const char* name : {"latency_s", "plain_latency_s"}) fields.may_null(name, [](const Place& each) { each.seconds(); });
  fields.may("limit", [](const Place& each) { each.text(); });
  fields.may("loss", [](const Place& each) { each.number(); });
  fields.may_null("confidence", [](const Place& each) { each.share(); });
  fields.end();
}

inline void check_worst(const Place& place) {
  Fields fields(place);
  for (const char* name : {"name", "limit"}) fields[name].text();
  for (const char* name : {"of", "samples"}) fields[name].count(1);
  fields["value"].number();
  check_pair(fields["interval"], -ANY, ANY);
  fields.end();
}

inline void check_spread(const Place& place) {
  Fields fields(place);
  for (const char* name : {"boards", "kinds"}) fields[name].count(1);
  for (const char* name : {"least_s", "median_s", "most_s"}) fields[name].seconds();
  fields["slowest"].text();
  fields.end();
}

inline OperatingPoint read_point(const Place& place, const std::string& name, std::int64_t statics) {
  Fields fields(place);
  OperatingPoint point;
  point.name = name;
  point.variant = fields["variant"].text();
  point.placement = read_texts(fields["placement"]);
  check_target(fields["target"]);
  point.thresholds = read_numbers(fields["thresholds"], 0, NEVER);
  for (const char* share : {"accuracy", "full_accuracy"}) {
    const Place at = fields[share];
    if (!at.is_null()) at.share();
  }
  const Place drop = fields["drop"], interval = fields["drop_interval"];
  if (!drop.is_null()) drop.number();
  if (!interval.is_null()) check_pair(interval, -ANY, ANY);
  fields["disagreement"].share();
  point.latency_s = fields["latency_s"].seconds();
  const auto shares = read_numbers(fields["exit_shares"], 0, 1), latencies = read_numbers(fields["exit_latency_s"], 0, ANY);
  point.met = fields["met"].boolean();
  fields.may("choice_bias", [](const Place& each) { each.number(); });
  fields.may_null("full_accuracy_interval", [](const Place& each) { check_pair(each, 0, 1); });
  for (const char* share : {"own_disagreement", "late"}) fields.may_null(share, [](const Place& each) { each.share(); });
  std::size_t edges = 0, bins = 0;
  fields.may("score_edges", [&](const Place& each) { edges = read_numbers(each, 0, 1).size(); });
  fields.may("score_shares", [&](const Place& each) { bins = read_numbers(each, 0, 1).size(); });
  fields.may_null("static", [&](const Place& each) { point.static_exit = each.count(); });
  fields.may_null("energy_j", [](const Place& each) { each.number(0); });
  fields.may_null("certificate", [](const Place& each) { check_certificate(each); });
  for (const char* text : {"verdict", "name"}) fields.may(text, [](const Place& each) { each.text(); });
  fields.may("promise", [&](const Place& each) { point.promise = each.text(); });
  fields.may_null("rival", [&](const Place& each) {
    if (each.count() >= statics) {
      each.refuse("operating point " + quote(name) + " names static network " + std::to_string(each.count()) + " of " +
                  std::to_string(statics));
    }
  });
  fields.may("pays", [](const Place& each) { each.boolean(); });
  fields.may_null("gain", [](const Place& each) { each.number(); });
  fields.may_null("gain_interval", [](const Place& each) { check_pair(each, -ANY, ANY); });
  fields.may_null("reuse", [](const Place& each) { check_reuse(each); });
  fields.may("worst", [](const Place& each) { each.each([](const Place& part) { check_worst(part); }); });
  fields.may_null("spread", [](const Place& each) { check_spread(each); });
  fields.may("joined", [](const Place& each) { each.boolean(); });
  fields.end();
  const std::size_t exits = shares.size();
  if (point.placement.size() != exits || latencies.size() != exits || point.thresholds.size() + 1 != exits) {
    place.refuse("an operating point has " + std::to_string(point.thresholds.size()) + " thresholds, " +
                 std::to_string(point.placement.size()) + " devices and " + std::to_string(latencies.size()) + " latencies for " +
                 std::to_string(exits) + " exits");
  }
  if (bins != 0 && bins != edges + 1) {
    place.refuse(std::to_string(edges) + " edges make no " + std::to_string(bins) + " bins of scores");
  }
  if (point.static_exit && exits > 1) {
    place.refuse("an operating point of a static network has " + std::to_string(exits) + " exits");
  }
  double sum = 0;
  for (const double share : shares) sum += share;
  if (std::abs(sum - 1) > 1e-6)
    place.refuse("the exit shares of an operating point add up to " + std::to_string(sum) + ", not 1");
  return point;
}

inline Chain read_chain(const Place& place) {
  Fields fields(place);
  Chain chain;
  chain.variant = fields["variant"].text();
  chain.placement = read_texts(fields["placement"]);
  fields["exits"].each([&](const Place& each) {
    Fields latency(each);
    for (const char* name : {"mean_s", "p90_s"}) latency[name].seconds();
    const double p50_s = latency["p50_s"].seconds(), p99_s = latency["p99_s"].seconds();
    latency.end();
    chain.exits.push_back({p50_s, p99_s});
  });
  const std::size_t exits = chain.exits.size();
  if (exits == 0 || chain.placement.size() != exits) {
    place.refuse("a chain of " + std::to_string(exits) + " exits has " + std::to_string(chain.placement.size()) + " devices");
  }
  const auto check = [&](const char* name, std::size_t found, std::size_t fits) {
    if (found != 0 && found != fits) {
      place.refuse("a chain of " + std::to_string(exits) + " exits has " + std::to_string(found) + " values of " + name);
    }
  };
  check("passing_s", read_numbers(fields["passing_s"], -ANY, ANY).size(), exits - 1);
  fields.may("exit_energy_j", [&](const Place& each) { check("exit_energy_j", read_numbers(each, 0, ANY).size(), exits); });
  fields.may("accuracy", [&](const Place& each) { check("accuracy", read_numbers(each, 0, 1).size(), exits); });
  fields.may("noise", [](const Place& each) { each.number(0); });
  fields.end();
  return chain;
}

inline void check_static(const Place& place) {
  Fields fields(place);
  for (const char* name : {"variant", "device"}) fields[name].text();
  fields["exit"].count();
  const Place accuracy = fields["accuracy"], drop = fields["drop"];
  if (!accuracy.is_null()) accuracy.share();
  if (!drop.is_null()) drop.number();
  fields["disagreement"].share();
  fields["latency_s"].seconds();
  fields.may_null("energy_j", [](const Place& each) { each.number(0); });
  fields.may("noise", [](const Place& each) { each.number(0); });
  fields.end();
}

inline void check_tradeoff(const Place& place) {
  Fields fields(place);
  fields["variant"].text();
  read_texts(fields["placement"]);
  const Place exit = fields["static"], energy = fields["energy_j"];
  if (!exit.is_null()) exit.count();
  if (!energy.is_null()) energy.number(0);
  read_numbers(fields["thresholds"], 0, NEVER);
  fields["accuracy"].share();
  fields["latency_s"].seconds();
  fields.end();
}

inline void check_exclusion(const Place& place) {
  Fields fields(place);
  for (const char* name : {"variant", "parent", "reason"}) fields[name].text();
  read_texts(fields["placement"]);
  for (const char* name : {"latency_s", "parent_latency_s"}) fields[name].seconds();
  for (const char* name : {"accuracy", "parent_accuracy"}) {
    const Place at = fields[name];
    if (!at.is_null()) at.share();
  }
  fields.end();
}

inline void check_conditions(const Place& place) {
  Fields fields(place);
  for (const char* name : {"clock_hz", "temperature_c"}) {
    fields[name].each(
        [](const Place& each) {
          if (!each.is_null()) each.number();
        },
        2, 2);
  }
  read_texts(fields["throttled"]);
  fields.may_null("reference_s", [](const Place& each) { each.seconds(); });
  fields.may("reference_device", [](const Place& each) { each.text(); });
  fields.end();
}

inline Calibration read_calibration(const Place& place) {
  Fields fields(place);
  Calibration calibration;
  fields["schema"].whole();
  fields["offramp"].text();
  fields["variants"].members([&](const std::string& name, const Place& each) { calibration.variants[name] = each.text(); }, 1,
                             MOST_NAMED);
  fields["fingerprint"].members([](const std::string&, const Place& each) { each.text(); }, 0, MOST_NAMED);
  check_conditions(fields["conditions"]);
  fields["confidence"].share();
  fields["seed"].whole();
  for (const char* name : {"select_samples", "report_samples"}) fields[name].count(1);
  fields["outside"].boolean();
  const Place meter = fields["meter"];
  if (!meter.is_null()) meter.text();
  fields["chains"].each([&](const Place& each) { calibration.chains.push_back(read_chain(each)); }, 1);
  const auto statics = static_cast<std::int64_t>(fields["statics"].each([](const Place& each) { check_static(each); }));
  fields["frontier"].each([](const Place& each) { check_tradeoff(each); });
  fields["points"].members(
      [&](const std::string& name, const Place& each) { calibration.points.push_back(read_point(each, name, statics)); }, 1,
      MOST_NAMED);
  fields.may_null("every_s", [](const Place& each) { each.seconds(); });
  fields.may("gates", [](const Place& each) { each.each([](const Place& gate) { check_exclusion(gate); }); });
  fields.may_null("labels", [](const Place& each) { each.each([](const Place& count) { count.count(); }, 2, 2); });
  fields.may("least_gain", [](const Place& each) { each.share(); });
  fields.may_null("groups", [](const Place& each) { each.count(1); });
  fields.may("notes", [](const Place& each) { read_texts(each); });
  fields.end();
  std::size_t exits = 0;
  for (const auto& point : calibration.points) {
    exits += point.placement.size();
    if (calibration.variants.count(point.variant) == 0) {
      place.refuse("operating point " + quote(point.name) + " is of variant " + quote(point.variant) +
                   ", which was not measured");
    }
  }
  if (exits > MOST_EXITS_OF_POINTS) place.refuse("its points have more than 10000 exits together");
  return calibration;
}

}  // namespace detail
}  // namespace offramp
