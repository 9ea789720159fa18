// Stages on ONNX Runtime's CPU: `cpu`. It is written against the C header, onnxruntime_c_api.h, alone.
#pragma once

#include <onnxruntime_c_api.h>
#include <stdlib.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine.hpp"

namespace offramp {

namespace detail {

inline const OrtApi* find_ort() {
  static const OrtApi* const api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    throw MissingError(std::string("This program was compiled for a newer ONNX Runtime than ") +
                       OrtGetApiBase()->GetVersionString() + ", which is here. Install the version of its headers.");
  }
  return api;
}

class OrtFailure : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void check_ort(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string reason = quote(find_ort()->GetErrorMessage(status), MOST_REASON);
  find_ort()->ReleaseStatus(status);
  throw OrtFailure(reason);
}

// Calls what releases an object of ONNX Runtime.
struct OrtRelease {
  void operator()(OrtEnv* each) const { find_ort()->ReleaseEnv(each); }
  void operator()(OrtSessionOptions* each) const { find_ort()->ReleaseSessionOptions(each); }
  void operator()(OrtSession* each) const { find_ort()->ReleaseSession(each); }
  void operator()(OrtRunOptions* each) const { find_ort()->ReleaseRunOptions(each); }
  void operator()(OrtIoBinding* each) const { find_ort()->ReleaseIoBinding(each); }
  void operator()(OrtMemoryInfo* each) const { find_ort()->ReleaseMemoryInfo(each); }
  void operator()(OrtValue* each) const { find_ort()->ReleaseValue(each); }
  void operator()(OrtTensorTypeAndShapeInfo* each) const { find_ort()->ReleaseTensorTypeAndShapeInfo(each); }
};

template <typename T>
using OrtOwned = std::unique_ptr<T, OrtRelease>;

// Makes an object of ONNX Runtime by a call whose last argument is where it is put.
template <typename T, typename... Parameters, typename... Arguments>
OrtOwned<T> make_ort(OrtStatus*(ORT_API_CALL* make)(Parameters...)NO_EXCEPTION, Arguments... arguments) {
  T* made = nullptr;
  check_ort(make(arguments..., &made));
  return OrtOwned<T>(made);
}

inline ONNXTensorElementDataType ort_type(Dtype dtype) {
  static constexpr std::array<ONNXTensorElementDataType, 12> TYPES = {
      ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,  ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
      ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,  ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
      ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,   ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
      ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL};
  return TYPES[static_cast<std::size_t>(dtype)];
}

inline OrtOwned<OrtValue> make_value(const OrtMemoryInfo* memory, const Slot& slot) {
  const std::size_t bytes = count_values(slot.shape) * bytes_of(slot.dtype);
  return make_ort<OrtValue>(find_ort()->CreateTensorWithDataAsOrtValue, memory, slot.data, bytes, slot.shape.data(),
                            slot.shape.size(), ort_type(slot.dtype));
}

class OrtRun : public Run {
 public:
  OrtRun(std::shared_ptr<OrtSession> session, OrtOwned<OrtIoBinding> binding, OrtOwned<OrtRunOptions> options)
      : session_(std::move(session)), binding_(std::move(binding)), options_(std::move(options)) {}

  void run() override { check_ort(find_ort()->RunWithBinding(session_.get(), options_.get(), binding_.get())); }

 private:
  std::shared_ptr<OrtSession> session_;
  OrtOwned<OrtIoBinding> binding_;
  OrtOwned<OrtRunOptions> options_;
};

class OrtStage : public Compiled {
 public:
  // The session keeps its environment as long as it is there.
  OrtStage(OrtOwned<OrtSession> session, std::shared_ptr<OrtEnv> env)
      : session_(session.release(), [env = std::move(env)](OrtSession* each) { OrtRelease()(each); }),
        memory_(make_ort<OrtMemoryInfo>(find_ort()->CreateCpuMemoryInfo, OrtDeviceAllocator, OrtMemTypeDefault)) {}

  std::string runs_on() const override {
    return std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + ", CPUExecutionProvider";
  }

  std::unique_ptr<Run> bind(const Slots& inputs, const Slots& outputs) override {
    try {
      auto binding = make_ort<OrtIoBinding>(find_ort()->CreateIoBinding, session_.get());
      for (const auto& [name, slot] : inputs) {
        check_ort(find_ort()->BindInput(binding.get(), name.c_str(), make_value(memory_.get(), slot).get()));
      }
      for (const auto& [name, slot] : outputs) {
        check_ort(find_ort()->BindOutput(binding.get(), name.c_str(), make_value(memory_.get(), slot).get()));
      }
      auto options = make_ort<OrtRunOptions>(find_ort()->CreateRunOptions);
      check_ort(
          find_ort()->AddRunConfigEntry(options.get(), "gpu_graph_id", "-1"));  // else each run looks for one, and fails inside
      return std::make_unique<OrtRun>(session_, std::move(binding), std::move(options));
    } catch (const OrtFailure& error) {
      throw BundleError(std::string("A stage and its manifest do not fit together: ") + error.what() +
                        " Export the network anew.");
    }
  }

