// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint/checkpoint_reader.h"

#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <functional>

#include "launch/checkpoint/checkpoint_folder.h"
#include "runtime/io/atomic_file.h"
#include "tests/launch/checkpoint/toy_state.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/thread_ranks.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::save;
using testing::save_steps, testing::ScratchFolder, testing::ToyState;

TEST(CheckpointReader, EveryLayoutReadsWhatEveryOtherWrote) {
  const std::vector<std::array<int, 2>> layouts = {{1, 1}, {2, 1}, {2, 2}, {4, 2}, {4, 4}, {3, 3}};
  for (const auto [writers, writers_tensor] : layouts) {
    const ScratchFolder run;
    run_ranks_as_threads(
        writers, [&](Communicator& world) { save_steps(run.path(), world, writers_tensor, {3}); });
    for (const auto [ranks, tensor_size] : layouts) {
      run_ranks_as_threads(ranks, [&](Communicator& world) {
        const DeviceMesh mesh(world, tensor_size);
        Stream stream;
        ToyState state(mesh, 0);
        const FoundCheckpoint found = find_checkpoint(run.path(), world);
        ASSERT_TRUE(found.reader.has_value());
        EXPECT_TRUE(found.warnings.empty());
        found.reader->restore(state.tensors(), stream);
        EXPECT_EQ(state.differences(3), 0)
            << writers << "/" << writers_tensor << " to " << ranks << "/" << tensor_size;
        EXPECT_EQ(found.reader->step(), 3);
        EXPECT_EQ(found.reader->scalars().at("data_position"), 21);
        EXPECT_EQ(found.reader->scalars().at("loss_ema"), 0.1);
      });
    }
  }
}

TEST(CheckpointReader, LargeMatrixIsReadInBlocksOfRows) {
  const ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    Stream stream;
    // Read in two blocks; written as two column halves.
    const Shape whole{5, 1 << 20};
    const int64_t half = whole.dim(1) / 2;
    std::vector<float> mine(static_cast<size_t>(5 * half));
    for (size_t i = 0; i < mine.size(); ++i) {
      mine[i] = static_cast<float>(i) + 0.5f * static_cast<float>(world.rank());
    }
    MatrixSlice part = whole_part(whole);
    part.column_begin = world.rank() * half;
    part.column_end = part.column_begin + half;
    CheckpointState state{.step = 1};
    state.tensors.push_back({"w", Tensor(mine.data(), DType::kF32, {5, half}), whole, part});
    CheckpointWriter writer({.folder = run.path()}, world);
    save(writer, state);
    if (world.rank() == 1) return;
    const auto alone = make_single_communicator();
    std::vector<float> read(static_cast<size_t>(whole.numel()));
    const CheckpointReader reader(run.file(checkpoint_name(1)), *alone);
    reader.read({"w", Tensor(read.data(), DType::kF32, whole), whole, whole_part(whole)}, stream);
    int64_t wrong = 0;
    for (int64_t i = 0; i < whole.numel(); ++i) {
      const int64_t column = i % whole.dim(1);
      const int64_t at = i / whole.dim(1) * half + column % half;
      const float expected = static_cast<float>(at) + (column < half ? 0.0f : 0.5f);
      wrong += read[static_cast<size_t>(i)] == expected ? 0 : 1;
    }
    EXPECT_EQ(wrong, 0);
  });
}

TEST(CheckpointReader, BlockCodesAreReadOnlyByTheSamePart) {
  const ScratchFolder run;
  const auto tensors_of = [](const DeviceMesh& mesh, std::vector<uint8_t>& codes, bool split) {
    const ShardSpec spec = split ? ShardSpec::sharded(1) : ShardSpec::replicated();
    const Shape local = spec.local_shape({4, 6}, mesh.tensor().rank(), mesh.tensor().size(), "w");
    std::vector<LocalTensor> tensors;
    tensors.push_back({"w.codes", Tensor(codes.data(), DType::kU8, {7}), local, spec, true});
    return place_tensors(std::move(tensors), mesh);
  };
  for (const bool split : {true, false}) {
    run_ranks_as_threads(4, [&](Communicator& world) {
      const DeviceMesh mesh(world, 2);
      Stream stream;
      const auto of_rank = static_cast<uint8_t>(split ? mesh.tensor().rank() : 0);
      std::vector<uint8_t> codes(7, static_cast<uint8_t>(40 + of_rank));
      CheckpointState state{.step = split ? 1 : 2, .tensors = tensors_of(mesh, codes, split)};
      CheckpointWriter writer({.folder = run.path(), .resumed_from = 1}, world);
      save(writer, state);
      codes.assign(7, 0);
      find_checkpoint(run.path(), world).reader->restore(state.tensors, stream);
      EXPECT_EQ(codes, std::vector<uint8_t>(7, static_cast<uint8_t>(40 + of_rank)));
    });
    const auto alone = make_single_communicator();
    const DeviceMesh mesh(*alone, 1);
    Stream stream;
    std::vector<uint8_t> codes(7);
    const auto tensors = tensors_of(mesh, codes, true);
    const FoundCheckpoint found = find_checkpoint(run.path(), *alone);
    if (split) {
      const std::string message =
          error_of<FormatError>([&] { found.reader->restore(tensors, stream); });
      RW_EXPECT_HAS(message, "tensor 'w.codes' holds blocks of other parts than (4, 6)[0:4, 0:6]");
    } else {
      found.reader->restore(tensors, stream);  // it was whole on every rank
      EXPECT_EQ(codes, std::vector<uint8_t>(7, 40));
    }
  }
}

