// Does what a test says, one JSON object a line, and answers with one JSON object a line.
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <offramp/offramp.hpp>
#ifdef WITH_OPENVINO
#include <offramp/openvino.hpp>
#endif
#ifdef WITH_ONNXRUNTIME
#include <offramp/onnxruntime.hpp>
#endif

using Json = nlohmann::ordered_json;

namespace {

offramp::Engines make_engines() {
  offramp::Engines engines;
#ifdef WITH_OPENVINO
  engines.push_back(offramp::openvino());
#endif
#ifdef WITH_ONNXRUNTIME
  engines.push_back(offramp::onnxruntime());
#endif
  return engines;
}

std::unique_ptr<offramp::Network> loaded;

Json check(const Json& asked) {
  const offramp::Bundle bundle(asked.at("path").get<std::string>());
  for (const auto& name : bundle.calibrations()) bundle.read_calibration(name);
  if (asked.value("contents", true)) bundle.check();
  Json digests = Json::object();
  for (const auto& variant : bundle.manifest().variants) digests[variant.name] = variant.digest;
  return {{"digests", digests}};
}

Json load(const Json& asked, const offramp::Engines& engines) {
  offramp::Options options;
  options.devices = asked.value("devices", std::vector<std::string>());
  options.variant = asked.value("variant", "");
  options.point = asked.value("point", "");
  options.calibration = asked.value("calibration", "");
  options.calibrated = asked.value("calibrated", true);
  options.logits = asked.value("logits", false);
  options.threads = asked.value("threads", 1);
  loaded.reset();
  loaded = std::make_unique<offramp::Network>(offramp::load(asked.at("path").get<std::string>(), engines, options));
  const auto* point = loaded->point();
  return {{"notices", loaded->notices()},
          {"point", point == nullptr ? Json() : Json(point->name)},
          {"thresholds", loaded->thresholds()},
          {"stages", loaded->stages()}};
}

// Returns the view of one sample of an input, in a file that holds many.
template <typename T>
offramp::View view_of(const std::string& content, std::size_t sample, const offramp::Shape& shape, bool says_shape) {
  const std::size_t count = offramp::count_values(shape);
  return {reinterpret_cast<const T*>(content.data()) + sample * count, count, says_shape ? shape : offramp::Shape()};
}

offramp::View view_of(const std::string& dtype, const std::string& content, std::size_t sample, const offramp::Shape& shape,
                      bool says) {
  if (dtype == "float32") return view_of<float>(content, sample, shape, says);
  if (dtype == "float64") return view_of<double>(content, sample, shape, says);
  if (dtype == "float16") return view_of<offramp::Float16>(content, sample, shape, says);
  if (dtype == "int64") return view_of<std::int64_t>(content, sample, shape, says);
  if (dtype == "int32") return view_of<std::int32_t>(content, sample, shape, says);
  return view_of<std::uint8_t>(content, sample, shape, says);
}

Json show(const offramp::Array& array) {
  Json values = Json::array();
  for (std::size_t i = 0; i < array.size(); ++i) {
    if (array.dtype == offramp::Dtype::float32)
      values.push_back(array.data<float>()[i]);
    else
      values.push_back(array.data<std::int64_t>()[i]);
  }
  return {{"dtype", offramp::name_of(array.dtype)}, {"shape", array.shape}, {"values", values}};
}

Json run(const Json& asked) {
  std::vector<std::string> contents;
  for (const auto& input : asked.at("inputs")) {
    std::ifstream file(input.at("file").get<std::string>(), std::ios::binary);
    contents.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  Json results = Json::array();
  for (std::size_t sample = 0; sample < asked.at("samples"); ++sample) {
    std::vector<offramp::View> views;
    for (std::size_t i = 0; i < contents.size(); ++i) {
      const Json& input = asked["inputs"][i];
      views.push_back(
          view_of(input.at("dtype"), contents[i], sample, input.at("shape").get<offramp::Shape>(), asked.value("shapes", true)));
    }
    const auto result = loaded->run(views, asked.value("deadline_s", offramp::NO_DEADLINE));
    Json answer = Json::object();
    for (const auto& [name, array] : result.answer) answer[name] = show(array);
    results.push_back({{"label", result.label},
                       {"score", result.score},
                       {"exit", result.exit},
                       {"latency_s", result.latency_s},
                       {"cut", result.cut},
                       {"late", result.late},
                       {"answer", answer}});
  }
  return {{"results", results}};
}

// Follows limits of two stages, of which the second takes the given times; at a time below 0 it has none.
Json follow_limits(const Json& asked) {
  std::vector<offramp::Latency> latencies;
  for (const double each : asked.at("latencies")) latencies.push_back({each, each});
  offramp::detail::StageLimits limits(2, latencies);
  Json found = Json::array();
  for (const double spent_s : asked.at("spent")) {
    if (spent_s < 0)
      limits.pass_over(1);
    else
      limits.note(1, spent_s);
    found.push_back(limits.limit_s(1));
  }
  return {{"limits", found}};
}

Json answer(const Json& asked, const offramp::Engines& engines) {
  const std::string what = asked.at("do");
  if (what == "check") return check(asked);
  if (what == "load") return load(asked, engines);
  if (what == "run") return run(asked);
  if (what == "limits") return follow_limits(asked);
  if (what == "version") return {{"version", offramp::VERSION}};
  if (what == "sha256") return {{"sha256", offramp::detail::sha256(asked.at("text").get<std::string>())}};
  if (what == "number") return {{"text", offramp::detail::encode(asked.at("number").get<double>())}};
  if (what == "use") loaded->use(asked.at("point").get<std::string>());
  if (what == "thresholds") loaded->set_thresholds(asked.at("values").get<std::vector<double>>());
  return {{"thresholds", loaded->thresholds()}};
}

template <typename Kind>
Json refuse(const char* name, const Kind& error) {
  return {{"error", name}, {"message", error.what()}};
}

Json try_answer(const Json& asked, const offramp::Engines& engines) {
  try {
    return answer(asked, engines);
  } catch (const offramp::UsageError& error) {
    return refuse("UsageError", error);
  } catch (const offramp::UnsupportedError& error) {
    return refuse("UnsupportedError", error);
  } catch (const offramp::MissingError& error) {
    return refuse("MissingError", error);
  } catch (const offramp::OutdatedError& error) {
    return refuse("OutdatedError", error);
  } catch (const offramp::TrustError& error) {
    return refuse("TrustError", error);
  } catch (const offramp::BundleError& error) {
    return refuse("BundleError", error);
  } catch (const offramp::DataError& error) {
    return refuse("DataError", error);
  }
}

}  // namespace

int main() {
  const auto engines = make_engines();
  for (std::string line; std::getline(std::cin, line);) std::cout << try_answer(Json::parse(line), engines).dump() << std::endl;
  loaded.reset();  // OpenVINO cannot let go of it once `main` has ended
}
