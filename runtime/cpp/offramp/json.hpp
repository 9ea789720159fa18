// JSON of strangers: values in the order of the text, of bounded depth and number; and places in it, which know their path.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "error.hpp"

namespace offramp::detail {

inline constexpr std::size_t MOST_DEPTH = 64, MOST_JSON_VALUES = 1 << 21, MOST_CHARACTERS = 10'000;

// What is wrong with a JSON text; whoever knows the file makes a BundleError of it.
class Invalid : public std::runtime_error {
 public:
  explicit Invalid(const std::string& reason) : std::runtime_error(reason) {}
};

struct Member;

struct Value {
  std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string, std::vector<Value>, std::vector<Member>>
      data;

  template <typename T>
  const T* as() const {
    return std::get_if<T>(&data);
  }

  // Its type, as messages name it.
  const char* kind() const {
    static constexpr const char* NAMES[] = {"null", "bool", "int", "int", "float", "str", "array", "object"};
    return NAMES[data.index()];
  }
};

struct Member {
  std::string name;
  Value value;
};

// Makes values of what nlohmann's parser finds.
class Builder {
 public:
  using number_integer_t = std::int64_t;
  using number_unsigned_t = std::uint64_t;
  using number_float_t = double;
  using string_t = std::string;
  using binary_t = nlohmann::json::binary_t;

  Value root;

  bool null() { return add({nullptr}); }
  bool boolean(bool value) { return add({value}); }
  bool number_integer(std::int64_t value) { return add({value}); }
  bool number_unsigned(std::uint64_t value) {
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return add({value});
    return add({static_cast<std::int64_t>(value)});
  }
  bool number_float(double value, const std::string&) { return add({value}); }
  bool string(std::string& value) { return add({std::move(value)}); }
  bool binary(binary_t&) { return false; }
  bool start_object(std::size_t) { return open({std::vector<Member>()}); }
  bool start_array(std::size_t) { return open({std::vector<Value>()}); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) {
    const std::string said = error.what();
    throw Invalid("JSON is malformed: " + said.substr(said.find("] ") == std::string::npos ? 0 : said.find("] ") + 2));
  }

 private:
  bool add(Value&& value) {
    place(std::move(value));
    return true;
  }

  bool open(Value&& value) {
    open_.push_back(place(std::move(value)));
    if (open_.size() > MOST_DEPTH) throw Invalid("JSON is nested too deeply");
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  // A container that is open is the last element of the one around it, so no pointer here moves while it is used.
  Value* place(Value&& value) {
    if (++count_ > MOST_JSON_VALUES) throw Invalid("JSON has more than 2^21 values");
    if (open_.empty()) {
      root = std::move(value);
      return &root;
    }
    if (auto* list = std::get_if<std::vector<Value>>(&open_.back()->data)) {
      list->push_back(std::move(value));
      return &list->back();
    }
    auto& members = std::get<std::vector<Member>>(open_.back()->data);
    members.push_back({std::move(key_), std::move(value)});
    return &members.back().value;
  }

  std::vector<Value*> open_;
  std::string key_;
  std::size_t count_ = 0;
};

inline Value parse_json(std::string_view text) {
  if (text.substr(0, 3) == "\xef\xbb\xbf") throw Invalid("JSON is malformed: invalid character (byte 0)");
  Builder builder;
  nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder.root);
}

// A value and where it stands, such as `$.variants[0].name`.
class Place {
 public:
  explicit Place(const Value& value) : value_(&value) {}
  Place(const Value& value, const Place& parent, std::string_view name) : value_(&value), parent_(&parent), name_(name) {}
  Place(const Value& value, const Place& parent, std::size_t index) : value_(&value), parent_(&parent), index_(index) {}

  const Value& value() const { return *value_; }
  bool is_null() const { return value_->as<std::nullptr_t>() != nullptr; }

  std::string path() const {
    if (parent_ == nullptr) return "$";
    return parent_->path() + (name_.data() == nullptr ? "[" + std::to_string(index_) + "]" : "." + quote(name_, 40));
  }

  [[noreturn]] void refuse(const std::string& what) const { throw Invalid(what + " - at `" + path() + "`"); }

  const std::string& text(std::size_t most = MOST_CHARACTERS) const {
    const auto* found = value_->as<std::string>();
    if (found == nullptr) expect("str");
    if (found->size() > most && decode_utf8(*found).size() > most) {
      refuse("Expected `str` of length <= " + std::to_string(most));
    }
    return *found;
  }

  const std::string& one_of(std::initializer_list<std::string_view> names) const {
    const auto& found = text();
    for (const auto name : names) {
      if (found == name) return found;
    }
    refuse("Invalid enum value '" + quote(found) + "'");
  }

