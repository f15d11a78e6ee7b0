// SPDX-License-Identifier: Apache-2.0
// The table of a step's operations: its rows and their arithmetic, on shapes too small to measure
// anything.
#include "tests/bench/step_table.h"

#include <gtest/gtest.h>

#include <sstream>
#include <stdexcept>

#include "runtime/io/json.h"
#include "tests/model/tiny_config.h"
#include "tests/support/scratch_folder.h"

namespace rankwise::testing {
namespace {

// Two layers, hidden 16, 4 heads of 6 and 2 groups, ffn 24, vocabulary 29.
Json step_table(const std::vector<std::string>& options = {}) {
  const ScratchFolder folder;
  std::vector<std::string> arguments = {
      "--device", "cpu", "--model",   folder.write("config.json", tiny_config_json().dump()),
      "--tokens", "8",   "--batch",   "3",
      "--rank",   "2",   "--seconds", "0.001",
      "--json"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  std::ostringstream out;
  print_step_table(arguments, out);
  return parse_json(out.str(), "step table");
}

const Json& row_of(const Json& report, const std::string& name) {
  for (const Json& row : report.at("rows")) {
    if (row.at("name").get<std::string>().starts_with(name)) return row;
  }
  throw std::runtime_error("no row " + name + " in " + report.dump(2));
}

double number(const Json& row, const char* field) { return row.at(field).get<double>(); }

TEST(StepTable, KernelsAddUpToWhatTheTableSays) {
  const Json report = step_table();
  const Json& rows = report.at("rows");
  const double step = number(rows.front(), "microseconds");
  EXPECT_EQ(number(rows.front(), "step_share"), 1.0);
  double sum = 0.0;
  for (size_t i = 1; i + 1 < rows.size(); ++i) {
    const double total = number(rows[i], "microseconds") * number(rows[i], "calls_per_step");
    EXPECT_NEAR(number(rows[i], "step_share"), total / step, 1e-9 * total) << rows[i].dump();
    if (!rows[i].at("part").get<bool>()) sum += total;
  }
  EXPECT_NEAR(number(rows.back(), "microseconds"), sum, 1e-6 * sum);
  EXPECT_EQ(number(row_of(report, "rms_norm backward"), "calls_per_step"), 3.0);
  EXPECT_EQ(number(row_of(report, "q+k+v dx"), "calls_per_step"), 1.0);
  EXPECT_EQ(number(row_of(report, "o dx"), "calls_per_step"), 2.0);
}

TEST(StepTable, RecomputationRunsForwardOperationsAgain) {
  const Json none = step_table();
  const Json selective = step_table({"--recompute", "selective"});
  const Json full = step_table({"--recompute", "full"});
  const auto calls = [](const Json& report, const char* name) {
    return number(row_of(report, name), "calls_per_step");
  };
  EXPECT_EQ(calls(none, "rms_norm"), 5.0);
  EXPECT_EQ(calls(selective, "rms_norm"), 9.0);
  EXPECT_EQ(calls(full, "rms_norm"), 9.0);
  EXPECT_EQ(calls(none, "gate+up y"), 2.0);
  EXPECT_EQ(calls(selective, "gate+up y"), 4.0);
  EXPECT_EQ(calls(selective, "down y"), 2.0);
  EXPECT_EQ(calls(full, "down y"), 4.0);
  EXPECT_EQ(calls(full, "attention"), 4.0);
}

TEST(StepTable, PrintsATableWithTheShareOfTheStep) {
  const ScratchFolder folder;
  std::ostringstream out;
  print_step_table({"--device", "cpu", "--tokens", "16", "--rank", "2", "--seconds", "0.001",
                    "--output", folder.file("table.json")},
                   out);
  EXPECT_EQ(read_json_file(folder.file("table.json")).at("rows")[0].at("calls_per_step"), 1.0);
  for (const char* text : {"calls  of step", "step (nf4, LoRA 2, 1x16, recompute none)",
                           "\nswiglu backward", "\n  - dequantise", "% (in it)\n", "\nadamw "}) {
    EXPECT_NE(out.str().find(text), std::string::npos) << text << "\n" << out.str();
  }
}

TEST(StepTable, RefusesWhatIsNoOption) {
  std::ostringstream out;
  EXPECT_ANY_THROW(print_step_table({"--layers", "2"}, out));
}

}  // namespace
}  // namespace rankwise::testing
