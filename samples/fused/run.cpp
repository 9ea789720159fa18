// run MODEL SAMPLE: run a file that `offramp fuse` wrote on one sample, float32 values in a row. No offramp, no Python.
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <vector>

int main(int, char** argv) {
  std::vector<float> x(std::filesystem::file_size(argv[2]) / sizeof(float));
  std::ifstream(argv[2], std::ios::binary).read(reinterpret_cast<char*>(x.data()), x.size() * sizeof(float));

  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "offramp");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(env, argv[1], options);
  Ort::AllocatorWithDefaultOptions allocator;
  auto name = session.GetInputNameAllocated(0, allocator);
  auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto input = Ort::Value::CreateTensor<float>(memory, x.data(), x.size(), shape.data(), shape.size());
  const char *inputs[] = {name.get()}, *outputs[] = {"label", "score", "exit"};
  auto found = session.Run(Ort::RunOptions(), inputs, &input, 1, outputs, 3);
  std::printf("label %lld score %.4f exit %lld\n", static_cast<long long>(*found[0].GetTensorData<int64_t>()),
              *found[1].GetTensorData<float>(), static_cast<long long>(*found[2].GetTensorData<int64_t>()));
}
