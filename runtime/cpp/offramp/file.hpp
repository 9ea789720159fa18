// Files, read so that no pipe keeps the reader waiting and no link leads outside; and folders that nobody else writes.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "error.hpp"
#include "sha256.hpp"

namespace offramp::detail {

namespace fs = std::filesystem;

inline constexpr std::size_t PIECE_BYTES = 1 << 20;

inline std::string show(const fs::path& path) { return printable(path.string(), 400); }

inline MissingError cannot(const char* what, const fs::path& path, int code) {
  const std::string reason = code == 0 ? "It is no file" : std::strerror(code);
  const bool is_write = std::string_view(what) == "write";
  return MissingError(std::string("Cannot ") + what + " " + show(path) + ": " + reason +
                      (is_write ? ". Check permissions and free space, or set TMPDIR." : ". Check its permissions."));
}

// An open file that is neither a folder, nor a pipe, nor a device.
class File {
 public:
  explicit File(fs::path path) : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
    struct stat facts{};
    if (descriptor_ < 0) throw cannot("read", path_, errno);
    if (::fstat(descriptor_, &facts) != 0 || !S_ISREG(facts.st_mode)) {
      ::close(descriptor_);
      throw cannot("read", path_, 0);
    }
    size_ = static_cast<std::uint64_t>(facts.st_size);
  }
  ~File() { ::close(descriptor_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  // Returns the content: all of it, or where it is longer than `most` its first `most + 1` bytes.
  std::string read(std::uint64_t most) {
    std::string content(static_cast<std::size_t>(std::min(size_, most) + 1), '\0');
    std::size_t done = 0;
    while (done < content.size()) {
      const std::size_t got = read_some(content.data() + done, content.size() - done);
      if (got == 0) break;
      done += got;
    }
    content.resize(done);
    return content;
  }

  // Calls `use` with one piece after another, and returns the sha256 of all; ends after `most` bytes and one piece.
  std::string hash(std::uint64_t most, const std::function<void(const char*, std::size_t)>& use) {
    Sha256 sha;
    std::string piece(PIECE_BYTES, '\0');
    for (std::uint64_t done = 0; done <= most;) {
      const std::size_t got = read_some(piece.data(), piece.size());
      if (got == 0) break;
      sha.update(piece.data(), got);
      use(piece.data(), got);
      done += got;
    }
    return sha.hex();
  }

 private:
  std::size_t read_some(char* place, std::size_t size) {
    const ::ssize_t got = ::read(descriptor_, place, size);
    if (got < 0) throw cannot("read", path_, errno);
    return static_cast<std::size_t>(got);
  }

  fs::path path_;
  int descriptor_;
  std::uint64_t size_ = 0;
};

// Refuses a name in a bundle from which a link leads outside, where strangers would have files read.
inline void check_inside(const fs::path& root, const std::string& name) {
  std::error_code failed;
  const fs::path top = fs::canonical(root, failed), real = fs::weakly_canonical(root / name, failed);
  if (failed) return;  // a link to itself: whoever opens it learns that nothing is there
  const auto [end, _] = std::mismatch(top.begin(), top.end(), real.begin(), real.end());
  if (end != top.end()) {
    throw BundleError(show(root / name) +
                      " leads outside the bundle through a link. Copy the bundle with what its links lead to: cp -rL.");
  }
}

// Returns the bytes of a file in a bundle; none if there is no file.
inline std::optional<std::uint64_t> find_size(const fs::path& root, const std::string& name) {
  check_inside(root, name);
  struct stat facts{};
  if (::stat((root / name).c_str(), &facts) != 0) {
    if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP) return std::nullopt;
    throw cannot("read", root / name, errno);
  }
  if (!S_ISREG(facts.st_mode)) return std::nullopt;
  return static_cast<std::uint64_t>(facts.st_size);
}

// A folder for this user alone, in the temporary folder (TMPDIR). It is removed with the object.
class PrivateFolder {
 public:
  PrivateFolder() {
    const char* parent = std::getenv("TMPDIR");
    std::string name = (fs::path(parent != nullptr && *parent != '\0' ? parent : "/tmp") / "offramp.XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw cannot("write", name, errno);
    path_ = name;
  }
  ~PrivateFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

}  // namespace offramp::detail
