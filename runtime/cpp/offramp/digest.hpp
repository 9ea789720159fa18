// The digest of a variant, by which calibrations name it: the sha256 of JSON as docs/bundle.md says.
#pragma once

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "manifest.hpp"
#include "sha256.hpp"

namespace offramp::detail {

// The JSON of a text, a number or a tensor, as digests are made of it: as msgspec writes them, the keys in order.
inline std::string encode(std::string_view text) {
  static constexpr std::string_view RAW = "\"\\\b\f\n\r\t", SHORT = "\"\\bfnrt";
  std::string json = "\"";
  for (const char c : text) {
    if (const auto at = RAW.find(c); at != std::string_view::npos) {
      json += {'\\', SHORT[at]};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
      json += escaped;
    } else {
      json += c;
    }
  }
  return json + "\"";
}

// The fewest digits that read back as the same number; with a point from 1e-5 to 1e16, else with an exponent.
inline std::string encode(double number) {
  char text[32];
  const auto written = std::to_chars(text, text + sizeof text, number, std::chars_format::scientific);
  const std::string_view all(text, static_cast<std::size_t>(written.ptr - text));
  const auto e = all.find('e');
  std::string digits(1, all[0]);
  if (e > 1) digits += all.substr(2, e - 2);
  const int point = std::atoi(std::string(all.substr(e + 1)).c_str()) + 1, length = static_cast<int>(digits.size());
  if (length <= point && point <= 16) return digits + std::string(static_cast<std::size_t>(point - length), '0') + ".0";
  if (0 < point && point <= 16) return digits.insert(static_cast<std::size_t>(point), ".");
  if (-5 < point && point <= 0) return "0." + std::string(static_cast<std::size_t>(-point), '0') + digits;
  if (length > 1) digits.insert(1, ".");
  return digits + "e" + std::to_string(point - 1);
}

inline std::string encode(const Tensor& tensor) {
  std::string shape;
  for (const auto& axis : tensor.shape) {
    if (!shape.empty()) shape += ",";
    shape += axis.size == Axis::BATCH ? "null" : axis.size == Axis::NAMED ? encode(axis.name) : std::to_string(axis.size);
  }
  return "{\"dtype\":" + encode(name_of(tensor.dtype)) + ",\"name\":" + encode(tensor.name) + ",\"shape\":[" + shape + "]}";
}

template <typename List, typename Encode>
std::string encode_list(const List& list, Encode encode_one) {
  std::string json;
  for (const auto& each : list) json += (json.empty() ? "" : ",") + encode_one(each);
  return json;
}

inline std::string encode(const Stage& stage) {
  const auto one = [](const Tensor& tensor) { return encode(tensor); };
  return "{\"file\":" + encode(stage.file) + ",\"inputs\":[" + encode_list(stage.inputs, one) +
         "],\"macs\":" + std::to_string(stage.macs) + ",\"outputs\":[" + encode_list(stage.outputs, one) + "]}";
}

inline std::string encode(const Exit& exit) {
  std::string answer;
  if (!exit.answer.empty()) {
    const std::map<std::string, Tensor> sorted(exit.answer.begin(), exit.answer.end());
    const auto one = [](const auto& part) { return encode(part.first) + ":" + encode(part.second); };
    answer = "\"answer\":{" + encode_list(sorted, one) + "},";
  }
  return "{" + answer + "\"label\":" + encode(exit.label) + ",\"logits\":" + encode(exit.logits) +
         ",\"macs\":" + std::to_string(exit.macs) + ",\"name\":" + encode(exit.name) + ",\"score\":" + encode(exit.score) +
         ",\"static\":" + encode(exit.static_file) + ",\"temperature\":" + encode(exit.temperature) + "}";
}

// The sha256 of everything that decides what a variant computes; calibrations name variants by it.
inline std::string make_digest(const Variant& variant) {
  std::map<std::string, FileFacts> files = variant.files;
  files.erase(variant.golden);
  for (const auto& stage : variant.stages) {
    if (stage.guarded) files.erase(*stage.guarded);
  }
  const auto one = [](const auto& each) { return encode(each); };
  const auto file = [](const auto& each) {
    return encode(each.first) + ":{\"bytes\":" + std::to_string(each.second.bytes) + ",\"sha256\":" + encode(each.second.sha256) +
           "}";
  };
  return sha256("{\"exits\":[" + encode_list(variant.exits, one) + "],\"files\":{" + encode_list(files, file) + "},\"golden\":" +
                encode(variant.golden) + ",\"name\":" + encode(variant.name) + ",\"precision\":" + encode(variant.precision) +
                ",\"rule\":" + encode(variant.rule) + ",\"stages\":[" + encode_list(variant.stages, one) +
                "],\"weights\":" + encode(variant.weights) + ",\"whole\":" + encode(variant.whole) + "}");
}

}  // namespace offramp::detail
