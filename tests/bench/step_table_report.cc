// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>
#include <algorithm>
#include <ostream>

#include "launch/verbs/bench.h"
#include "tests/bench/step_table.h"

namespace rankwise::testing {
namespace {

Json to_json(const StepRow& row) {
  Json json = rankwise::to_json(row.rate);
  json["calls_per_step"] = row.calls;
  json["step_share"] = row.share;
  json["part"] = row.part;
  return json;
}

void print_rows(const std::vector<StepRow>& rows, const std::string& header, size_t width,
                std::ostream& out) {
  out << header << "   calls  of step\n";
  for (const StepRow& row : rows) {
    out << table_line((row.part ? "  - " : "") + row.rate.name, row.rate, width)
        << fmt::format("{:>8.4g}{:>8.1f}%{}\n", row.calls, 100.0 * row.share,
                       row.part ? " (in it)" : "");
  }
}

}  // namespace

void print_step_table(std::vector<std::string> arguments, std::ostream& out) {
  CLI::App app{"The operations of a training step, measured one by one.", "step_table"};
  BenchOptions options;
  options.add_to(app);
  std::ranges::reverse(arguments);  // as CLI11 takes a vector
  app.parse(arguments);
  const auto alone = make_single_communicator();
  options.resolve(*alone, /*local_rank=*/0);
  const BenchmarkCeiling ceiling = measure_ceiling(options.shape);
  const std::vector<StepRow> rows = measure_step_table(options.shape, ceiling);
  Json list = Json::array();
  size_t width = 52;
  for (const StepRow& row : rows) {
    list.push_back(to_json(row));
    width = std::max(width, row.rate.name.size() + 4);
  }
  const std::string report = options.report(ceiling, std::move(list));
  if (options.json) {
    out << report;
  } else {
    print_rows(rows, options.table_header(ceiling, width), width, out);
  }
}

}  // namespace rankwise::testing
