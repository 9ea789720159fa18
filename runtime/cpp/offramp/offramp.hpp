// Runs bundles of offramp without Python: early-exit networks, stage by stage, until an exit is sure enough. docs/how-to/cpp.md.
//
// Beside this, include the engines: <offramp/openvino.hpp>, <offramp/onnxruntime.hpp>.
#pragma once

#include "bundle.hpp"
#include "engine.hpp"
#include "error.hpp"
#include "loading.hpp"
#include "tensor.hpp"
#include "version.hpp"
