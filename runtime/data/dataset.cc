// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/dataset.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <thread>

#include "runtime/data/record_encoder.h"
#include "runtime/data/record_reader.h"
#include "runtime/errors.h"

namespace rankwise {
namespace {

// Records are read, encoded in parallel and collected chunk by chunk: memory stays at the samples.
constexpr size_t kChunkRecords = 4096;
constexpr size_t kChunkBytes = 32'000'000;

bool read_chunk(RecordReader& reader, std::vector<Record>& chunk) {
  chunk.clear();
  size_t bytes = 0;
  Record record;
  while (chunk.size() < kChunkRecords && bytes < kChunkBytes && reader.next(record)) {
    bytes += record.text.size();
    chunk.push_back(std::move(record));
  }
  return !chunk.empty();
}

// Encoded samples in the order of the chunk. Of several wrong records the first one is reported.
std::vector<Sample> encode_chunk(const std::vector<Record>& chunk, const DataSource& source,
                                 const Tokenizer* tokenizer, const DatasetOptions& options) {
  constexpr size_t kRecordsPerThread = 64;  // fewer do not pay for starting a thread
  constexpr size_t kMostThreads = 16;
  std::vector<Sample> samples(chunk.size());
  std::vector<std::exception_ptr> errors(chunk.size());
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < chunk.size(); i = next++) {
      try {
        samples[i] = encode_record(chunk[i], source, tokenizer, options);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    }
  };
  const size_t threads = std::min({kMostThreads, size_t{std::thread::hardware_concurrency()},
                                   chunk.size() / kRecordsPerThread});
  {
    std::vector<std::jthread> workers;
    for (size_t t = 1; t < threads; ++t) workers.emplace_back(work);
    work();
  }
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return samples;
}

// Takes the encoded records of one source in order and decides which become samples.
class SourceCollector {
 public:
  SourceCollector(const DataSource& source, const DatasetOptions& options)
      : source_(source), options_(options) {}

  void add(Sample sample, int64_t row) {
    ++report_.records;
    const auto length = static_cast<int64_t>(sample.input_ids.size());
    if (length == 0) {
      ++report_.dropped_empty;
    } else if (length <= options_.seq_len) {
      keep(std::move(sample));
    } else {
      add_long(std::move(sample), row);
    }
  }

  // Appends samples and counts to the dataset, the samples as often as the weight says; once only.
  void finish(Dataset& dataset) {
    const size_t before = dataset.samples.size();
    for (double left = source_.weight; left > 0.0; left -= 1.0) {
      append_fraction(std::min(left, 1.0), /*last=*/left <= 1.0, dataset.samples);
    }
    if (dataset.samples.size() == before) throw DataError(why_nothing_is_left());

    DatasetReport& total = dataset.report;
    total.records += report_.records;
    total.dropped_long += report_.dropped_long;
    total.truncated += report_.truncated;
    total.split += report_.split;
    total.dropped_empty += report_.dropped_empty;
    total.dropped_without_labels += report_.dropped_without_labels;
  }

 private:
  void keep(Sample sample) {
    if (trained_tokens(sample) == 0) {
      ++report_.dropped_without_labels;
    } else {
      samples_.push_back(std::move(sample));
    }
  }

  void add_long(Sample sample, int64_t row) {
    const auto limit = static_cast<size_t>(options_.seq_len);
    switch (options_.long_samples) {
      case LongSamples::kDrop:
        ++report_.dropped_long;
        return;
      case LongSamples::kTruncate:
        ++report_.truncated;
        sample.input_ids.resize(limit);
        sample.labels.resize(limit);
        keep(std::move(sample));
        return;
      case LongSamples::kSplit:
        ++report_.split;
        add_pieces(sample, limit);
        return;
      case LongSamples::kError:
      case LongSamples::kUnset:
        break;
    }
    const bool unset = options_.long_samples == LongSamples::kUnset;
    throw DataError(fmt::format("{}:{}: {} tokens are more than data.seq_len {}; {}", source_.path,
                                row, sample.input_ids.size(), limit,
                                unset ? "set data.long_samples to drop, truncate, split or error"
                                      : "data.long_samples is error"));
  }