// What find_checkpoint() says on 3 ranks after `damage` to the newer of the checkpoints 10 and 20;
// it must be the same on all ranks and leave 10.
template <class Damage>
std::string warning_after(const Damage& damage) {
  const ScratchFolder run;
  std::string warning;
  run_ranks_as_threads(4, [&](Communicator& world) { save_steps(run.path(), world, 4, {10, 20}); });
  damage(run);
  run_ranks_as_threads(3, [&](Communicator& world) {
    const FoundCheckpoint found = find_checkpoint(run.path(), world);
    EXPECT_EQ(found.reader->step(), 10);
    EXPECT_EQ(found.warnings.size(), 1u);
    const std::vector<std::string> all = world.gather_text(found.warnings[0], "warnings");
    EXPECT_EQ(all, std::vector<std::string>(3, found.warnings[0]));
    if (world.rank() == 0) warning = found.warnings[0];
  });
  return warning;
}

struct DamageCase {
  std::string what;
  std::function<void(const ScratchFolder&)> damage;
  std::vector<std::string> message;
};

std::vector<DamageCase> damage_cases() {
  const std::string folder = "step-00000020/";
  const auto file = [=](const ScratchFolder& run, const char* name) {
    return run.file(folder + name);
  };
  const auto replace_by_folder = [=](const ScratchFolder& run, const char* name) {
    fs::rename(file(run, name), run.file("former"));
    fs::create_directory(file(run, name));
  };
  return {
      {"missing manifest",
       [=](const auto& run) { fs::remove(file(run, "manifest.json")); },
       {"manifest.json", "No such file"}},
      {"empty manifest",
       [=](const auto& run) { run.write(folder + "manifest.json", ""); },
       {"manifest.json: does not match its own digest"}},
      {"manifest of another step",
       [=](const auto& run) {
         fs::copy_file(run.file("step-00000010/manifest.json"), file(run, "manifest.json"),
                       fs::copy_options::overwrite_existing);
       },
       {"manifest.json: is of step 10"}},
      {"missing file",
       [=](const auto& run) { fs::remove(file(run, "rank-0002.h5")); },
       {"rank 2: ", "rank-0002.h5: cannot be opened: No such file"}},
      {"empty file",
       [=](const auto& run) { run.write(folder + "rank-0003.h5", ""); },
       {"rank 0: ", "rank-0003.h5: 0 bytes, "}},
      {"truncated file",
       [=](const auto& run) { fs::resize_file(file(run, "rank-0001.h5"), 1000); },
       {"rank 1: ", "rank-0001.h5: 1000 bytes, "}},
      {"swapped ranks",
       [=](const auto& run) {
         fs::rename(file(run, "rank-0001.h5"), file(run, "x"));
         fs::rename(file(run, "rank-0002.h5"), file(run, "rank-0001.h5"));
         fs::rename(file(run, "x"), file(run, "rank-0002.h5"));
       },
       {"rank-0001.h5: is rank-0002.h5", "rank-0002.h5: is rank-0001.h5"}},
      {"file of another step",
       [=](const auto& run) {
         fs::copy_file(run.file("step-00000010/rank-0001.h5"), file(run, "rank-0001.h5"),
                       fs::copy_options::overwrite_existing);
       },
       {"rank-0001.h5: does not match its digest", "not the file that was written"}},
      {"link out of the folder",
       [=](const auto& run) {
         fs::rename(file(run, "rank-0001.h5"), run.file("elsewhere.h5"));
         fs::create_symlink(run.file("elsewhere.h5"), file(run, "rank-0001.h5"));
       },
       {"'rank-0001.h5' is a link out of the folder"}},
      {"folder instead of the manifest",
       [=](const auto& run) { replace_by_folder(run, "manifest.json"); },
       {"manifest.json: not a regular file"}},
      {"folder instead of a rank's file",
       [=](const auto& run) { replace_by_folder(run, "rank-0001.h5"); },
       {"rank-0001.h5: not a regular file"}},
  };
}

