// Manifests read from JSON and checked. docs/bundle.md says what must hold.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "digest.hpp"
#include "json.hpp"
#include "manifest.hpp"

namespace offramp::detail {

// Tells whether a name is safe in a path: letters, digits, dots, dashes and underscores, the first a letter or digit.
inline bool is_plain(std::string_view name) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); };
  return !name.empty() && is_letter(name[0]) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return is_letter(c) || c == '.' || c == '_' || c == '-'; });
}

inline bool is_hex(std::string_view text, std::size_t length) {
  return text.size() == length && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// How many values a sample has if its named axes have length 1; axes of length 0 count as 1.
inline std::int64_t count_least(const Tensor& tensor) {
  std::int64_t count = 1;
  for (const auto& axis : tensor.shape) {
    if (axis.size > MOST_VALUES) return std::numeric_limits<std::int32_t>::max();
    if (axis.size > 0) count = std::min<std::int64_t>(count * axis.size, std::numeric_limits<std::int32_t>::max());
  }
  return count;
}

inline Tensor read_tensor(const Place& place) {
  Fields fields(place);
  Tensor tensor;
  tensor.name = fields["name"].text();
  const Place dtype = fields["dtype"];
  const auto known = std::find_if(DTYPES.begin(), DTYPES.end(), [&](const DtypeFacts& one) { return one.name == dtype.text(); });
  if (known == DTYPES.end()) dtype.refuse("Invalid enum value '" + quote(dtype.text()) + "'");
  tensor.dtype = static_cast<Dtype>(known - DTYPES.begin());
  std::size_t batches = 0;
  fields["shape"].each([&](const Place& axis) {
    if (axis.is_null()) {
      tensor.shape.push_back({Axis::BATCH, ""});
      ++batches;
    } else if (axis.value().as<std::string>() != nullptr) {
      if (axis.text().empty()) axis.refuse("Expected `str` of length >= 1");
      tensor.shape.push_back({Axis::NAMED, axis.text()});
    } else {
      tensor.shape.push_back({axis.count(0, std::numeric_limits<std::int64_t>::max()), ""});
    }
  });
  fields.end();
  if (batches > 1) place.refuse("tensor " + quote(tensor.name) + " has several batch axes");
  if (tensor.shape.size() > MOST_AXES || count_least(tensor) > MOST_VALUES) {
    place.refuse("tensor " + quote(tensor.name) + " is too large: more than 32 axes or 2^28 values");
  }
  return tensor;
}

inline std::vector<Tensor> read_tensors(const Place& place, std::size_t least) {
  std::vector<Tensor> tensors;
  place.each([&](const Place& each) { tensors.push_back(read_tensor(each)); }, least, MOST_EXITS);
  return tensors;
}

inline Stage read_stage(const Place& place) {
  Fields fields(place);
  Stage stage;
  stage.file = fields["file"].text();
  stage.inputs = read_tensors(fields["inputs"], 1);
  stage.outputs = read_tensors(fields["outputs"], 0);
  stage.macs = fields["macs"].count();
  fields.may_null("guarded", [&](const Place& each) { stage.guarded = each.text(); });
  fields.end();
  return stage;
}

inline Exit read_exit(const Place& place) {
  Fields fields(place);
  Exit exit;
  exit.name = fields["name"].text();
  exit.logits = fields["logits"].text();
  exit.score = fields["score"].text();
  exit.label = fields["label"].text();
  exit.static_file = fields["static"].text();
  exit.macs = fields["macs"].count();
  fields.may("temperature", [&](const Place& each) {
    exit.temperature = each.number();
    if (!(exit.temperature > 0)) each.refuse("Expected `float` > 0.0");
  });
  fields.may_null("place", [](const Place& each) { each.text(); });
  fields.may("answer", [&](const Place& each) {
    each.members([&](const std::string& name, const Place& part) { exit.answer.emplace_back(name, read_tensor(part)); }, 0,
                 MOST_EXITS);
  });
  fields.end();
  return exit;
}

inline void check_origin(const Place& place, std::optional<std::string>& parent) {
  Fields fields(place);
  parent = fields["parent"].text();
  fields["how"].one_of({"gate", "keep", "prune", "quantize"});
  fields["settings"].members(
      [](const std::string&, const Place& each) {
        if (each.value().as<std::string>() != nullptr)
          each.text();
        else if (!each.is_null())
          each.number();
      },
      0, MOST_NAMED);
  fields.may("fitted_on", [](const Place& hashes) {
    hashes.each(
        [](const Place& each) {
          if (!is_hex(each.text(), 16)) each.refuse("Expected `str` of 16 hexadecimal digits");
        },
        0, MOST_EXITS);
  });
  fields.end();
}

inline void check_files(const Place& place, const Variant& variant) {
  std::map<std::string, const Stage*> first;
  std::set<std::string> named = {variant.weights, variant.whole, variant.golden}, guarded;
  for (const auto& stage : variant.stages) {
    if (!first.emplace(stage.file, &stage).first->second->serves(stage)) {
      place.refuse("two stages of variant " + variant.name + " share " + quote(stage.file) + ", which fits one of them only");
    }
    named.insert(stage.file);
    if (stage.guarded) guarded.insert(*stage.guarded);
  }
  for (const auto& exit : variant.exits) named.insert(exit.static_file);
  for (const auto& name : guarded) {
    if (!named.insert(name).second) {
      place.refuse("variant " + variant.name + " names " + quote(name) + " as a guarded stage and as something else");
    }
  }
  for (const auto& name : named) {
    if (variant.files.count(name) == 0) {
      place.refuse("variant " + variant.name + " names " + quote(name) + ", which its list of files lacks");
    }
  }
  const std::string above = "variants/";
  const bool is_below = variant.folder.compare(0, above.size(), above) == 0 && is_plain(variant.folder.substr(above.size()));
  for (const auto& [name, _] : variant.files) {
    if (!is_below || !is_plain(name)) {
      place.refuse("the path " + quote(variant.folder + "/" + name) + " leads outside the bundle's variants");
    }
  }
}

inline Variant read_variant(const Place& place, std::optional<std::string>& parent) {
  Fields fields(place);
  Variant variant;
  const Place name = fields["name"];
  variant.name = name.text(MOST_IN_NAME);
  if (!is_plain(variant.name)) name.refuse("'" + quote(variant.name) + "' is no name of a variant");
  variant.folder = fields["folder"].text();
  variant.precision = fields["precision"].one_of({"fp16", "fp32", "fp64", "int8"});
  variant.rule = fields["rule"].text();
  variant.weights = fields["weights"].text();
  variant.whole = fields["whole"].text();
  variant.golden = fields["golden"].text();
  fields["stages"].each([&](const Place& each) { variant.stages.push_back(read_stage(each)); }, 2, MOST_EXITS);
  fields["exits"].each([&](const Place& each) { variant.exits.push_back(read_exit(each)); }, 2, MOST_EXITS);
  fields["files"].members(
      [&](const std::string& file, const Place& each) {
        if (decode_utf8(file).size() > MOST_IN_NAME) each.refuse("Expected `str` of length <= 255");
        Fields facts(each);
        const std::int64_t bytes = facts["bytes"].count();
        const Place hash = facts["sha256"];
        if (!is_hex(hash.text(), 64)) hash.refuse("sha256 is no hash");
        variant.files[file] = {bytes, hash.text()};
        facts.end();
      },
      0, MOST_FILES);
  fields.may_null("origin", [&](const Place& each) { check_origin(each, parent); });
  fields.may_null("error", [](const Place& each) { each.number(0); });
  fields.may_null("own_error", [](const Place& each) { each.number(0); });
  fields.end();
  if (variant.stages.size() != variant.exits.size()) {
    place.refuse("variant " + variant.name + " has " + std::to_string(variant.stages.size()) + " stages for " +
                 std::to_string(variant.exits.size()) + " exits");
  }
  check_files(place, variant);
  variant.digest = make_digest(variant);
  return variant;
}

inline void check_preprocess(const Place& place) {
  Fields fields(place);
  const auto check = [](const Place& each) {
    if (!std::isfinite(each.number())) each.refuse("mean and std are finite numbers");
  };
  const std::size_t means = fields["mean"].each(check, 1, MOST_CHANNELS);
  const std::size_t stds = fields["std"].each(
      [&](const Place& each) {
        check(each);
        if (!(each.number() > 0)) each.refuse("Expected `float` > 0.0");
      },
      1, MOST_CHANNELS);
  fields.may("resize", [](const Place& each) { each.one_of({"stretch", "crop", "pad"}); });
  fields.may("crop", [](const Place& each) {
    if (!(each.number(0, 1) > 0)) each.refuse("Expected `float` > 0.0");
  });
  fields.may("interpolation", [](const Place& each) { each.one_of({"bilinear", "bicubic", "nearest"}); });
  fields.end();
  if (means != stds) place.refuse("mean has " + std::to_string(means) + " channels and std " + std::to_string(stds));
}

// Sees that each stage of a variant reads what is there before it, and that nothing is too large.
inline void check_tensors(const Place& place, const Manifest& manifest, const Variant& variant) {
  bool has_named = false;
  std::int64_t values = 0;
  std::map<std::string, const Tensor*> made;
  const auto note = [&](const Tensor& tensor, bool may_name) {
    has_named = has_named || (may_name && !tensor.is_sized());
    if (!has_named && !tensor.is_sized()) {
      place.refuse("a tensor of variant " + variant.name + " has a named axis, but no input has one");
    }
    values += count_least(tensor);
  };
  for (const auto& tensor : manifest.inputs) note(tensor, true);
  for (const auto& tensor : manifest.inputs) made.emplace(tensor.name, &tensor);
  for (const auto& exit : variant.exits) {
    for (const auto& part : exit.answer) note(part.second, false);
  }
  for (const auto& stage : variant.stages) {
    for (const auto& tensor : stage.outputs) note(tensor, false);
    for (const auto& tensor : stage.inputs) {
      const auto found = made.find(tensor.name);
      if (found == made.end() || !(*found->second == tensor)) {
        place.refuse(variant.name + "/" + quote(stage.file) + " reads " + quote(tensor.name) + ", which nothing before makes");
      }
    }
    for (const auto& tensor : stage.outputs) {
      if (!made.emplace(tensor.name, &tensor).second) {
        place.refuse(variant.name + "/" + quote(stage.file) + " makes " + quote(tensor.name) + ", which is there already");
      }
    }
  }
  if (values > 4 * MOST_VALUES) place.refuse("the tensors of variant " + variant.name + " have more than 2^30 values");
}

// Sees that what the exits of a variant give has names of its own, or is a boundary tensor of the same form.
inline void check_answers(const Place& place, const Manifest& manifest, const Variant& variant) {
  std::map<std::string, const Tensor*> boundaries;
  for (const auto& stage : variant.stages) {
    for (const auto& tensor : stage.outputs) boundaries.emplace(tensor.name, &tensor);
  }
  std::set<std::string> taken;
  for (const auto& tensor : manifest.inputs) taken.insert(tensor.name);
  const auto& first = manifest.variants[0].exits[0].answer;
  const auto same_name = [](const auto& a, const auto& b) { return a.first == b.first; };
  for (const auto& exit : variant.exits) {
    const std::string what = "exit " + quote(exit.name) + " of " + variant.name;
    const bool classifies = manifest.classes > 0;
    if (exit.logits.empty() == classifies || exit.label.empty() == classifies || exit.answer.empty() != classifies) {
      place.refuse(what + " has the answer of another task than the network, which has " + std::to_string(manifest.classes) +
                   " classes");
    }
    if (!std::equal(first.begin(), first.end(), exit.answer.begin(), exit.answer.end(), same_name)) {
      place.refuse(what + " answers with other parts than the first exit");
    }
    for (const auto& [name, tensor] : exit.answer) {
      const bool is_taken = name == "exit" || name == "label" || name == "logits" || name == "score" || name == "thresholds";
      if (!is_plain(name) || is_taken || tensor.shape.empty() || tensor.batch_axis() != 0) {
        place.refuse(what + " has an answer '" + quote(name) + "', which is no name for it, or has no batch as its first axis");
      }
    }
    std::vector<Tensor> given = {{exit.score, Dtype::float32, {{Axis::BATCH, ""}}}};
    if (classifies) given.push_back({exit.label, Dtype::int64, {{Axis::BATCH, ""}}});
    for (const auto& [name, tensor] : exit.parts(manifest.classes)) given.push_back(tensor);
    for (const auto& tensor : given) {
      const auto found = boundaries.find(tensor.name);
      if (!taken.insert(tensor.name).second || (found != boundaries.end() && !(*found->second == tensor))) {
        place.refuse(quote(tensor.name) + " is an output of " + what + ", and something else");
      }
    }
  }
}

inline void check_manifest(const Place& place, const Manifest& manifest, const std::vector<std::optional<std::string>>& parents) {
  std::set<std::string> names, inputs;
  for (std::size_t i = 0; i < parents.size(); ++i) {
    if (parents[i] && names.count(*parents[i]) == 0) {
      place.refuse("variant " + manifest.variants[i].name + " is made from " + quote(*parents[i]) + ", which is not before it");
    }
    if (!names.insert(manifest.variants[i].name).second) {
      place.refuse("two variants have the same name: " + manifest.variants[i].name);
    }
  }
  if (manifest.classes == 1) place.refuse("one class alone is no classification");
  if (manifest.class_names && manifest.class_names->size() != static_cast<std::size_t>(manifest.classes)) {
    place.refuse("there are " + std::to_string(manifest.class_names->size()) + " class names for " +
                 std::to_string(manifest.classes) + " classes");
  }
  for (const auto& tensor : manifest.inputs) {
    if (name_of(tensor.dtype).find("int") != std::string_view::npos) inputs.insert(tensor.name);
    if (tensor.batch_axis() == tensor.shape.size()) place.refuse("an input has no batch axis");
  }
  for (const auto& [name, _] : manifest.table_rows) {
    if (inputs.count(name) == 0) place.refuse("table_rows names " + quote(name) + ", which is no input of whole numbers");
  }
  for (const auto& variant : manifest.variants) {
    check_tensors(place, manifest, variant);
    check_answers(place, manifest, variant);
  }
}

inline Manifest read_manifest(const Place& place) {
  Fields fields(place);
  Manifest manifest;
  std::vector<std::optional<std::string>> parents;
  fields["schema"].whole();
  fields["offramp"].text();
  fields["network"].text();
  fields["captured"].one_of({"dynamo", "torchscript", "onnx"});
  manifest.classes = fields["classes"].count(0, MOST_CLASSES);
  const Place names = fields["class_names"];
  if (!names.is_null()) {
    manifest.class_names.emplace();
    names.each([&](const Place& each) { manifest.class_names->push_back(each.text()); });
  }
  const Place preprocess = fields["preprocess"];
  if (!preprocess.is_null()) check_preprocess(preprocess);
  manifest.inputs = read_tensors(fields["inputs"], 1);
  fields["variants"].each(
      [&](const Place& each) {
        parents.emplace_back();
        manifest.variants.push_back(read_variant(each, parents.back()));
      },
      1, MOST_VARIANTS);
  fields.may("table_rows", [&](const Place& rows) {
    rows.members([&](const std::string& name, const Place& each) { manifest.table_rows[name] = each.count(1); }, 0, MOST_EXITS);
  });
  fields.end();
  check_manifest(place, manifest, parents);
  return manifest;
}

}  // namespace offramp::detail
