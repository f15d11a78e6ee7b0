// SPDX-License-Identifier: Apache-2.0
// Ring 4 on real material, for programs that run under mpirun: the golden run of stories260k with a
// 4-bit base, on any layout of the ranks, against the same run on one of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "tests/end_to_end/golden_run.h"
#include "tests/end_to_end/small_run.h"
#include "tests/support/test_world.h"

namespace rankwise::testing {

// Overrides for runs of the methods other than plain LoRA, of 12 steps.
inline std::vector<std::vector<std::string>> other_methods() {
  std::vector<std::vector<std::string>> methods = {
      {"adapt.0.method=dora", "adapt.0.rank=8"},
      {"adapt.0.method=adalora", "adapt.0.adalora.init_rank=8", "adapt.0.adalora.target_rank=4",
       "adapt.0.adalora.warmup=2", "adapt.0.adalora.final=4", "adapt.0.adalora.interval=2"},
      {"adapt.0.rank=8", "adapt.0.rslora=true", "adapt.0.lr_ratio_b=4", "optim.lr=5e-4"}};
  for (auto& method : methods) {
    method.insert(method.begin(), {"adapt.0.from=null", "train.steps=12"});
  }
  // Three refreshes of every basis.
  methods.push_back({"adapt.0={method: galore, galore: {rank: 12, refresh: 5}}", "train.steps=12"});
  return methods;
}

inline bool trains_weights(const std::vector<std::string>& method) {
  return std::ranges::find(method, "adapt.0={method: galore, galore: {rank: 12, refresh: 5}}") !=
         method.end();
}

class GoldenLayouts {
 public:
  // Called by all ranks; rank 0 writes the files for all.
  GoldenLayouts() {
    std::string path;
    if (world().rank() == 0) path = golden_run(folder_);
    path_ = world().broadcast_text(path, 0, "path of the run");
  }

  SmallRunResult alone(const std::vector<std::string>& overrides, Device device = {}) const {
    const auto one = make_single_communicator();
    return train(config(overrides), *one, device);
  }

  // On all ranks. train() compares their adapters after every step.
  void expect_losses(const SmallRunResult& expected, double relative,
                     const std::vector<std::string>& overrides, Device device = {}) const {
    SCOPED_TRACE(fmt::format("{} on {} ranks", fmt::join(overrides, " "), world().size()));
    const SmallRunResult result = train(config(overrides), world(), device);
    ASSERT_FALSE(expected.losses.empty());
    ASSERT_EQ(result.losses.size(), expected.losses.size());
    EXPECT_TRUE(result.kept == expected.kept) << "AdaLoRA keeps other triplets";
    double worst = 0.0;
    for (size_t step = 0; step < expected.losses.size(); ++step) {
      worst = std::max(worst, std::abs(result.losses[step] / expected.losses[step] - 1.0));
    }
    EXPECT_LE(worst, relative);
    ::testing::Test::RecordProperty("largest_relative_difference", fmt::format("{:.2g}", worst));
    if (world().rank() == 0) {
      fmt::print("   {}: losses differ by {:.2g} at most, the last is {:.4f}\n",
                 fmt::join(overrides, " "), worst, result.losses.back());
    }
  }

 private:
  TrainConfig config(std::vector<std::string> overrides) const {
    if (!trains_weights(overrides)) overrides.emplace_back("model.quant=nf4");
    overrides.emplace_back("train.micro_batch=2");
    return load_train_config(path_, overrides);
  }

  ScratchFolder folder_;
  std::string path_;
};

}  // namespace rankwise::testing