  bool boolean() const {
    if (const auto* found = value_->as<bool>()) return *found;
    expect("bool");
  }

  // Returns a whole number of 64 bits; a larger one that is not negative counts as the largest.
  std::int64_t whole() const {
    if (const auto* found = value_->as<std::int64_t>()) return *found;
    if (value_->as<std::uint64_t>() != nullptr) return std::numeric_limits<std::int64_t>::max();
    expect("int");
  }

  std::int64_t count(std::int64_t least = 0, std::int64_t most = std::numeric_limits<std::int64_t>::max() - 1) const {
    const auto found = whole();
    if (found < least) refuse("Expected `int` >= " + std::to_string(least));
    if (found > most) refuse("Expected `int` <= " + std::to_string(most));
    return found;
  }

  double number() const {
    if (const auto* found = value_->as<double>()) return *found;
    if (const auto* found = value_->as<std::int64_t>()) return static_cast<double>(*found);
    if (const auto* found = value_->as<std::uint64_t>()) return static_cast<double>(*found);
    expect("float");
  }

  double number(double least, double most = std::numeric_limits<double>::infinity()) const {
    const double found = number();
    if (!(found >= least)) refuse("Expected `float` >= " + std::to_string(least));
    if (!(found <= most)) refuse("Expected `float` <= " + std::to_string(most));
    return found;
  }

  double share() const { return number(0, 1); }
  double seconds() const { return number(0); }

  // Calls `use` with the place of each element; returns how many there are.
  template <typename Use>
  std::size_t each(Use use, std::size_t least = 0, std::size_t most = std::numeric_limits<std::size_t>::max()) const {
    const auto* list = value_->as<std::vector<Value>>();
    if (list == nullptr) expect("array");
    check_length("array", list->size(), least, most);
    for (std::size_t i = 0; i < list->size(); ++i) use(Place((*list)[i], *this, i));
    return list->size();
  }

  // Calls `use` with name and place of each member, in the order of the text; of a name that is there twice with the last one.
  template <typename Use>
  void members(Use use, std::size_t least = 0, std::size_t most = std::numeric_limits<std::size_t>::max()) const {
    const auto* list = value_->as<std::vector<Member>>();
    if (list == nullptr) expect("object");
    std::unordered_map<std::string_view, const Value*> last;
    for (const auto& member : *list) last[member.name] = &member.value;
    check_length("object", last.size(), least, most);
    for (const auto& member : *list) {
      const auto found = last.find(member.name);
      if (found == last.end()) continue;
      const Value* value = found->second;
      last.erase(found);
      use(member.name, Place(*value, *this, member.name));
    }
  }

 private:
  [[noreturn]] void expect(const char* kind) const {
    refuse(std::string("Expected `") + kind + "`, got `" + value_->kind() + "`");
  }

  void check_length(const char* kind, std::size_t length, std::size_t least, std::size_t most) const {
    const auto expected = std::string("Expected `") + kind + "` of length ";
    if (length < least) refuse(expected + ">= " + std::to_string(least));
    if (length > most) refuse(expected + "<= " + std::to_string(most));
  }

  const Value* value_;
  const Place* parent_ = nullptr;
  std::string_view name_;
  std::size_t index_ = 0;
};

// The fields of an object. Each is asked for once; `end` refuses those that nobody asked for.
class Fields {
 public:
  explicit Fields(const Place& place) : place_(place) {
    place.members([&](const std::string& name, const Place& at) { found_.emplace(name, &at.value()); });
  }

  // Returns a field that must be there, if only as null.
  Place operator[](std::string_view name) {
    const auto found = found_.find(name);
    if (found == found_.end()) place_.refuse("Object missing required field `" + std::string(name) + "`");
    return take(found);
  }

  // Calls `use` with a field that may be missing.
  template <typename Use>
  void may(std::string_view name, Use use) {
    const auto found = found_.find(name);
    if (found != found_.end()) use(take(found));
  }

  // Calls `use` with a field that may be missing or null.
  template <typename Use>
  void may_null(std::string_view name, Use use) {
    may(name, [&](const Place& place) {
      if (!place.is_null()) use(place);
    });
  }

  void end() const {
    if (!found_.empty()) place_.refuse("Object contains unknown field `" + quote(found_.begin()->first) + "`");
  }

 private:
  using Found = std::unordered_map<std::string_view, const Value*>;

  Place take(Found::const_iterator found) {
    const Place place(*found->second, place_, found->first);
    found_.erase(found);
    return place;
  }

  Place place_;
  Found found_;
};

}  // namespace offramp::detail
