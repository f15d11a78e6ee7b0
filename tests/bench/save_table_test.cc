// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/save_table.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "runtime/errors.h"
#include "runtime/io/json.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise::testing {
namespace {

Json table_of(const std::string& folder) {
  std::ostringstream out;
  print_save_table(
      {"--device", "cpu", "--tokens", "8", "--rank", "2", "--json", "--folder", folder}, out);
  return parse_json(out.str(), "table").at("rows");
}

TEST(SaveTable, TellsWhatASaveCostsAndLeavesNothing) {
  const ScratchFolder folder;
  const Json rows = table_of(folder.path());
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  ASSERT_EQ(rows.size(), 5u);
  // Factors of the linear layers of 4 blocks (hidden 256, ffn 688), with two moments, in fp32.
  const int64_t values = 4 * 2 * (4 * (256 + 256) + 3 * (256 + 688));
  for (const Json& row : rows) {
    EXPECT_GT(row.at("bytes"), 3 * 4 * values);
    EXPECT_GT(row.at("median"), 0.0);
    EXPECT_GE(row.at("best"), row.at("median"));
  }
  EXPECT_EQ(rows[0].at("ceiling"), rows[1].at("median"));
  EXPECT_GT(rows[2].at("share_of_training"), 0.0);
  EXPECT_LE(rows[3].at("microseconds"), rows[2].at("microseconds"));
}

TEST(SaveTable, RefusesAFolderThatExists) {
  const ScratchFolder folder;
  std::filesystem::create_directory(folder.file("saves"));
  for (const std::string& parent : {folder.path(), folder.file("absent")}) {
    const std::string error = error_of<ConfigError>([&] { table_of(parent); });
    EXPECT_NE(error.find("--folder"), std::string::npos) << error;
  }
}

}  // namespace
}  // namespace rankwise::testing
