// The version of offramp that these headers belong to.
#pragma once

namespace offramp {

inline constexpr char VERSION[] = "0.1.0";

}  // namespace offramp
