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
  double weight = 1.0;  // 0.5 keeps every second sample, 2.0 takes all twice per epoch
  bool operator==(const DataSource&) const = default;
};

struct DatasetOptions {
  int64_t seq_len = 2048;
  LongSamples long_samples = LongSamples::kUnset;  // unset: a long sample is an error that says so
  bool train_on_prompt = false;
  int64_t vocab_size = 0;  // rows of the embedding: ids at or above are refused; 0: not checked
};

struct DatasetReport {
  int64_t records = 0;  // read, over all sources
  int64_t samples = 0;  // as are tokens and trained_tokens: of the dataset, so with weights applied
  int64_t tokens = 0;
  int64_t trained_tokens = 0;
  int64_t dropped_long = 0;
  int64_t truncated = 0;
  int64_t split = 0;                   // records that became several samples
  int64_t dropped_empty = 0;           // empty completion, output, text or input_ids
  int64_t dropped_without_labels = 0;  // records and pieces of records with every label masked
};

struct Dataset {
  std::vector<Sample> samples;  // sources in the order given, each in file order
  DatasetReport report;
};

// Accepts a JSON array or JSON lines, a UTF-8 BOM and CRLF; unknown columns are ignored. DataError
// naming file, row (JSON lines: line; array: element; both from 1) and field for anything else
// wrong; also for a file without a usable sample.
// prompt-completion: [BOS] prompt, completion EOS, tokenised apart, so that training sees the very
// prompt ids that generation will; alpaca: the classic template, "input" may be absent, null or "";
// text: [BOS] text EOS, all trained, from {"text": ...} or from a file named *.txt, in which blank
// lines separate the documents; tokens: {"input_ids": [...], "labels": [...]}, taken as they are
// (tokenizer may be null).
// A long sample that is split becomes pieces of seq_len tokens, each a document of its own.
Dataset load_dataset(const std::vector<DataSource>& sources, const Tokenizer* tokenizer,
                     const DatasetOptions& options);

}  // namespace rankwise
