// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/sandbox.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <vector>

#include "runtime/io/hdf5_file.h"
#include "runtime/io/safetensors.h"

namespace rankwise::testing {

namespace fs = std::filesystem;

Sandbox& Sandbox::instance() {
  static Sandbox sandbox;
  return sandbox;
}

Sandbox::Sandbox() {
  const fs::path inside(root()), beside(outside());
  fs::create_directories(inside / "sub");
  fs::create_directories(inside / "folder.safetensors");
  fs::create_directories(beside);
  std::vector<float> values = {1, 2, 3, 4};
  const Tensor w(values.data(), DType::kF32, {4});
  for (const fs::path& path : {inside / "shard.safetensors", inside / "sub/shard.safetensors",
                               beside / "secret.safetensors", beside / "hard.safetensors"}) {
    write_safetensors(path.string(), {{"w", w}});
  }
  Hdf5File secret((beside / "secret.h5").string(), Hdf5File::Mode::kCreate);
  secret.write("/w", w);
  secret.close();
  std::ofstream(beside / "secret.bin") << std::string(4096, 's');
  fs::create_hard_link(beside / "hard.safetensors", inside / "hard.safetensors");
  fs::remove(beside / "hard.safetensors");
  fs::create_symlink(beside / "secret.safetensors", inside / "out.safetensors");
  fs::create_symlink(beside, inside / "out");
  fs::create_symlink("/dev/zero", inside / "device.safetensors");
  if (mkfifo((inside / "pipe.safetensors").c_str(), 0600) != 0) throw std::runtime_error("mkfifo");
  watch_ = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (watch_ < 0 || inotify_add_watch(watch_, beside.c_str(), IN_OPEN) < 0) {
    throw std::runtime_error("inotify");
  }
}

Sandbox::~Sandbox() { close(watch_); }

std::string Sandbox::put(std::string_view name, std::string_view bytes) const {
  const std::string path = root() + "/" + std::string(name);
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0) throw std::runtime_error("create " + path);
  while (!bytes.empty()) {
    const ssize_t written = write(file, bytes.data(), bytes.size());
    if (written <= 0) throw std::runtime_error("write " + path);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  close(file);
  return path;
}

bool Sandbox::outside_was_opened() {
  bool opened = false;
  std::array<char, 4096> events;
  while (read(watch_, events.data(), events.size()) > 0) opened = true;
  return opened;
}

}  // namespace rankwise::testing
