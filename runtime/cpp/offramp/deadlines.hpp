// How long each stage takes at most, for calls that must answer in time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "calibration.hpp"

namespace offramp::detail {

// A limit starts with what the calibration makes of the stage's 99th percentile, or with the longest of its first runs. Then an
// overrun raises it by 22 %, and each other time that the stage could have run, whether it did or had no time, lowers it by 0.1
// %. So whatever the times are like, in the long run one in 200 is an overrun, and a stage that was given up is tried again.
class StageLimits {
 public:
  explicit StageLimits(std::size_t stages, const std::vector<Latency>& latencies = {}) : limits_(stages), first_(stages) {
    for (std::size_t k = 1; k < std::min(stages, latencies.size()); ++k) {
      limits_[k] = std::max(0.0, latencies[k].p99_s - latencies[k - 1].p50_s);
    }
  }

  // Returns the limit of stage k in seconds; 0 while it is unknown, so that the stage is tried.
  double limit_s(std::size_t k) const { return limits_[k]; }

  // Learns from a run of stage k.
  void note(std::size_t k, double spent_s) {
    double& limit = limits_[k];
    if (limit > 0) {
      limit *= spent_s > limit ? UP : DOWN;
      return;
    }
    auto& first = first_[k];
    first.push_back(spent_s);
    if (first.size() == LEARNING_RUNS) limit = *std::max_element(first.begin() + 1, first.end());  // the first is slow
  }

  // Learns that stage k had no time.
  void pass_over(std::size_t k) { limits_[k] *= DOWN; }

 private:
  static constexpr double MOST_OVERRUNS = 0.005, STEP = 0.2;
  static constexpr std::size_t LEARNING_RUNS = 20;
  inline static const double UP = std::exp(STEP * (1 - MOST_OVERRUNS)), DOWN = std::exp(-STEP * MOST_OVERRUNS);

  std::vector<double> limits_;
  std::vector<std::vector<double>> first_;
};

}  // namespace offramp::detail
