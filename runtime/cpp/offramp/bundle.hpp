// Bundles and calibrations read from disk. They come from strangers: everything is checked before it is used.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "calibration.hpp"
#include "file.hpp"
#include "manifest_reading.hpp"
#include "version.hpp"

// The machine's policy, whose bundles are taken here.
#ifndef OFFRAMP_POLICY
#define OFFRAMP_POLICY "/etc/offramp/trust.json"
#endif

namespace offramp {

namespace detail {

inline constexpr std::uint64_t MOST_BYTES = 32 << 20, MOST_CALIBRATION_BYTES = 64 << 20;
inline constexpr std::size_t MOST_CALIBRATIONS = 500;

// Tells whether a version of offramp is surely newer than this one, by its first numbers.
inline bool is_newer(const std::string& version) {
  std::array<unsigned, 3> found{}, ours{};
  std::sscanf(VERSION, "%6u.%6u.%6u", &ours[0], &ours[1], &ours[2]);
  return std::sscanf(version.c_str(), "%6u.%6u.%6u", &found[0], &found[1], &found[2]) >= 2 && found > ours;
}

// Reads the content of a JSON file, its schema first.
template <typename Read>
auto decode(const fs::path& path, const std::string& content, const std::string& artefact, std::int64_t oldest,
            std::int64_t newest, Read read) {
  const std::string shown = show(path), reads = "this is offramp " + std::string(VERSION) + ", which reads ";
  if (content.size() > MOST_BYTES) throw BundleError(shown + " is larger than 32 MiB, which no " + artefact + " is.");
  std::string writer = "unknown";
  try {
    const Value root = parse_json(content);
    const Place place(root);
    std::optional<std::int64_t> schema;
    bool is_manifest = false;
    place.members([&](const std::string& name, const Place& each) {
      if (name == "schema") schema = each.whole();
      if (name == "offramp") writer = each.text(content.size());
      if (name == "variants") is_manifest = each.value().as<std::vector<Value>>() != nullptr;
    });
    if (!schema) place.refuse("Object missing required field `schema`");
    const std::string has = shown + " has schema " + std::to_string(*schema);
    if (is_manifest && artefact == "calibration") throw BundleError(shown + " is a bundle's manifest, not a calibration.");
    if (*schema > newest) {
      throw BundleError(has + ", written by a newer offramp (" + quote(writer) + "); " + reads + "up to schema " +
                        std::to_string(newest) + ". Update offramp here.");
    }
    if (*schema < 1) throw BundleError(has + ", which no offramp ever wrote.");
    if (*schema < oldest) {
      throw OutdatedError(has + ", written by offramp " + quote(writer) + "; " + reads + "schemas " + std::to_string(oldest) +
                          " to " + std::to_string(newest) +
                          (artefact == "manifest" ? ". Export it again." : ". Calibrate again, and remove it."));
    }
    return read(place);
  } catch (const Invalid& error) {
    const std::string reason = quote(error.what(), MOST_REASON);
    if (is_newer(writer)) {
      throw BundleError(shown + " was written by a newer offramp (" + quote(writer) + ") than this " + VERSION +
                        ", which does not read all of it: " + reason + ". Update offramp here.");
    }
    throw BundleError(shown + " is not a valid " + artefact + ": " + reason + ". Copy it again or make it anew.");
  }
}

inline Manifest decode_manifest(const fs::path& path, const std::string& content) {
  return decode(path, content, "manifest", OLDEST_SCHEMA, SCHEMA, [](const Place& place) { return read_manifest(place); });
}

inline Calibration decode_calibration(const fs::path& path, const std::string& content) {
  return decode(path, content, "calibration", OLDEST_CALIBRATION_SCHEMA, CALIBRATION_SCHEMA,
                [](const Place& place) { return read_calibration(place); });
}

inline BundleError damaged(const fs::path& path) {
  return BundleError(show(path) +
                     " is damaged: its sha256 is not the one in manifest.json. Copy the bundle again or export it anew.");
}

}  // namespace detail

// A bundle on disk. Its manifest has been read, and every file that it names is there with the right size.
class Bundle {
 public:
  // Throws UsageError if there is nothing at this path; BundleError if it is no bundle, or damaged, newer than these headers, or
  // packed; TrustError if this machine demands signatures, which are not checked here; MissingError if it may not be read.
  explicit Bundle(std::filesystem::path path) : path_(std::move(path)) {
    namespace fs = std::filesystem;
    std::error_code failed;
    const auto status = fs::status(path_, failed);
    if (!fs::exists(status)) throw UsageError("There is no bundle at " + detail::show(path_) + ".");
    if (fs::is_regular_file(status)) {
      throw BundleError(detail::show(path_) +
                        " is a file, and the C++ runtime reads bundles that are folders. If it is a packed bundle, unpack it: "
                        "unzip FILE -d FOLDER.");
    }
    if (!fs::is_regular_file(path_ / MANIFEST, failed)) {
      throw BundleError(detail::show(path_) + " is not an offramp bundle: a bundle is a folder with a manifest.json.");
    }
    if (fs::symlink_status(OFFRAMP_POLICY, failed).type() != fs::file_type::not_found) {
      throw TrustError(std::string("The policy of this machine, ") + OFFRAMP_POLICY +
                       ", says whose bundles are taken here. The C++ runtime checks no signatures: run " + detail::show(path_) +
                       " by offramp's Python runtime, or remove the policy.");
    }
    manifest_ = detail::decode_manifest(path_ / MANIFEST, read_inside(MANIFEST));
    std::set<std::tuple<std::string, std::string, std::int64_t, std::string>> seen;
    for (const auto& variant : manifest_.variants) {
      for (const auto& [name, facts] : variant.files) {
        if (seen.emplace(variant.folder, name, facts.bytes, facts.sha256).second) locate(variant, name);
      }
    }
  }

