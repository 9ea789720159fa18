// An input of a network: what a sample may be, and how it gets into memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <type_traits>

#include "engine.hpp"
#include "manifest.hpp"

namespace offramp::detail {

class Input {
 public:
  // `rows` are those of the table into which the values are indices; 0 if there is none.
  Input(const Tensor& tensor, std::int64_t rows)
      : tensor_(tensor), rows_(rows), is_sized_(tensor.is_sized()), count_(is_sized_ ? count_values(tensor.single()) : 0) {}

  // Sees that a sample has an input's dtype and shape, with or without its batch axis.
  void check_form(const View& view, std::map<std::string, std::int64_t>& lengths) const {
    if (view.dtype() != tensor_.dtype) {
      throw DataError("The network takes " + std::string(name_of(tensor_.dtype)) + " for " + quote(tensor_.name) + ", not " +
                      std::string(name_of(view.dtype())) +
                      ". Prepare samples as in training (scale, normalise) before they are passed.");
    }
    const Shape& shape = view.shape();
    if (shape.empty() && is_sized_) {
      if (view.size() == count_) return;
      throw DataError("The network takes " + std::to_string(count_) + " values for " + quote(tensor_.name) + ", not " +
                      std::to_string(view.size()) + ".");
    }
    const std::size_t axes = tensor_.shape.size(), batch = tensor_.batch_axis(),
                      skipped = shape.size() + 1 == axes ? batch : axes;
    bool fits = shape.size() == axes || skipped == batch;
    std::uint64_t values = 1;
    for (std::size_t i = 0, at = 0; fits && i < axes; ++i) {
      if (i == skipped) continue;
      const std::int64_t size = shape[at++];
      const Axis& axis = tensor_.shape[i];
      if (axis.size == Axis::NAMED)
        fits = size > 0 && size <= MOST_VALUES && lengths.try_emplace(axis.name, size).first->second == size;
      else
        fits = size == (axis.size == Axis::BATCH ? 1 : axis.size);
      values *= static_cast<std::uint64_t>(size);
      fits = fits && values <= view.size();
    }
    if (fits && values == view.size()) return;
    std::string wanted;
    for (std::size_t i = 0; i < axes; ++i) {
      if (i == batch) continue;
      wanted += (wanted.empty() ? "" : ", ") +
                (tensor_.shape[i].size == Axis::NAMED ? quote(tensor_.shape[i].name) : std::to_string(tensor_.shape[i].size));
    }
    throw DataError("The network takes a sample of shape (" + wanted + ") for " + quote(tensor_.name) +
                    ", axes of the same name equally long, not " + std::to_string(view.size()) + " values of shape " +
                    show_shape(shape) + ".");
  }

  // Copies an input into its memory, and looks for what engines do not look for: NaN, infinity, indices beyond their table.
  void copy_in(const View& view, const Slot& slot) const {
    std::memcpy(slot.data, view.data(), view.size() * bytes_of(slot.dtype));
    bool is_right = true;
    switch (slot.dtype) {
      case Dtype::float16:
        is_right = is_finite<std::uint16_t>(static_cast<const std::uint16_t*>(slot.data), view.size(), 0x7c00);
        break;
      case Dtype::float32:
        is_right = is_finite<std::uint32_t>(static_cast<const std::uint32_t*>(slot.data), view.size(), 0x7f800000);
        break;
      case Dtype::float64:
        is_right = is_finite<std::uint64_t>(static_cast<const std::uint64_t*>(slot.data), view.size(), 0x7ff0000000000000);
        break;
      case Dtype::int8:
        return check_rows<std::int8_t>(slot, view.size());
      case Dtype::int16:
        return check_rows<std::int16_t>(slot, view.size());
      case Dtype::int32:
        return check_rows<std::int32_t>(slot, view.size());
      case Dtype::int64:
        return check_rows<std::int64_t>(slot, view.size());
      case Dtype::uint8:
        return check_rows<std::uint8_t>(slot, view.size());
      case Dtype::uint16:
        return check_rows<std::uint16_t>(slot, view.size());
      case Dtype::uint32:
        return check_rows<std::uint32_t>(slot, view.size());
      case Dtype::uint64:
        return check_rows<std::uint64_t>(slot, view.size());
      case Dtype::boolean:
        break;
    }
    if (!is_right) throw DataError("The sample holds NaN or infinity in " + quote(tensor_.name) + ".");
  }

  // The shape of a sample, the batch axis included.
  Shape shape_of(const View& view) const {
    if (view.shape().empty() && is_sized_) return tensor_.single();
    Shape shape = view.shape();
    if (shape.size() < tensor_.shape.size()) shape.insert(shape.begin() + static_cast<std::ptrdiff_t>(tensor_.batch_axis()), 1);
    return shape;
  }

 private:
  // Tells whether no float has an exponent of ones alone; its bits are those of the mask.
  template <typename Bits>
  static bool is_finite(const Bits* values, std::size_t count, Bits mask) {
    unsigned found = 0;
    for (std::size_t i = 0; i < count; ++i) found |= (values[i] & mask) == mask;
    return found == 0;
  }

  template <typename T>
  void check_rows(const Slot& slot, std::size_t count) const {
    if (rows_ == 0) return;
    const auto* values = static_cast<const T*>(slot.data);
    const auto rows = static_cast<std::uint64_t>(rows_);
    for (std::size_t at = 0; at < count; ++at) {
      const bool is_below = std::is_signed_v<T> && values[at] < 0;
      const std::uint64_t row = is_below ? ~static_cast<std::uint64_t>(values[at]) : static_cast<std::uint64_t>(values[at]);
      if (row >= rows) {
        const std::string most = std::to_string(rows);
        throw DataError("The sample holds " + std::to_string(values[at]) + " in " + quote(tensor_.name) +
                        ", which is an index into " + most + " rows: 0 to " + std::to_string(rows - 1) +
                        ", or from the end -1 to -" + most + ".");
      }
    }
  }

  Tensor tensor_;
  std::int64_t rows_;
  bool is_sized_;
  std::size_t count_;
};

}  // namespace offramp::detail
