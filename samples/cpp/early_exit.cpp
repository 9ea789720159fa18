// Runs a bundle on samples of float32 that lie in a file one after another: early_exit BUNDLE SAMPLES
#include <fstream>
#include <iostream>
#include <iterator>
#include <offramp/offramp.hpp>
#include <offramp/openvino.hpp>

int main(int count, char** arguments) {
  if (count != 3) {
    std::cerr << "usage: early_exit BUNDLE SAMPLES\n";
    return 2;
  }
  std::ifstream file(arguments[2], std::ios::binary);
  if (!file) {
    std::cerr << "cannot read " << arguments[2] << "\n";
    return 1;
  }
  try {
    offramp::Options options;
    options.devices = {"openvino:CPU"};
    offramp::Network net = offramp::load(arguments[1], {offramp::openvino()}, options);
    for (const auto& notice : net.notices()) std::cerr << "note: " << notice << "\n";
    std::vector<float> sample(offramp::count_values(net.inputs()[0].single()));
    while (file.read(reinterpret_cast<char*>(sample.data()), sample.size() * sizeof(float))) {
      const offramp::Result result = net(sample);
      std::cout << result.label << " " << result.score << " " << result.exit << "\n";
    }
    if (file.gcount() != 0) {
      std::cerr << arguments[2] << " ends within a sample: each has " << sample.size() << " values of float32\n";
      return 1;
    }
  } catch (const offramp::Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
