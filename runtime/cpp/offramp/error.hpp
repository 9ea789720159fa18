// Every error that offramp throws on purpose. Its message says what is wrong, where, and what to do next.
//
// Error                 the root
//   UsageError          an argument that cannot be used: unknown name, missing path, impossible combination
//   MissingError        a device, permission, memory or disk space is missing
//     UnsupportedError  a device that is here cannot run a stage
//   BundleError         a bundle or calibration is damaged, from another version, or no bundle at all
//     OutdatedError     it was written by an older offramp whose form is not read any more
//     TrustError        signatures are demanded, which this runtime does not check
//   DataError           a sample that does not fit the network: shape, dtype, NaN
#pragma once

#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace offramp {

namespace detail {

inline constexpr std::size_t MOST_IN_ERROR = 570, MOST_QUOTED = 120, MOST_REASON = 200;

// Splits UTF-8 into characters; bytes that are no UTF-8 become U+FFFD.
inline std::u32string decode_utf8(std::string_view text) {
  std::u32string found;
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const std::size_t more = first < 0x80 ? 0 : first < 0xc2 ? 9 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf5 ? 3 : 9;
    char32_t code = more == 0 ? first : first & (0x3fu >> more);
    bool is_whole = more < 9 && i + more < text.size();
    for (std::size_t k = 1; is_whole && k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      is_whole = (next & 0xc0) == 0x80;
      code = (code << 6) | (next & 0x3fu);
    }
    found.push_back(is_whole ? code : U'\ufffd');
    i += is_whole ? more + 1 : 1;
  }
  return found;
}

inline void append_utf8(std::string& text, char32_t code) {
  if (code < 0x80) {
    text += static_cast<char>(code);
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  text += static_cast<char>("\xc0\xe0\xf0"[more - 1] | static_cast<char>(code >> (6 * more)));
  for (int k = more - 1; k >= 0; --k) text += static_cast<char>(0x80 | ((code >> (6 * k)) & 0x3f));
}

// Tells whether a character steers a terminal, turns the direction of writing, or cannot be encoded.
inline bool is_unprintable(char32_t code) {
  return (code < 0x20 && code != '\n') || (code >= 0x7f && code < 0xa0) || code == 0x61c || code == 0x200e || code == 0x200f ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069) || code == 0xfeff ||
         (code >= 0xd800 && code <= 0xdfff);
}

// Returns a text without what steers a terminal, its middle left out if it is long: files of strangers speak through it.
inline std::string printable(std::string_view text, std::size_t most = MOST_IN_ERROR) {
  std::vector<std::string> shown;
  for (const char32_t code : decode_utf8(text)) {
    std::string one;
    if (is_unprintable(code)) {
      char escaped[12];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(code));
      one = escaped;
    } else {
      append_utf8(one, code);
    }
    shown.push_back(std::move(one));
  }
  std::size_t length = 0;
  for (const auto& one : shown) length += one.size() > 4 ? one.size() : 1;
  std::string whole;
  if (length <= most) {
    for (const auto& one : shown) whole += one;
    return whole;
  }
  const std::size_t half = most / 2;
  std::string tail;
  std::size_t head_count = 0, tail_count = 0;
  for (std::size_t room = half; head_count < shown.size(); ++head_count) {
    const std::size_t size = shown[head_count].size() > 4 ? shown[head_count].size() : 1;
    if (size > room) break;
    room -= size;
    whole += shown[head_count];
  }
  for (std::size_t room = half; head_count + tail_count < shown.size(); ++tail_count) {
    const auto& one = shown[shown.size() - 1 - tail_count];
    const std::size_t size = one.size() > 4 ? one.size() : 1;
    if (size > room) break;
    room -= size;
    tail = one + tail;
  }
  return whole + "...(" + std::to_string(shown.size() - head_count - tail_count) + " characters)..." + tail;
}

// Returns a text for a message, printable, short, and on one line.
inline std::string quote(std::string_view text, std::size_t most = MOST_QUOTED) {
  std::string line;
  for (const char c : text) line += c == '\n' ? std::string("\\n") : std::string(1, c);
  return printable(line, most);
}

}  // namespace detail

class Error : public std::runtime_error {
 public:
  explicit Error(std::string_view message) : std::runtime_error(detail::printable(message)) {}
};

class UsageError : public Error {
  using Error::Error;
};

class MissingError : public Error {
  using Error::Error;
};

class UnsupportedError : public MissingError {
  using MissingError::MissingError;
};

class BundleError : public Error {
  using Error::Error;
};

class OutdatedError : public BundleError {
  using BundleError::BundleError;
};

class TrustError : public BundleError {
  using BundleError::BundleError;
};

class DataError : public Error {
  using Error::Error;
};

namespace detail {

// Makes the error for an unknown name, which lists those that there are.
template <typename Names>
UsageError unknown_name(std::string_view kind, std::string_view name, const Names& names) {
  std::string known;
  for (const auto& one : names) known += (known.empty() ? "" : ", ") + quote(one);
  return UsageError("Unknown " + std::string(kind) + " '" + quote(name) + "'. Known: " + (known.empty() ? "none" : known) + ".");
}

}  // namespace detail
}  // namespace offramp
