// Runs a fuzz target once over the files and directories given, without libFuzzer: the kept corpus as a regression
// test for every compiler. A directory that does not exist is an empty corpus. The empty input always runs.
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

std::vector<std::filesystem::path> files_under(const std::filesystem::path& path) {
  if (std::filesystem::is_regular_file(path)) return {path};
  std::vector<std::filesystem::path> files;
  if (!std::filesystem::exists(path)) return files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  return files;
}

std::vector<char> contents_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

void run(const std::vector<char>& input) {
  // A copy of exactly this size, so that a sanitizer sees one byte too far.
  const std::vector<std::uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

}  // namespace

int main(int argc, char** argv) try {
  run({});
  std::size_t count = 0;
  for (int i = 1; i < argc; ++i) {
    for (const auto& file : files_under(argv[i])) {
      std::cerr << file.string() << std::endl;  // flushed: the last line names the input that crashed
      run(contents_of(file));
      ++count;
    }
  }
  std::cout << "replayed " << count << " inputs and the empty one\n";
} catch (const std::exception& e) {
  std::cerr << e.what() << '\n';
  return 1;
}