  std::map<std::string, Array> infer(const Slots& inputs, const std::vector<std::string>& outputs) override {
    std::vector<const char*> given, wanted;
    std::vector<OrtOwned<OrtValue>> owned;
    std::vector<const OrtValue*> values;
    for (const auto& [name, slot] : inputs) {
      given.push_back(name.c_str());
      owned.push_back(make_value(memory_.get(), slot));
      values.push_back(owned.back().get());
    }
    for (const auto& name : outputs) wanted.push_back(name.c_str());
    std::vector<OrtValue*> found(outputs.size(), nullptr);
    OrtStatus* const status = find_ort()->Run(session_.get(), nullptr, given.data(), values.data(), values.size(), wanted.data(),
                                              wanted.size(), found.data());
    for (OrtValue* const each : found) owned.emplace_back(each);
    check_ort(status);
    std::map<std::string, Array> arrays;
    for (std::size_t i = 0; i < outputs.size(); ++i) arrays.emplace(outputs[i], copy(found[i]));
    return arrays;
  }

 private:
  static Array copy(OrtValue* value) {
    const auto info = make_ort<OrtTensorTypeAndShapeInfo>(find_ort()->GetTensorTypeAndShape, value);
    ONNXTensorElementDataType type;
    std::size_t axes = 0;
    void* data = nullptr;
    check_ort(find_ort()->GetTensorElementType(info.get(), &type));
    check_ort(find_ort()->GetDimensionsCount(info.get(), &axes));
    Array array{find_dtype(type, ort_type), Shape(axes), {}};
    check_ort(find_ort()->GetDimensions(info.get(), array.shape.data(), axes));
    check_ort(find_ort()->GetTensorMutableData(value, &data));
    const auto* bytes = static_cast<const std::byte*>(data);
    array.bytes.assign(bytes, bytes + count_values(array.shape) * bytes_of(array.dtype));
    return array;
  }

  std::shared_ptr<OrtSession> session_;
  OrtOwned<OrtMemoryInfo> memory_;
};

}  // namespace detail

class OnnxRuntime : public Engine {
 public:
  OnnxRuntime() {
    ::setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // ONNX Runtime 1.29 and newer would tell Microsoft what it runs
    // What fails is thrown: 4 logs fatal errors alone.
    env_ = detail::make_ort<OrtEnv>(detail::find_ort()->CreateEnv, ORT_LOGGING_LEVEL_FATAL, "offramp");
  }

  std::string default_device() const override { return "cpu"; }

  std::optional<std::string> find_place(const std::string& device) const override {
    if (device != "cpu") return std::nullopt;
    return device;
  }

  std::shared_ptr<Compiled> compile(const StageFile& stage, const std::string&, int threads) override {
#if defined(__x86_64__)
    const std::string file = stage.guarded.value_or(stage.file);  // guards were measured on x86-64
#else
    const std::string file = stage.file;
#endif
    const std::string path = (stage.bundle.path() / stage.variant.folder / file).string();
    stage.bundle.copy(stage.variant, stage.variant.weights, stage.folder);
    const auto copy = stage.bundle.copy(stage.variant, file, stage.folder);
    const OrtApi* const ort = detail::find_ort();
    try {
      const auto options = detail::make_ort<OrtSessionOptions>(ort->CreateSessionOptions);
      detail::check_ort(ort->SetIntraOpNumThreads(options.get(), threads));
      detail::check_ort(ort->SetInterOpNumThreads(options.get(), 1));
      detail::check_ort(ort->SetSessionLogSeverityLevel(options.get(), ORT_LOGGING_LEVEL_FATAL));
      if (threads > 1) detail::check_ort(ort->AddSessionConfigEntry(options.get(), "session.intra_op.allow_spinning", "0"));
      auto session = detail::make_ort<OrtSession>(ort->CreateSession, static_cast<const OrtEnv*>(env_.get()), copy.c_str(),
                                                  static_cast<const OrtSessionOptions*>(options.get()));
      return std::make_shared<detail::OrtStage>(std::move(session), env_);
    } catch (const detail::OrtFailure& error) {
      throw BundleError(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + " cannot load " + path + ": " +
                        error.what());
    }
  }

 private:
  std::shared_ptr<OrtEnv> env_;
};

// Returns the engine, for `load`.
inline std::shared_ptr<Engine> onnxruntime() { return std::make_shared<OnnxRuntime>(); }

}  // namespace offramp
