// SPDX-License-Identifier: Apache-2.0
// Flips every single bit of a small checkpoint, in every file.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "launch/checkpoint/checkpoint_folder.h"
#include "launch/checkpoint/checkpoint_reader.h"
#include "runtime/io/atomic_file.h"
#include "tests/launch/checkpoint/toy_state.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

#ifdef RANKWISE_SANITIZE
constexpr size_t kStride = 25;  // a sample: every flip takes 20 times as long
#else
constexpr size_t kStride = 1;
#endif

struct FlipCounts {
  int64_t flips = 0;
  int64_t refused = 0;       // with the name of the file
  int64_t tensor_named = 0;  // and of a tensor
};

FlipCounts flip_every_bit(const std::string& folder, const std::string& name) {
  const auto alone = make_single_communicator();
  const std::string path = folder + "/" + name;
  const std::string content = read_file(path);
  const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
  EXPECT_GE(file, 0);
  FlipCounts counts;
  for (size_t bit = 0; bit < content.size() * 8; bit += kStride) {
    const auto at = static_cast<off_t>(bit / 8);
    const char flipped = static_cast<char>(content[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_EQ(pwrite(file, &flipped, 1, at), 1);
    ++counts.flips;
    try {
      const CheckpointReader reader(folder, *alone);
      ADD_FAILURE() << path << ": bit " << bit << " was not noticed";
    } catch (const FormatError& error) {
      const std::string message = error.what();
      if (message.find(path) != std::string::npos) ++counts.refused;
      if (message.find(": tensor '") != std::string::npos) ++counts.tensor_named;
    }
    EXPECT_EQ(pwrite(file, &content[bit / 8], 1, at), 1);
  }
  close(file);
  return counts;
}

TEST(CheckpointBitFlip, EverySingleBitOfEveryFileIsNoticedAndTheFileNamed) {
  const testing::ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    const DeviceMesh mesh(world, 2);
    const testing::ToyState toy(mesh, 1);
    CheckpointState state = toy.at_step(1);
    state.tensors.resize(3);
    CheckpointWriter writer({.folder = run.path()}, world);
    testing::save(writer, state);
  });
  const std::string folder = run.file(checkpoint_name(1));
  FlipCounts sum;
  for (const std::string& name : testing::names_in(folder)) {
    const FlipCounts counts = flip_every_bit(folder, name);
    EXPECT_EQ(counts.refused, counts.flips) << name;
    EXPECT_EQ(counts.tensor_named > 0, name != kManifestName) << name;
    sum.flips += counts.flips;
    sum.tensor_named += counts.tensor_named;
  }
  RecordProperty("flips", std::to_string(sum.flips));
  RecordProperty("tensor_named", std::to_string(sum.tensor_named));
  std::printf("%lld flips, all noticed; %lld within one tensor, which was named\n",
              static_cast<long long>(sum.flips), static_cast<long long>(sum.tensor_named));
  const auto alone = make_single_communicator();
  EXPECT_NO_THROW(CheckpointReader(folder, *alone));
}

}  // namespace
}  // namespace rankwise
