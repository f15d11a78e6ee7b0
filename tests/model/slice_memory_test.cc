// SPDX-License-Identifier: Apache-2.0
// Host memory of one rank of four while it loads its slices. Runs under mpirun: what counts is the
// peak of a process, and the files are so large that a rank which reads all of one fails.
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "kernels/quantize.h"
#include "model/parameter_loader.h"
#include "runtime/io/quantized_store.h"
#include "runtime/rng.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/test_world.h"

namespace rankwise {
namespace {

constexpr int64_t kAllowance = int64_t{256} << 20;
constexpr int64_t kPatternBytes = int64_t{4} << 20;

// Of the process since the last reset.
int64_t peak_resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) << 10;
  }
  ADD_FAILURE() << "no VmHWM";
  return 0;
}

bool reset_peak() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file.good();
}

class SliceMemory : public ::testing::Test {
 protected:
  void SetUp() override {
#ifdef RANKWISE_SANITIZE
    GTEST_SKIP() << "the sanitizers' own memory is larger than what is measured";
#endif
    ASSERT_EQ(world_.size(), 4);
  }

  // Makes a folder on rank 0 by write(folder), loads on all ranks by load(loader) and compares the
  // peak of this process with what the arena then holds.
  template <class Write, class Load>
  void expect_little_memory(const ModelPlan& plan, const std::string& file, Write write,
                            Load load) {
    std::unique_ptr<testing::ScratchFolder> folder;
    if (world_.rank() == 0) {
      folder = std::make_unique<testing::ScratchFolder>();
      write(folder->path());
    }
    const std::string path =
        world_.broadcast_text(folder ? folder->path() : "", 0, "scratch folder");
    const DeviceMesh mesh(world_, world_.size());
    Arena arena;
    Stream stream;
    ASSERT_TRUE(reset_peak());
    {
      const auto source = open_weights(path + file);
      load(ParameterLoader(*source, plan, mesh, arena, stream));
    }
    const int64_t peak = peak_resident_bytes();
    EXPECT_LT(peak, arena.current_bytes() + kAllowance) << "slice " << arena.current_bytes();
    EXPECT_GT(peak, arena.current_bytes());
    world_.barrier("files are read");
  }

  Communicator& world_ = testing::world();
};

const Shape kUp = {16384, 10240};
const Shape kDown = {10240, 16384};

// 640 MiB of bf16: the two matrices, each a repeated pattern of normal numbers.
void write_folder(const std::string& folder) {
  std::vector<float> values(static_cast<size_t>(kPatternBytes / 2));
  Rng(3, "pattern").fill_normal(values, 0.0f, 0.02f);
  std::vector<uint16_t> pattern;
  for (const float value : values) pattern.push_back(bf16_from_float(value));
  const int64_t bytes = 2 * kUp.numel();
  const std::string header =
      fmt::format(R"({{"up":{{"dtype":"BF16","shape":[{},{}],"data_offsets":[0,{}]}},)"
                  R"("down":{{"dtype":"BF16","shape":[{},{}],"data_offsets":[{},{}]}}}})",
                  kUp.dim(0), kUp.dim(1), bytes, kDown.dim(0), kDown.dim(1), bytes, 2 * bytes);
  const uint64_t length = header.size();
  std::ofstream out(folder + "/model.safetensors", std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out << header;
  for (int64_t done = 0; done < 2 * bytes; done += kPatternBytes) {
    out.write(reinterpret_cast<const char*>(pattern.data()), kPatternBytes);
  }
  if (!out.flush()) throw DiskError(folder + ": no room for 640 MiB");
}

TEST_F(SliceMemory, QuantisingWhileLoading) {
  ModelPlan plan;
  plan.quantize_nf4 = true;
  expect_little_memory(plan, "", write_folder, [](const ParameterLoader& loader) {
    const Parameter up = loader.linear_weight("up", kUp, ShardSpec::sharded(0));
    const Parameter down = loader.linear_weight("down", kDown, ShardSpec::sharded(1));
    EXPECT_EQ(std::get<QuantizedTensor>(up.weight).codes.bytes(), kUp.numel() / 8);
    EXPECT_EQ(std::get<QuantizedTensor>(down.weight).codes.bytes(), kDown.numel() / 8);
  });
}

TEST_F(SliceMemory, DenseSlices) {
  expect_little_memory({}, "", write_folder, [](const ParameterLoader& loader) {
    const Parameter down = loader.linear_weight("down", kDown, ShardSpec::sharded(1));
    EXPECT_EQ(down.dense().bytes(), kDown.numel());
  });
}

const Shape kStored = {32768, 20480};  // 320 MiB of codes

uint8_t pattern_byte(int64_t index) {
  return static_cast<uint8_t>((index % 4093) * 37 + index / (1 << 20));
}

void write_store(const std::string& folder) {
  Arena arena;
  const QuantizedTensor tensor =
      allocate_nf4(MatrixSlice::all(kStored), true, DType::kBF16, arena, "whole");
  for (int64_t i = 0; i < tensor.codes.numel(); ++i) {
    tensor.codes.data<uint8_t>()[i] = pattern_byte(i);
  }
  QuantizedStoreWriter writer(folder + "/model.h5");
  writer.add("w", tensor);
  writer.commit();
}

TEST_F(SliceMemory, ColumnsOfAStoredMatrix) {
  expect_little_memory({}, "/model.h5", write_store, [&](const ParameterLoader& loader) {
    const Parameter parameter = loader.linear_weight("w", kStored, ShardSpec::sharded(1));
    const auto& slice = std::get<QuantizedTensor>(parameter.weight);
    const int64_t row_bytes = kStored.dim(1) / 8;
    ASSERT_EQ(slice.codes.numel(), kStored.dim(0) * row_bytes);
    for (int64_t i = 0; i < slice.codes.numel(); ++i) {
      const int64_t in_row = world_.rank() * row_bytes + i % row_bytes;
      ASSERT_EQ(slice.codes.data<uint8_t>()[i],
                pattern_byte(i / row_bytes * (kStored.dim(1) / 2) + in_row));
    }
  });
}

}  // namespace
}  // namespace rankwise