  void add_pieces(const Sample& sample, size_t limit) {
    for (size_t begin = 0; begin < sample.input_ids.size(); begin += limit) {
      const auto from = static_cast<std::ptrdiff_t>(begin);
      const auto to = static_cast<std::ptrdiff_t>(std::min(begin + limit, sample.input_ids.size()));
      Sample piece;
      piece.input_ids.assign(sample.input_ids.begin() + from, sample.input_ids.begin() + to);
      piece.labels.assign(sample.labels.begin() + from, sample.labels.begin() + to);
      keep(std::move(piece));
    }
  }

  // Evenly spread: sample i is taken when i * fraction passes a whole number.
  void append_fraction(double fraction, bool last, std::vector<Sample>& out) {
    for (size_t i = 0; i < samples_.size(); ++i) {
      const double passed = std::floor(static_cast<double>(i) * fraction);
      if (std::floor(static_cast<double>(i + 1) * fraction) <= passed) continue;
      out.push_back(last ? std::move(samples_[i]) : samples_[i]);
    }
  }

  std::string why_nothing_is_left() const {
    if (report_.records == 0) return fmt::format("{}: the file has no records", source_.path);
    return fmt::format(
        "{}: no usable sample: of {} records {} are empty, {} longer than data.seq_len {}, {} "
        "samples have every label masked, weight {} is applied to {}",
        source_.path, report_.records, report_.dropped_empty, report_.dropped_long,
        options_.seq_len, report_.dropped_without_labels, source_.weight, samples_.size());
  }

  const DataSource& source_;
  const DatasetOptions& options_;
  std::vector<Sample> samples_;
  DatasetReport report_;
};

void check_source(const DataSource& source, const Tokenizer* tokenizer) {
  constexpr double kLargestWeight = 1000.0;
  if (!(source.weight > 0.0 && source.weight <= kLargestWeight)) {
    throw ConfigError(fmt::format("data weight {} of {} must be above 0 and at most {}",
                                  source.weight, source.path, kLargestWeight));
  }
  if (tokenizer == nullptr && source.format != RecordFormat::kTokens) {
    throw ConfigError(
        fmt::format("{}: its format needs a tokenizer and the model has none; only tokens does not",
                    source.path));
  }
}

void load_source(const DataSource& source, const Tokenizer* tokenizer,
                 const DatasetOptions& options, Dataset& dataset) {
  check_source(source, tokenizer);
  RecordReader reader(source.path, is_plain_text(source));
  SourceCollector collector(source, options);
  std::vector<Record> chunk;
  while (read_chunk(reader, chunk)) {
    std::vector<Sample> samples = encode_chunk(chunk, source, tokenizer, options);
    for (size_t i = 0; i < chunk.size(); ++i) collector.add(std::move(samples[i]), chunk[i].row);
  }
  collector.finish(dataset);
}

}  // namespace

Dataset load_dataset(const std::vector<DataSource>& sources, const Tokenizer* tokenizer,
                     const DatasetOptions& options) {
  if (options.seq_len < 2) {  // one token alone predicts nothing
    throw ConfigError(fmt::format("data.seq_len {} must be at least 2", options.seq_len));
  }
  Dataset dataset;
  for (const DataSource& source : sources) load_source(source, tokenizer, options, dataset);
  dataset.report.samples = static_cast<int64_t>(dataset.samples.size());
  for (const Sample& sample : dataset.samples) {
    dataset.report.tokens += static_cast<int64_t>(sample.input_ids.size());
    dataset.report.trained_tokens += trained_tokens(sample);
  }
  return dataset;
}

}  // namespace rankwise
