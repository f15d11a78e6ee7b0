// SPDX-License-Identifier: Apache-2.0
#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "launch/demo_corpus.h"
#include "launch/slot_score.h"
#include "launch/verbs/generate.h"
#include "launch/verbs/verb.h"
#include "runtime/data/record_reader.h"
#include "runtime/data/tokenizer.h"
#include "runtime/io/atomic_file.h"

namespace rankwise {
namespace {

constexpr int64_t kLongestAnswer = 64;  // tokens; the longest right one has about 50

std::string pretrain_file(const std::string& folder) { return folder + "/pretrain.txt"; }
std::string train_file(const std::string& folder) { return folder + "/train.jsonl"; }
std::string eval_file(const std::string& folder) { return folder + "/eval.jsonl"; }

std::string json_lines(const std::vector<DemoTaskRow>& rows) {
  std::string text;
  for (const DemoTaskRow& row : rows) {
    text += Json{{"prompt", row.prompt}, {"completion", row.completion}}.dump() + "\n";
  }
  return text;
}

std::vector<DemoTaskRow> read_task_rows(const std::string& path) {
  if (!std::filesystem::exists(path)) {
    throw ConfigError(fmt::format("'{}' does not exist; `rankwise demo` writes it", path));
  }
  std::vector<DemoTaskRow> rows;
  RecordReader reader(path, /*plain_text=*/false);
  for (Record record; reader.next(record);) {
    const Json json = parse_json(record.text, fmt::format("{}:{}", path, record.row));
    for (const char* field : {"prompt", "completion"}) {
      if (json.contains(field) && json[field].is_string()) continue;
      throw DataError(fmt::format("{}:{}: needs a text \"{}\"", path, record.row, field));
    }
    rows.push_back({json["prompt"].get<std::string>(), json["completion"].get<std::string>()});
  }
  return rows;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

class DemoVerb : public Verb {
 public:
  std::string name() const override { return "demo"; }
  std::string help() const override {
    return "write a small corpus, task and model to try rankwise on; --score MODEL grades answers";
  }

  void add_options(CLI::App& app) override {
    app.add_option("OUT", folder_, "folder of the demo files")->required();
    app.add_option("--score", model_, "answer the evaluation rows with this model and grade them");
    app.add_option("--adapter", adapter_, "PEFT adapter over the model of --score");
    app.add_option("--seed", seed_, "seed of the corpus")->capture_default_str();
    app.add_option("--show", shown_, "answers to print with --score")->capture_default_str();
  }

  int run(VerbContext& context) override {
    if (!adapter_.empty() && model_.empty()) throw ConfigError("--adapter needs --score MODEL");
    if (context.world.rank() != 0) return static_cast<int>(ExitCode::kDone);
    if (model_.empty()) {
      write_files(context);
    } else {
      score(context);
    }
    return static_cast<int>(ExitCode::kDone);
  }

 private:
  void write_files(VerbContext& context) const {
    const DemoCorpus corpus = make_demo_corpus(DemoSizes{}, seed_);
    const std::string model_folder = folder_ + "/model";
    std::error_code failure;
    std::filesystem::create_directories(model_folder, failure);
    if (failure) throw DiskError(fmt::format("{}: {}", model_folder, failure.message()));
    write_file_atomically(pretrain_file(folder_),
                          fmt::format("{}\n", fmt::join(corpus.paragraphs, "\n\n")));
    write_file_atomically(train_file(folder_), json_lines(corpus.train));
    write_file_atomically(eval_file(folder_), json_lines(corpus.eval));
    write_file_atomically(model_folder + "/config.json", demo_model_config());
    write_file_atomically(model_folder + "/tokenizer_config.json", byte_tokenizer_config());
    fmt::print(context.out, "{}: {} paragraphs to pretrain on\n", pretrain_file(folder_),
               corpus.paragraphs.size());
    fmt::print(context.out, "{}: {} rows to fine-tune on\n", train_file(folder_),
               corpus.train.size());
    fmt::print(context.out, "{}: {} rows to evaluate on, with names that occur nowhere else\n",
               eval_file(folder_), corpus.eval.size());
    fmt::print(context.out, "{}: a Llama without weights yet\n", model_folder);
  }

  void score(VerbContext& context) const {
    const std::vector<DemoTaskRow> rows = read_task_rows(eval_file(folder_));
    GenerateTextOptions options;
    options.model = model_;
    options.adapter = adapter_;
    options.sampling.max_new_tokens = kLongestAnswer;
    for (const DemoTaskRow& row : rows) options.prompts.push_back(row.prompt);
    SlotScore score;
    generate_text(options, [&](size_t index, const std::string& text) {
      const DemoTaskRow& row = rows[index];
      // The answer is one line; a model that does not know when to stop is judged by its first.
      const std::string answer = first_line(text);
      if (score.rows < shown_) {
        fmt::print(context.out, "prompt    {}\nexpected  {}\nanswered  {}\n\n",
                   first_line(row.prompt), row.completion, answer);
      }
      score.add(row.completion, answer);
    });
    fmt::print(context.out, "exact match {:.1f} % of {} rows, slot accuracy {:.1f} % of {} slots\n",
               100.0 * score.exact_match(), score.rows, 100.0 * score.slot_accuracy(), score.slots);
  }

  std::string folder_;
  std::string model_;    // to score; empty: write the files
  std::string adapter_;  // PEFT folder over model_
  uint64_t seed_ = 1;
  int64_t shown_ = 3;
};

}  // namespace

std::unique_ptr<Verb> make_demo_verb() { return std::make_unique<DemoVerb>(); }

}  // namespace rankwise
