// SPDX-License-Identifier: Apache-2.0
#include "launch/training_data.h"

#include <algorithm>
#include <cmath>

#include "runtime/data/eval_batches.h"
#include "runtime/errors.h"

namespace rankwise {
namespace {

bool needs_tokenizer(const std::vector<DataSource>& sources) {
  return std::ranges::any_of(
      sources, [](const DataSource& source) { return source.format != RecordFormat::kTokens; });
}

std::string render_ids(std::span<const int32_t> ids, const Tokenizer* tokenizer) {
  return tokenizer != nullptr ? tokenizer->decode(ids) : fmt::format("{}", fmt::join(ids, " "));
}

}  // namespace

TrainingData load_training_data(const TrainConfig& config, const ModelFiles& model,
                                DataParts parts) {
  TrainingData data;
  const bool with_train = parts == DataParts::kTrainAndEval;
  if (has_tokenizer(model.path)) {
    data.tokenizer = open_tokenizer(model);
  } else if ((with_train && needs_tokenizer(config.data.train)) ||
             needs_tokenizer(config.data.eval)) {
    throw ConfigError(fmt::format(
        "model.path: '{}' has no tokenizer; only data of format `tokens` can be used with it",
        model.path));
  }
  DatasetOptions options;
  options.seq_len = config.data.seq_len;
  options.long_samples = config.data.long_samples;
  options.train_on_prompt = config.data.train_on_prompt;
  options.vocab_size = model.config.vocab_size;
  const auto load = [&](const std::vector<DataSource>& sources) {
    return std::make_shared<const Dataset>(load_dataset(sources, data.tokenizer.get(), options));
  };
  if (with_train) data.train = load(config.data.train);
  if (!config.data.eval.empty()) data.eval = load(config.data.eval);
  return data;
}

DataLoader make_loader(const TrainConfig& config, std::shared_ptr<const Dataset> dataset,
                       const DeviceMesh& mesh) {
  LoaderOptions options;
  options.seed = static_cast<uint64_t>(config.train.seed);
  options.shuffle = config.data.shuffle;
  options.packing = config.data.packing;
  options.seq_len = config.data.seq_len;
  options.global_batch = config.train.global_batch;
  options.micro_batch = config.train.micro_batch;
  options.shard_index = mesh.data().rank();
  options.shard_count = mesh.data().size();
  return DataLoader(std::move(dataset), options);
}

std::vector<MicroBatch> make_eval_batches(const TrainConfig& config, const Dataset& dataset,
                                          const DeviceMesh& mesh, int64_t max_batches) {
  EvalOptions options;
  options.packing = config.data.packing;
  options.seq_len = config.data.seq_len;
  options.micro_batch = config.train.micro_batch;
  options.batch_rows = config.train.global_batch;
  options.max_batches = max_batches;
  options.shard_index = mesh.data().rank();
  options.shard_count = mesh.data().size();
  return eval_batches(dataset, options);
}

int64_t total_steps(const TrainConfig& config, const DataLoader& loader) {
  if (config.train.steps) return *config.train.steps;
  const double rows = *config.train.epochs * static_cast<double>(loader.rows_per_epoch());
  return std::max<int64_t>(
      1, static_cast<int64_t>(std::ceil(rows / static_cast<double>(config.train.global_batch))));
}

std::string describe(const DatasetReport& report) {
  std::string text = fmt::format("{} records, {} samples, {} tokens ({} trained)", report.records,
                                 report.samples, report.tokens, report.trained_tokens);
  const auto mention = [&](int64_t count, std::string_view what) {
    if (count > 0) text += fmt::format(", {} {}", count, what);
  };
  mention(report.dropped_long, "dropped as too long");
  mention(report.truncated, "truncated");
  mention(report.split, "split");
  mention(report.dropped_without_labels, "dropped without labels");
  return text;
}

std::string render_samples(const Dataset& dataset, const Tokenizer* tokenizer, size_t count) {
  std::string text;
  for (size_t s = 0; s < std::min(count, dataset.samples.size()); ++s) {
    const Sample& sample = dataset.samples[s];
    text += fmt::format("--- sample {} ({} tokens, {} trained) ---\n", s, sample.input_ids.size(),
                        trained_tokens(sample));
    const auto trained = [&](size_t i) { return i > 0 && sample.labels[i] != kIgnoredLabel; };
    for (size_t begin = 0; begin < sample.input_ids.size();) {
      size_t end = begin + 1;
      while (end < sample.input_ids.size() && trained(end) == trained(begin)) ++end;
      const std::string part =
          render_ids(std::span(sample.input_ids).subspan(begin, end - begin), tokenizer);
      text += trained(begin) ? "[[" + part + "]]" : part;
      begin = end;
    }
    text += "\n";
  }
  return text;
}

}  // namespace rankwise
