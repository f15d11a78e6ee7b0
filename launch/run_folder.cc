// SPDX-License-Identifier: Apache-2.0
#include "launch/run_folder.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <iterator>
#include <sstream>

#include "launch/checkpoint/checkpoint_folder.h"
#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"

namespace rankwise {

namespace {

constexpr const char* kRunFile = "run.json";
// What a run leaves behind, the marker of a run last: a removal that is cut short stays visible.
constexpr const char* kRunContents[] = {
    "metrics.jsonl", "metrics.csv", "log.txt",   "samples.txt",  "loss.svg",   "adapter",
    "model",         kSummaryFile,  kStartsFile, kLatestPointer, kBestPointer, kRunFile};

[[noreturn]] void fail_write(const std::string& path, int error) {
  throw DiskError(fmt::format("{}: cannot write: {}", path, std::strerror(error)));
}

// One write per line: lines of a killed run are whole, and a full disk is noticed at its line.
void append_line(const std::string& path, std::string_view line) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor < 0) fail_write(path, errno);
  const std::string text = std::string(line) + "\n";
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t written = ::write(descriptor, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const int error = errno;
      ::close(descriptor);
      fail_write(path, error);
    }
    done += static_cast<size_t>(written);
  }
  if (::close(descriptor) != 0) fail_write(path, errno);
}

void remove(const std::string& path) {
  const std::string error = remove_folder(path);
  if (!error.empty()) throw DiskError(error);
}

// None of a file that does not exist.
std::vector<std::string> lines_of(const std::string& path) {
  std::vector<std::string> lines;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return lines;
  std::istringstream in(read_file(path));
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string csv_cell(const Json& value) { return value.is_null() ? "" : value.dump(); }

}  // namespace

RunFolder::RunFolder(std::string path, bool overwrite) : path_(std::move(path)) {
  require_free(path_, overwrite);
  make_folders(path_);
  for (const int64_t step : committed_steps(path_)) move_to_trash(path_, step);
  const std::string left = remove_leftovers(path_);
  if (!left.empty()) throw DiskError(left);
  for (const char* name : kRunContents) remove(file(name));
}

RunFolder::RunFolder(std::string path, int64_t step) : path_(std::move(path)) {
  for (const char* name : {"adapter", "model"}) remove(file(name));
  truncate_metrics(step);
}

void RunFolder::truncate_metrics(int64_t step) {
  std::string kept;
  size_t records = 0;
  for (const std::string& line : lines_of(file("metrics.jsonl"))) {
    const Json record = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    // The last line of a killed run may be cut.
    if (record.is_discarded() || record.at("step").get<int64_t>() > step) break;
    kept += line + "\n";
    ++records;
    const auto at = static_cast<double>(record["step"].get<int64_t>());
    if (record["loss"].is_number()) losses_.push_back({at, record["loss"].get<double>()});
    const Json& eval = record["eval_loss"];
    if (eval.is_number()) eval_losses_.push_back({at, eval.get<double>()});
  }
  write_file_atomically(file("metrics.jsonl"), kept);
  std::string table;
  const std::vector<std::string> rows = lines_of(file("metrics.csv"));
  for (size_t i = 0; i < rows.size() && i <= records; ++i) table += rows[i] + "\n";
  if (!table.empty()) write_file_atomically(file("metrics.csv"), table);
}

void RunFolder::require_free(const std::string& path, bool overwrite) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_directory(path, ignored)) {
    throw ConfigError(fmt::format("checkpoint.dir: {} exists and is no folder", path));
  }
  if (std::filesystem::exists(path + "/" + kRunFile, ignored)) {
    if (overwrite) return;
    throw ConfigError(fmt::format(
        "checkpoint.dir: {} already holds a run; go on with it by --resume auto, choose another "
        "folder, or begin anew in its place with --overwrite and without --resume",
        path));
  }
  const auto refuse = [&](std::string_view name) {
    throw ConfigError(
        fmt::format("checkpoint.dir: {} holds {} but no {}, so it is no run; choose another folder",
                    path, name, kRunFile));
  };
  for (const char* name : kRunContents) {
    if (std::filesystem::exists(path + "/" + name, ignored)) refuse(name);
  }
  if (!std::filesystem::exists(path, ignored)) return;
  for (const int64_t step : committed_steps(path)) refuse(checkpoint_name(step));
}

