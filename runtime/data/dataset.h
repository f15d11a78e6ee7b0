// SPDX-License-Identifier: Apache-2.0
// Datasets: files of records (prompt-completion, alpaca, text, tokens) made into samples.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/data/sample.h"
#include "runtime/data/tokenizer.h"

namespace rankwise {

enum class RecordFormat { kPromptCompletion, kAlpaca, kText, kTokens };
enum class LongSamples { kUnset, kDrop, kTruncate, kSplit, kError };

struct DataSource {
  std::string path;
  RecordFormat format = RecordFormat::kPromptCompletion;
  double weight = 1.0;  // 0.5 keeps every second sample, 2.0 takes each twice per epoch
};

struct DatasetOptions {
  int64_t seq_len = 2048;
  LongSamples long_samples = LongSamples::kUnset;  // unset: a long sample is an error that says so
  bool train_on_prompt = false;
  int64_t vocab_size = 0;  // rows of the embedding: ids at or above are refused
};

struct DatasetReport {
  int64_t records = 0;
  int64_t samples = 0;
  int64_t tokens = 0;
  int64_t trained_tokens = 0;
  int64_t dropped_long = 0;
  int64_t truncated = 0;
  int64_t split = 0;
  int64_t dropped_without_labels = 0;  // every label masked
};

struct Dataset {
  std::vector<Sample> samples;  // in file order
  DatasetReport report;
};

// Accepts a JSON array or JSON lines, a UTF-8 BOM and CRLF; unknown columns are ignored. DataError
// naming file, row and field for anything else wrong; also for a file without a usable sample.
// prompt-completion: [BOS] prompt, completion EOS, tokenised apart, so that training sees the very
// prompt ids that generation will; alpaca: the classic template; text: [BOS] text EOS, all trained;
// tokens: {"input_ids": [...], "labels": [...]}, taken as they are (tokenizer may be null).
Dataset load_dataset(const std::vector<DataSource>& sources, const Tokenizer* tokenizer,
                     const DatasetOptions& options);

// "prompt-completion" etc.; ConfigError lists the known names.
RecordFormat record_format_from_name(const std::string& name);

}  // namespace rankwise
