// SPDX-License-Identifier: Apache-2.0
// ToyState: a few tensors split in every way over a mesh, whose elements tell their own place.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "launch/checkpoint/checkpoint_reader.h"
#include "launch/checkpoint/checkpoint_writer.h"

namespace rankwise::testing {

class ToyState {
 public:
  // Filled with `seed`.
  ToyState(const DeviceMesh& mesh, int seed) {
    const int copies = std::gcd(2, mesh.tensor().size());
    add(mesh, "up.weight", DType::kF32, {9, 4}, ShardSpec::sharded(0));
    add(mesh, "up.bias", DType::kF32, {9}, ShardSpec::sharded(0));
    add(mesh, "down.weight", DType::kF32, {3, 10}, ShardSpec::sharded(-1));
    add(mesh, "kv.weight", DType::kI64, {4, 3}, ShardSpec::sharded(0, copies));
    add(mesh, "norm.weight", DType::kBF16, {5}, ShardSpec::replicated());
    add(mesh, "count", DType::kI64, {}, ShardSpec::replicated());
    std::vector<LocalTensor> local;
    for (size_t i = 0; i < wholes_.size(); ++i) {
      local.push_back({names_[i], values_[i], values_[i].shape(), specs_[i]});
    }
    tensors_ = place_tensors(std::move(local), mesh);
    fill(seed);
  }

  std::vector<CheckpointTensor>& tensors() { return tensors_; }
  CheckpointState at_step(int64_t step) const {
    return {.step = step,
            .tensors = tensors_,
            .scalars = {{"data_position", 7 * step}, {"loss_ema", 0.1}, {"config", "text"}}};
  }
  void fill(int seed) {
    visit([&](const Tensor& value, int64_t at, int64_t global) { store(value, at, seed, global); });
  }
  // Elements that differ from those of `seed`.
  int64_t differences(int seed) const {
    int64_t count = 0;
    visit([&](const Tensor& value, int64_t at, int64_t global) {
      count += load(value, at) == expected(seed, global) ? 0 : 1;
    });
    return count;
  }

 private:
  void add(const DeviceMesh& mesh, std::string name, DType dtype, const Shape& whole,
           const ShardSpec& spec) {
    const Communicator& axis = mesh.tensor();
    const Shape local = spec.local_shape(whole, axis.rank(), axis.size(), name);
    memory_.emplace_back(static_cast<size_t>(local.numel()));
    values_.emplace_back(memory_.back().data(), dtype, local);
    names_.push_back(std::move(name));
    wholes_.push_back(whole);
    specs_.push_back(spec);
  }

  static int64_t expected(int seed, int64_t global) { return seed * 100 + global; }
  static void store(const Tensor& value, int64_t at, int seed, int64_t global) {
    const int64_t number = expected(seed, global);
    if (value.dtype() == DType::kI64) value.data<int64_t>()[at] = number;
    if (value.dtype() == DType::kF32) value.data<float>()[at] = static_cast<float>(number);
    if (value.dtype() == DType::kBF16) {
      static_cast<uint16_t*>(value.raw())[at] = static_cast<uint16_t>(number);
    }
  }
  static int64_t load(const Tensor& value, int64_t at) {
    if (value.dtype() == DType::kI64) return value.data<int64_t>()[at];
    if (value.dtype() == DType::kF32) return static_cast<int64_t>(value.data<float>()[at]);
    return static_cast<const uint16_t*>(value.raw())[at];
  }

  template <class Visit>
  void visit(const Visit& action) const {
    for (size_t i = 0; i < tensors_.size(); ++i) {
      EXPECT_EQ(tensors_[i].shape, wholes_[i]) << tensors_[i].name;
      const MatrixSlice& part = tensors_[i].part;
      const int64_t columns = part.column_end - part.column_begin;
      for (int64_t at = 0; at < values_[i].numel(); ++at) {
        const int64_t row = part.row_begin + at / columns;
        action(values_[i], at, row * part.in() + part.column_begin + at % columns);
      }
    }
  }

  std::vector<std::vector<int64_t>> memory_;
  std::vector<Tensor> values_;
  std::vector<std::string> names_;
  std::vector<Shape> wholes_;
  std::vector<ShardSpec> specs_;
  std::vector<CheckpointTensor> tensors_;
};

// begin() and a waiting try_commit().
inline CommitReport save(CheckpointWriter& writer, const CheckpointState& state) {
  Stream stream;
  writer.begin(state, stream);
  return *writer.try_commit(true);
}

// Saves a ToyState of seed `step` for each step, of a run of `tensor_size` tensor ranks.
inline void save_steps(const std::string& folder, Communicator& world, int tensor_size,
                       const std::vector<int64_t>& steps) {
  const DeviceMesh mesh(world, tensor_size);
  CheckpointWriter writer({.folder = folder, .keep = 100}, world);
  for (int64_t step : steps) {
    save(writer, ToyState(mesh, static_cast<int>(step)).at_step(step));
  }
}

// Names in a folder, sorted.
inline std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace rankwise::testing