  const std::filesystem::path& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }

  // Returns a variant by its name, or the first one.
  const Variant& variant(const std::string& name = "") const {
    std::vector<std::string> names;
    for (const auto& variant : manifest_.variants) {
      if (name.empty() || variant.name == name) return variant;
      names.push_back(variant.name);
    }
    throw detail::unknown_name("variant", name, names);
  }

  // Copies a variant's file into a folder, where it holds what the manifest says; returns the copy's path.
  std::filesystem::path copy(const Variant& variant, const std::string& name, const std::filesystem::path& folder) const {
    const auto path = locate(variant, name), target = folder / name;
    if (std::filesystem::exists(target)) return target;
    const auto& facts = variant.files.at(name);
    std::ofstream file(target, std::ios::binary);
    const auto write = [&](const char* piece, std::size_t size) { file.write(piece, static_cast<std::streamsize>(size)); };
    const std::string hash = detail::File(path).hash(static_cast<std::uint64_t>(facts.bytes), write);
    file.close();
    if (!file) throw detail::cannot("write", target, ENOSPC);
    if (hash != facts.sha256) {
      std::filesystem::remove(target);
      throw detail::damaged(path);
    }
    return target;
  }

  // Compares every file's content with the manifest.
  void check() const {
    std::set<std::pair<std::string, std::string>> seen;
    for (const auto& variant : manifest_.variants) {
      for (const auto& [name, facts] : variant.files) {
        const auto path = locate(variant, name);
        if (!seen.emplace(path.string(), facts.sha256).second) continue;
        const auto ignore = [](const char*, std::size_t) {};
        if (detail::File(path).hash(static_cast<std::uint64_t>(facts.bytes), ignore) != facts.sha256) throw detail::damaged(path);
      }
    }
  }

  // Returns the names of the calibrations inside the bundle, sorted: `default.json`.
  std::vector<std::string> calibrations() const {
    namespace fs = std::filesystem;
    const fs::path folder = path_ / CALIBRATIONS;
    std::vector<std::string> names;
    std::error_code failed;
    for (fs::directory_iterator at(folder, failed), end; !failed && at != end; at.increment(failed)) {
      const std::string name = at->path().filename().string();
      if (name[0] != '.' && at->path().extension() == ".json") names.push_back(name);
    }
    if (failed && failed != std::errc::no_such_file_or_directory && failed != std::errc::not_a_directory) {
      throw detail::cannot("read", folder, failed.value());
    }
    const std::string remedy = " looked through. Remove those of other devices, or name the one to use.";
    if (names.size() > detail::MOST_CALIBRATIONS) {
      throw BundleError(detail::show(path_) + " has " + std::to_string(names.size()) + " calibrations, and at most 500 are" +
                        remedy);
    }
    std::uint64_t total = 0;
    for (const auto& name : names) total += detail::find_size(path_, CALIBRATIONS + name).value_or(0);
    if (total > detail::MOST_CALIBRATION_BYTES) {
      throw BundleError("The calibrations of " + detail::show(path_) + " have " + std::to_string(total >> 20) +
                        " MiB, and at most 64 MiB are" + remedy);
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  // Reads a calibration of the bundle by its name, as `calibrations` returns it.
  Calibration read_calibration(const std::string& name) const {
    return detail::decode_calibration(path_ / CALIBRATIONS / name, read_inside(CALIBRATIONS + name));
  }

 private:
  static constexpr const char* MANIFEST = "manifest.json";
  inline static const std::string CALIBRATIONS = "calibrations/";

  std::string read_inside(const std::string& name) const {
    detail::check_inside(path_, name);
    return detail::File(path_ / name).read(detail::MOST_BYTES);
  }

  // Returns the path of a variant's file, which is there with the right size and inside the bundle.
  std::filesystem::path locate(const Variant& variant, const std::string& name) const {
    const std::string inside = variant.folder + "/" + name, shown = detail::show(path_ / inside);
    const auto size = detail::find_size(path_, inside);
    const auto expected = variant.files.at(name).bytes;
    if (!size) throw BundleError(shown + " is missing. Copy the bundle again or export it anew.");
    if (*size != static_cast<std::uint64_t>(expected)) {
      throw BundleError(shown + " has " + std::to_string(*size) + " bytes where manifest.json says " + std::to_string(expected) +
                        ". Copy the bundle again or export it anew.");
    }
    return path_ / inside;
  }

  std::filesystem::path path_;
  Manifest manifest_;
};

// Reads a calibration from anywhere.
inline Calibration read_calibration(const std::filesystem::path& path) {
  std::error_code failed;
  if (!std::filesystem::is_regular_file(path, failed)) throw UsageError("There is no calibration at " + detail::show(path) + ".");
  return detail::decode_calibration(path, detail::File(path).read(detail::MOST_BYTES));
}

}  // namespace offramp
