// Times a network's calls beside bare calls of its stages, in turns: bench BUNDLE DEVICE. For each line of input, a number of
// calls, it prints the processor's seconds of a bare call and of a network's.
#include <ctime>
#include <iostream>
#include <offramp/offramp.hpp>
#ifdef WITH_OPENVINO
#include <offramp/openvino.hpp>
#endif
#ifdef WITH_ONNXRUNTIME
#include <offramp/onnxruntime.hpp>
#endif

namespace {

double cpu_s() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

template <typename Call>
double time_calls(int count, Call call) {
  call();
  const double start = cpu_s();
  for (int i = 0; i < count; ++i) call();
  return (cpu_s() - start) / count;
}

}  // namespace

int main(int, char** arguments) {
  offramp::Engines engines;
#ifdef WITH_OPENVINO
  engines.push_back(offramp::openvino());
#endif
#ifdef WITH_ONNXRUNTIME
  engines.push_back(offramp::onnxruntime());
#endif
  offramp::Options options;
  options.calibrated = false;
  options.devices = {arguments[2]};
  offramp::Network net = offramp::load(arguments[1], engines, options);

  const offramp::Bundle bundle(arguments[1]);
  const auto& variant = bundle.variant();
  const std::vector<std::string> devices(variant.stages.size(), arguments[2]);
  const auto links = offramp::detail::compile_links(bundle, variant, variant.stages, variant.exits, devices, engines, options);
  const auto& inputs = bundle.manifest().inputs;
  offramp::detail::Memory memory(inputs, {inputs[0].single()});
  memory.tie(links, false);

  std::vector<float> x(offramp::count_values(inputs[0].single()));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 7) / 7 - 0.5f;
  const auto bare = [&] {
    std::memcpy(memory.inputs[0].data, x.data(), x.size() * sizeof(float));
    for (auto& step : memory.steps) step.run->run();
  };
  const auto call = [&] { net(x); };
  for (int count = 0; std::cin >> count;) {
    const double bare_s = time_calls(count, bare);
    std::cout << bare_s << " " << time_calls(count, call) << std::endl;
  }
}
