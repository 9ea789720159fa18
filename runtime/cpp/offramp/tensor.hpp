// Tensors: as the manifest describes them, as a program gives them, and as results carry them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"

namespace offramp {

enum class Dtype { float16, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64, boolean };

using Shape = std::vector<std::int64_t>;

// A number of 16 bits, which C++17 does not have.
struct Float16 {
  std::uint16_t bits;
};

namespace detail {

struct DtypeFacts {
  std::string_view name;
  std::size_t bytes;
};

inline constexpr std::array<DtypeFacts, 12> DTYPES = {{{"float16", 2},
                                                       {"float32", 4},
                                                       {"float64", 8},
                                                       {"int8", 1},
                                                       {"int16", 2},
                                                       {"int32", 4},
                                                       {"int64", 8},
                                                       {"uint8", 1},
                                                       {"uint16", 2},
                                                       {"uint32", 4},
                                                       {"uint64", 8},
                                                       {"bool", 1}}};

template <typename T>
struct DtypeOf;
#define OFFRAMP_DTYPE(type, name)               \
  template <>                                   \
  struct DtypeOf<type> {                        \
    static constexpr Dtype value = Dtype::name; \
  }
OFFRAMP_DTYPE(Float16, float16);
OFFRAMP_DTYPE(float, float32);
OFFRAMP_DTYPE(double, float64);
OFFRAMP_DTYPE(std::int8_t, int8);
OFFRAMP_DTYPE(std::int16_t, int16);
OFFRAMP_DTYPE(std::int32_t, int32);
OFFRAMP_DTYPE(std::int64_t, int64);
OFFRAMP_DTYPE(std::uint8_t, uint8);
OFFRAMP_DTYPE(std::uint16_t, uint16);
OFFRAMP_DTYPE(std::uint32_t, uint32);
OFFRAMP_DTYPE(std::uint64_t, uint64);
OFFRAMP_DTYPE(bool, boolean);
#undef OFFRAMP_DTYPE

inline std::string show_shape(const Shape& shape) {
  std::string text;
  for (const auto size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "(" + text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace detail

inline std::size_t count_values(const Shape& shape) {
  std::size_t count = 1;
  for (const auto size : shape) count *= static_cast<std::size_t>(size);
  return count;
}

inline std::string_view name_of(Dtype dtype) { return detail::DTYPES[static_cast<std::size_t>(dtype)].name; }
inline std::size_t bytes_of(Dtype dtype) { return detail::DTYPES[static_cast<std::size_t>(dtype)].bytes; }

// An axis: a size, the batch, or a name for an axis whose length differs from call to call.
struct Axis {
  static constexpr std::int64_t BATCH = -1, NAMED = -2;

  std::int64_t size;
  std::string name;

  bool operator==(const Axis& other) const { return size == other.size && name == other.name; }
};

// A tensor as the manifest describes it.
struct Tensor {
  std::string name;
  Dtype dtype = Dtype::float32;
  std::vector<Axis> shape;

  bool fits(const Tensor& other) const { return dtype == other.dtype && shape == other.shape; }
  bool operator==(const Tensor& other) const { return name == other.name && fits(other); }

  // The index of the batch axis; the number of axes if there is none.
  std::size_t batch_axis() const {
    const auto at = std::find_if(shape.begin(), shape.end(), [](const Axis& axis) { return axis.size == Axis::BATCH; });
    return static_cast<std::size_t>(at - shape.begin());
  }

  bool is_sized() const {
    return std::none_of(shape.begin(), shape.end(), [](const Axis& axis) { return axis.size == Axis::NAMED; });
  }

  // The shape for one sample, the batch axis included. The tensor has no named axes.
  Shape single() const {
    Shape sizes;
    for (const auto& axis : shape) sizes.push_back(axis.size == Axis::BATCH ? 1 : axis.size);
    return sizes;
  }
};

// A sample's values for one input, which are not copied: they must be there until the call has ended.
class View {
 public:
  // Without a shape the values are as many as a sample has; an input with named axes needs one, with or without its batch axis.
  template <typename T>
  View(const T* data, std::size_t size, Shape shape = {})
      : data_(data), size_(size), dtype_(detail::DtypeOf<T>::value), shape_(std::move(shape)) {}
  template <typename T>
  View(const std::vector<T>& values, Shape shape = {}) : View(values.data(), values.size(), std::move(shape)) {}

  const void* data() const { return data_; }
  std::size_t size() const { return size_; }
  Dtype dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }

 private:
  const void* data_;
  std::size_t size_;
  Dtype dtype_;
  Shape shape_;
};

// A part of an answer: a copy, without the batch axis.
struct Array {
  Dtype dtype;
  Shape shape;
  std::vector<std::byte> bytes;

  std::size_t size() const { return bytes.size() / bytes_of(dtype); }

  template <typename T>
  const T* data() const {
    if (detail::DtypeOf<T>::value != dtype) {
      throw UsageError("This array holds " + std::string(name_of(dtype)) + ", not " +
                       std::string(name_of(detail::DtypeOf<T>::value)) + ".");
    }
    return reinterpret_cast<const T*>(bytes.data());
  }
};

}  // namespace offramp
