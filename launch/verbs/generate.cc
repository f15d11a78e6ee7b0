// SPDX-License-Identifier: Apache-2.0
#include "launch/verbs/generate.h"

#include <fmt/ostream.h>

#include <filesystem>
#include <fstream>

#include "launch/device_choice.h"
#include "launch/inference_model.h"
#include "launch/verbs/choice_options.h"
#include "runtime/data/record_reader.h"
#include "runtime/data/utf8.h"

namespace rankwise {
namespace {

void check(const GenerateOptions& sampling) {
  if (sampling.max_new_tokens < 1) {
    throw ConfigError(
        fmt::format("--max-new-tokens: {}, must be at least 1", sampling.max_new_tokens));
  }
  if (!(sampling.temperature >= 0.0 && sampling.temperature <= 100.0)) {
    throw ConfigError(
        fmt::format("--temperature: {}, allowed are 0 (greedy) to 100", sampling.temperature));
  }
  if (!(sampling.top_p > 0.0 && sampling.top_p <= 1.0)) {
    throw ConfigError(fmt::format("--top-p: {}, must be above 0 and at most 1", sampling.top_p));
  }
}

std::vector<int32_t> stop_ids(const ModelFiles& files, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids = files.config.eos_token_ids;
  if (tokenizer.eos_id() >= 0) ids.push_back(tokenizer.eos_id());
  return ids;
}

std::vector<int32_t> prompt_ids(const Tokenizer& tokenizer, const std::string& prompt) {
  std::vector<int32_t> ids;
  if (tokenizer.adds_bos() && tokenizer.bos_id() >= 0) ids.push_back(tokenizer.bos_id());
  const std::vector<int32_t> text = tokenizer.encode(prompt);
  ids.insert(ids.end(), text.begin(), text.end());
  if (ids.empty()) throw ConfigError("--prompt: empty, and this tokenizer begins with no token");
  return ids;
}

void check_length(const ModelFiles& files, size_t prompt_tokens, int64_t new_tokens) {
  const int64_t limit = files.config.max_position_embeddings;
  if (static_cast<int64_t>(prompt_tokens) + new_tokens > limit) {
    throw ConfigError(
        fmt::format("--max-new-tokens: {} after a prompt of {} exceed the {} positions of '{}'",
                    new_tokens, prompt_tokens, limit, files.path));
  }
}

std::string prompt_of(const Record& record, const std::string& source) {
  const Json json = parse_json(record.text, source);
  const auto prompt = json.is_object() ? json.find("prompt") : json.end();
  if (prompt == json.end() || !prompt->is_string()) {
    throw DataError(fmt::format("{}: needs a text \"prompt\"", source));
  }
  return prompt->get<std::string>();
}

class GenerateVerb : public Verb {
 public:
  std::string name() const override { return "generate"; }
  std::string help() const override { return "continue a text, greedily or by sampling"; }
  void add_options(CLI::App& app) override {
    app.add_option("MODEL", options_.model, "model folder or quantised store")->required();
    app.add_option("--adapter", options_.adapter, "PEFT adapter folder");
    auto* prompt = app.add_option("--prompt", prompt_, "text to continue");
    auto* file = app.add_option("--prompts", prompts_,
                                "file of prompts, one per line or .jsonl rows with a prompt; "
                                "prints one JSON row each");
    prompt->excludes(file);
    GenerateOptions& sampling = options_.sampling;
    app.add_option("--max-new-tokens", sampling.max_new_tokens, "longest continuation")
        ->capture_default_str();
    app.add_option("--temperature", sampling.temperature, "0: always the most likely token")
        ->capture_default_str();
    app.add_option("--top-p", sampling.top_p,
                   "sample from the most likely tokens that reach this probability")
        ->capture_default_str();
    app.add_option("--seed", sampling.seed, "seed of the sampling")->capture_default_str();
    add_quant_option(app, options_.quantize_nf4, "quantise the base while loading");
    add_device_options(app, options_.device, options_.compute);
  }
  int run(VerbContext& context) override {
    if (context.world.rank() != 0) return static_cast<int>(ExitCode::kDone);
    if (!prompt_ && prompts_.empty()) throw ConfigError("--prompt or --prompts is needed");
    options_.prompts = prompt_ ? std::vector<std::string>{*prompt_} : read_prompts(prompts_);
    generate_text(options_, [&](size_t index, const std::string& text) {
      if (prompt_) {
        context.out << text << std::endl;
      } else {
        const Json row{{"prompt", options_.prompts[index]}, {"completion", text}};
        context.out << row.dump() << std::endl;
      }
    });
    return static_cast<int>(ExitCode::kDone);
  }

 private:
  GenerateTextOptions options_;
  std::optional<std::string> prompt_;  // may be empty: a tokenizer can begin with BOS
  std::string prompts_;
};

}  // namespace

std::vector<std::string> read_prompts(const std::string& path) {
  if (!std::filesystem::exists(path)) {
    throw ConfigError(fmt::format("--prompts: '{}' does not exist", path));
  }
  std::vector<std::string> prompts;
  if (std::filesystem::path(path).extension() != ".jsonl") {
    std::ifstream file(path);
    int64_t row = 0;
    for (std::string line; std::getline(file, line);) {
      ++row;
      if (!is_valid_utf8(line)) throw DataError(fmt::format("{}:{}: invalid UTF-8", path, row));
      if (line.ends_with('\r')) line.pop_back();
      if (!line.empty()) prompts.push_back(line);
    }
    if (file.bad()) throw DataError(fmt::format("{}: cannot be read", path));
  } else {
    RecordReader reader(path, /*plain_text=*/false);
    for (Record record; reader.next(record);) {
      prompts.push_back(prompt_of(record, fmt::format("{}:{}", path, record.row)));
    }
  }
  if (prompts.empty()) throw DataError(fmt::format("{}: no prompts", path));
  return prompts;
}

void generate_text(const GenerateTextOptions& options,
                   const std::function<void(size_t, const std::string&)>& emit) {
  check(options.sampling);
  const auto alone = make_single_communicator();
  const Device device = choose_device(options.device, *alone, /*local_rank=*/0);
  const DType compute = choose_compute(options.compute, device);
  const ModelFiles files = open_model(options.model);
  const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(files);
  std::vector<std::vector<int32_t>> prompts;
  for (const std::string& prompt : options.prompts) {
    prompts.push_back(prompt_ids(*tokenizer, prompt));
    check_length(files, prompts.back().size(), options.sampling.max_new_tokens);
  }
  GenerateOptions sampling = options.sampling;
  sampling.stop_ids = stop_ids(files, *tokenizer);
  const DeviceMesh mesh(*alone, 1);
  InferenceModel loaded(files,
                        {.adapter = options.adapter,
                         .quantize_nf4 = options.quantize_nf4,
                         .device = device,
                         .compute = compute},
                        mesh);
  for (size_t i = 0; i < prompts.size(); ++i) {
    const std::vector<int32_t> ids =
        generate(loaded.model(), prompts[i], sampling, loaded.arena(), loaded.stream());
    emit(i, tokenizer->decode(ids));
  }
}

std::unique_ptr<Verb> make_generate_verb() { return std::make_unique<GenerateVerb>(); }

}  // namespace rankwise
