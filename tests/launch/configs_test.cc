// SPDX-License-Identifier: Apache-2.0
// Every recipe of configs/ is a valid configuration.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "launch/config/train_config.h"
#include "runtime/errors.h"

namespace rankwise {
namespace {

std::vector<std::string> recipes() {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator("configs")) {
    paths.push_back(entry.path().generic_string());
  }
  std::ranges::sort(paths);
  return paths;
}

TEST(Configs, FolderHoldsYamlOnly) {
  for (const std::string& path : recipes()) EXPECT_TRUE(path.ends_with(".yaml")) << path;
  EXPECT_FALSE(recipes().empty());
}

TEST(Configs, EveryRecipeLoads) {
  for (const std::string& path : recipes()) {
    try {
      load_train_config(path, {});
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
}

TEST(Configs, RecipesPrintAndParseBackUnchanged) {
  for (const std::string& path : recipes()) {
    const TrainConfig config = load_train_config(path, {});
    EXPECT_EQ(parse_train_config(print_config(config), path, {}), config) << path;
  }
}

TEST(Configs, NoTwoRecipesShareARunFolder) {
  std::vector<std::string> folders;
  for (const std::string& path : recipes()) {
    folders.push_back(load_train_config(path, {}).checkpoint.dir);
  }
  std::ranges::sort(folders);
  EXPECT_EQ(std::ranges::adjacent_find(folders), folders.end());
}

TEST(Configs, AMisspelledKeyInARecipeWouldBeFound) {
  EXPECT_THROW(load_train_config(recipes().front(), {"optim.learning_rate=1e-3"}), ConfigError);
}

}  // namespace
}  // namespace rankwise