bool RunFolder::is_untouched(const std::string& path) {
  return committed_steps(path).empty() && lines_of(path + "/metrics.jsonl").empty();
}

bool RunFolder::overwrites(const std::string& folder, const std::string& path) {
  std::error_code ignored;
  const std::filesystem::path relative =
      std::filesystem::weakly_canonical(path, ignored)
          .lexically_relative(std::filesystem::weakly_canonical(folder, ignored));
  if (relative.empty()) return false;
  const std::string name = *relative.begin();
  return step_of_checkpoint(name).has_value() ||
         std::ranges::find(kRunContents, name) != std::end(kRunContents);
}

void RunFolder::write_run_json(const Json& run) const {
  write_file_atomically(file(kRunFile), run.dump(2) + "\n");
}

void RunFolder::write_samples(std::string_view text) const {
  write_file_atomically(file("samples.txt"), text);
}

void RunFolder::append_metrics(const MetricsRecord& record) {
  Json object = Json::object();
  std::string header;
  std::string row;
  for (const auto& [name, value] : record.fields()) {
    const std::string_view separator = object.empty() ? "" : ",";
    header.append(separator).append(name);
    row.append(separator).append(csv_cell(value));
    object[name] = value;
  }
  append_line(file("metrics.jsonl"), object.dump());
  std::error_code ignored;
  if (!std::filesystem::exists(file("metrics.csv"), ignored)) {
    append_line(file("metrics.csv"), header);
  }
  append_line(file("metrics.csv"), row);

  const auto step = static_cast<double>(record.step);
  losses_.push_back({step, record.loss});
  if (record.eval_loss) {
    eval_losses_.push_back({step, *record.eval_loss});
    write_chart();
  }
}

void RunFolder::add_eval_loss(int64_t step, double loss) {
  std::vector<std::string> lines = lines_of(file("metrics.jsonl"));
  std::vector<std::string> rows = lines_of(file("metrics.csv"));
  Json record = lines.empty() ? Json() : parse_json(lines.back(), file("metrics.jsonl"));
  if (record.is_null() || record.at("step") != step) return;
  record["eval_loss"] = loss;
  lines.back() = record.dump();
  write_file_atomically(file("metrics.jsonl"), fmt::format("{}\n", fmt::join(lines, "\n")));
  if (rows.size() == lines.size() + 1) {
    std::istringstream names(rows.front());
    rows.back().clear();
    for (std::string name; std::getline(names, name, ',');) {
      rows.back() += (rows.back().empty() ? "" : ",") + csv_cell(record.value(name, Json()));
    }
    write_file_atomically(file("metrics.csv"), fmt::format("{}\n", fmt::join(rows, "\n")));
  }
  const auto at = static_cast<double>(step);
  if (!eval_losses_.empty() && eval_losses_.back().step == at) eval_losses_.pop_back();
  eval_losses_.push_back({at, loss});
  write_chart();
}

void RunFolder::log(std::string_view line) const {
  const std::time_t now = std::time(nullptr);
  append_line(file("log.txt"), fmt::format("{:%Y-%m-%dT%H:%M:%SZ} {}", fmt::gmtime(now), line));
}

void RunFolder::write_summary(std::string_view text) const {
  write_chart();
  write_file_atomically(file(kSummaryFile), text);
}

void RunFolder::write_chart() const {
  write_file_atomically(file("loss.svg"), loss_chart_svg(path_, losses_, eval_losses_));
}

}  // namespace rankwise