TEST(CheckpointReader, DamagedNewestIsNamedAndTheOlderOneUsed) {
  for (const DamageCase& c : damage_cases()) {
    const std::string warning = warning_after(c.damage);
    EXPECT_TRUE(warning.starts_with("cannot use checkpoint: rank")) << c.what << ": " << warning;
    for (const std::string& part : c.message) RW_EXPECT_HAS(warning, part);
    RW_EXPECT_HAS(warning, "step-00000020");
  }
}

TEST(CheckpointReader, SwappedStepsAreBothRefused) {
  const ScratchFolder run;
  const auto alone = make_single_communicator();
  save_steps(run.path(), *alone, 1, {10, 20});
  fs::rename(run.file("step-00000010"), run.file("x"));
  fs::rename(run.file("step-00000020"), run.file("step-00000010"));
  fs::rename(run.file("x"), run.file("step-00000020"));
  const std::string message = error_of<FormatError>([&] { find_checkpoint(run.path(), *alone); });
  RW_EXPECT_HAS(message, ": none of 2 checkpoints can be used; newest: ");
  RW_EXPECT_HAS(message, "step-00000020/manifest.json: is of step 10");
}

TEST(CheckpointReader, EveryTruncationIsRefused) {
  const ScratchFolder run;
  const auto alone = make_single_communicator();
  save_steps(run.path(), *alone, 1, {10});
  for (const char* name : {"manifest.json", "rank-0000.h5"}) {
    const std::string path = run.file(std::string("step-00000010/") + name);
    const std::string whole = read_file(path);
    for (size_t length = 0; length < whole.size(); length += 7) {
      fs::resize_file(path, length);
      RW_EXPECT_HAS(error_of<FormatError>([&] { find_checkpoint(run.path(), *alone); }), name);
      std::ofstream(path, std::ios::binary) << whole;
    }
  }
  EXPECT_TRUE(find_checkpoint(run.path(), *alone).reader.has_value());
}

TEST(CheckpointReader, ForeignFilesAreNamedAndIgnored) {
  const ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    save_steps(run.path(), world, 2, {10});
    if (world.rank() == 0) run.write("step-00000010/rank-0002.h5", "of another run");
    world.barrier("written");
    const FoundCheckpoint found = find_checkpoint(run.path(), world);
    ASSERT_TRUE(found.reader.has_value());
    EXPECT_EQ(found.warnings, std::vector<std::string>{run.file("step-00000010/rank-0002.h5") +
                                                       ": is no file of this checkpoint; ignored"});
  });
}

TEST(CheckpointReader, EmptyFolderHoldsNoCheckpoint) {
  const ScratchFolder run;
  run.write("step-00000010.tmp-1-0/manifest.json", "unfinished");
  run.write("LATEST", "step-00000010\n");
  const auto alone = make_single_communicator();
  EXPECT_FALSE(find_checkpoint(run.file("absent"), *alone).reader.has_value());
  const FoundCheckpoint found = find_checkpoint(run.path(), *alone);
  EXPECT_FALSE(found.reader.has_value());
  EXPECT_TRUE(found.warnings.empty());
}

TEST(CheckpointReader, TensorsThatDoNotFitTheRunAreNamedOnAllRanks) {
  const ScratchFolder run;
  run_ranks_as_threads(2, [&](Communicator& world) {
    save_steps(run.path(), world, 2, {10});
    const DeviceMesh mesh(world, 2);
    Stream stream;
    const FoundCheckpoint found = find_checkpoint(run.path(), world);
    const auto message_of = [&](const auto& change) {
      ToyState state(mesh, 0);
      change(state.tensors());
      return error_of<FormatError>([&] { found.reader->restore(state.tensors(), stream); });
    };
    using Tensors = std::vector<CheckpointTensor>;
    RW_EXPECT_HAS(message_of([](Tensors& t) { t[1].name = "other"; }),
                  "cannot restore: ranks 0, 1: " + run.file("step-00000010") +
                      ": tensor 'other' is not in it");
    RW_EXPECT_HAS(message_of([](Tensors& t) { t.pop_back(); }),
                  "tensor 'count' is not part of this run");
    RW_EXPECT_HAS(message_of([](Tensors& t) {
                    t[0].shape = {9, 5};
                  }),
                  "tensor 'up.weight' is F32 (9, 4), this run has F32 (9, 5)");
    RW_EXPECT_HAS(message_of([&](Tensors& t) {
                    if (world.rank() == 1) t[0].value = Tensor(nullptr, DType::kF64, {5, 4});
                  }),
                  "cannot restore: rank 1: " + run.file("step-00000010") +
                      ": tensor 'up.weight' is F32 (9, 4), this run has F64 (9, 4)");
  });
}

}  // namespace
}  // namespace rankwise
