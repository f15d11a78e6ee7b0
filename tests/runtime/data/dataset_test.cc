// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/dataset.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <string>

#include "runtime/errors.h"
#include "tests/support/error_of.h"
#include "tests/support/golden.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;
using testing::ScratchFolder;
using testing::shared_folder;
using Ids = std::vector<int32_t>;

constexpr int32_t kBos = 1;
constexpr int32_t kEos = 2;

Ids byte_ids(const std::string& text) { return make_byte_tokenizer()->encode(text); }

Ids joined(std::initializer_list<Ids> parts) {
  Ids out;
  for (const Ids& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

Ids masked(size_t count) { return Ids(count, kIgnoredLabel); }

Dataset load(const std::string& content, RecordFormat format, const DatasetOptions& options = {},
             double weight = 1.0, const std::string& name = "data.jsonl") {
  const ScratchFolder folder;
  return load_dataset({{folder.write(name, content), format, weight}}, make_byte_tokenizer().get(),
                      options);
}

// Tokens rows whose sample i holds `length` times the id 10 + i.
std::string token_rows(int count, int length) {
  std::string out;
  for (int row = 0; row < count; ++row) {
    const std::string ids =
        fmt::format("{}", fmt::join(Ids(static_cast<size_t>(length), 10 + row), ","));
    out += fmt::format("{{\"input_ids\": [{}], \"labels\": [{}]}}\n", ids, ids);
  }
  return out;
}

Ids first_ids(const Dataset& dataset) {
  Ids out;
  for (const Sample& sample : dataset.samples) out.push_back(sample.input_ids[0]);
  return out;
}

TEST(Dataset, PromptIsMaskedAndCompletionTrainedWithItsEnd) {
  const Dataset dataset =
      load(R"({"prompt": "ab", "completion": "c", "id": 7})", RecordFormat::kPromptCompletion);
  ASSERT_EQ(dataset.samples.size(), 1U);
  const Sample& sample = dataset.samples[0];
  EXPECT_EQ(sample.input_ids, joined({{kBos}, byte_ids("abc"), {kEos}}));
  EXPECT_EQ(sample.labels, joined({masked(3), byte_ids("c"), {kEos}}));
  EXPECT_EQ(dataset.report.records, 1);
  EXPECT_EQ(dataset.report.samples, 1);
  EXPECT_EQ(dataset.report.tokens, 5);
  EXPECT_EQ(dataset.report.trained_tokens, 2);
}

TEST(Dataset, TrainOnPromptLeavesNoLabelMasked) {
  DatasetOptions options;
  options.train_on_prompt = true;
  const Dataset dataset =
      load(R"({"prompt": "ab", "completion": "c"})", RecordFormat::kPromptCompletion, options);
  EXPECT_EQ(dataset.samples[0].labels, dataset.samples[0].input_ids);
}

TEST(Dataset, EmptyPromptIsFineAndEmptyCompletionIsDropped) {
  const Dataset dataset =
      load("{\"prompt\": \"\", \"completion\": \"x\"}\n{\"prompt\": \"y\", \"completion\": \"\"}",
           RecordFormat::kPromptCompletion);
  ASSERT_EQ(dataset.samples.size(), 1U);
  EXPECT_EQ(dataset.samples[0].input_ids, joined({{kBos}, byte_ids("x"), {kEos}}));
  EXPECT_EQ(dataset.report.records, 2);
  EXPECT_EQ(dataset.report.dropped_empty, 1);
}

TEST(Dataset, BeginningOfTextIsLeftOutWhenTheTokenizerAddsNone) {
  const auto tokenizer = load_tokenizer_from_files(
      {{"tokenizer_config.json",
        R"({"tokenizer_class": "RankwiseByteTokenizer", "add_bos_token": false})"}},
      "memory");
  const ScratchFolder folder;
  const std::string path = folder.write("a.jsonl", R"({"text": "a"})");
  const Dataset dataset = load_dataset({{path, RecordFormat::kText}}, tokenizer.get(), {});
  EXPECT_EQ(dataset.samples[0].input_ids, joined({byte_ids("a"), {kEos}}));
}

TEST(Dataset, AlpacaTemplateWithAndWithoutInput) {
  const Dataset dataset = load(
      R"([{"instruction": "Add.", "input": "1 2", "output": "3"},
          {"instruction": "Greet.", "input": "", "output": "Hi"},
          {"instruction": "Greet.", "input": null, "output": "Hi"},
          {"instruction": "Greet.", "output": "Hi"}])",
      RecordFormat::kAlpaca);
  const std::string with_input =
      "Below is an instruction that describes a task, paired with an input that provides further "
      "context. Write a response that appropriately completes the request.\n\n"
      "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n";
  const std::string without_input =
      "Below is an instruction that describes a task. Write a response that appropriately "
      "completes the request.\n\n### Instruction:\nGreet.\n\n### Response:\n";
  ASSERT_EQ(dataset.samples.size(), 4U);
  EXPECT_EQ(dataset.samples[0].input_ids, joined({{kBos}, byte_ids(with_input + "3"), {kEos}}));
  EXPECT_EQ(dataset.samples[0].labels,
            joined({masked(1 + with_input.size()), byte_ids("3"), {kEos}}));
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(dataset.samples[i].input_ids,
              joined({{kBos}, byte_ids(without_input + "Hi"), {kEos}}));
  }
}

TEST(Dataset, TextIsTrainedWhole) {
  const Dataset dataset = load(R"({"text": "ab"})", RecordFormat::kText);
  EXPECT_EQ(dataset.samples[0].input_ids, joined({{kBos}, byte_ids("ab"), {kEos}}));
  EXPECT_EQ(dataset.samples[0].labels, dataset.samples[0].input_ids);
}

TEST(Dataset, PlainTextDocumentsAreSeparatedByBlankLines) {
  const Dataset dataset = load("a\nb\n\n\nc\n", RecordFormat::kText, {}, 1.0, "data.txt");
  ASSERT_EQ(dataset.samples.size(), 2U);
  EXPECT_EQ(dataset.samples[0].input_ids, joined({{kBos}, byte_ids("a\nb"), {kEos}}));
  EXPECT_EQ(dataset.samples[1].input_ids, joined({{kBos}, byte_ids("c"), {kEos}}));
}

TEST(Dataset, TokensAreTakenAsTheyAreWithoutATokenizer) {
  const ScratchFolder folder;
  const std::string path =
      folder.write("a.jsonl", R"({"input_ids": [5, 0, 6], "labels": [-100, 0, 6]})");
  const Dataset dataset = load_dataset({{path, RecordFormat::kTokens}}, nullptr, {});
  EXPECT_EQ(dataset.samples[0].input_ids, (Ids{5, 0, 6}));
  EXPECT_EQ(dataset.samples[0].labels, (Ids{kIgnoredLabel, 0, 6}));
}

TEST(Dataset, ArrayLinesByteOrderMarkAndCarriageReturnsGiveTheSameSamples) {
  const std::string one = R"({"prompt": "a", "completion": "b\r\n"})";
  const std::string two = R"({"prompt": "c", "completion": "d"})";
  const auto ids = [](const std::string& content) {
    const Dataset dataset = load(content, RecordFormat::kPromptCompletion);
    EXPECT_EQ(dataset.samples.size(), 2U);
    return joined({dataset.samples[0].input_ids, dataset.samples[1].input_ids});
  };
  const Ids expected = ids(one + "\n" + two + "\n");
  EXPECT_EQ(ids("\xEF\xBB\xBF" + one + "\r\n\r\n" + two), expected);
  EXPECT_EQ(ids("[" + one + ",\n " + two + "]"), expected);
  EXPECT_EQ(ids("\xEF\xBB\xBF\r\n[\r\n" + one + ",\r\n" + two + "\r\n]\r\n"), expected);
}

TEST(Dataset, OrderHoldsOverManyRecordsAndThreads) {
  std::string rows;
  for (int i = 0; i < 10'000; ++i) {
    rows += "{\"input_ids\": [3, " + std::to_string(i) + "], \"labels\": [-100, 1]}\n";
  }
  const Dataset dataset = load(rows, RecordFormat::kTokens);
  ASSERT_EQ(dataset.samples.size(), 10'000U);
  for (size_t i = 0; i < dataset.samples.size(); ++i) {
    ASSERT_EQ(dataset.samples[i].input_ids[1], static_cast<int32_t>(i));
  }
}

TEST(Dataset, SourcesFollowEachOtherInOrder) {
  const ScratchFolder folder;
  const std::vector<DataSource> sources = {
      {folder.write("b.jsonl", token_rows(2, 3)), RecordFormat::kTokens},
      {folder.write("a.jsonl", R"({"prompt": "p", "completion": "c"})")}};
  const Dataset dataset = load_dataset(sources, make_byte_tokenizer().get(), {});
  EXPECT_EQ(first_ids(dataset), (Ids{10, 11, kBos}));
  EXPECT_EQ(dataset.report.records, 3);
}

TEST(Dataset, WeightKeepsOrRepeatsSamplesEvenly) {
  const auto ids = [](double weight) {
    return first_ids(load(token_rows(4, 2), RecordFormat::kTokens, {}, weight));
  };
  EXPECT_EQ(ids(0.5), (Ids{11, 13}));
  EXPECT_EQ(ids(1.0), (Ids{10, 11, 12, 13}));
  EXPECT_EQ(ids(2.0), (Ids{10, 11, 12, 13, 10, 11, 12, 13}));
  EXPECT_EQ(ids(1.25), (Ids{10, 11, 12, 13, 13}));
  const Dataset twice = load(token_rows(4, 2), RecordFormat::kTokens, {}, 2.0);
  EXPECT_EQ(twice.report.records, 4);
  EXPECT_EQ(twice.report.samples, 8);
  EXPECT_EQ(twice.report.trained_tokens, 8);
}

class LongSample : public ::testing::Test {
 protected:
  // Two samples of 5 tokens, ids 10 and 11, and seq_len 2.
  static Dataset load_long(LongSamples policy, int64_t seq_len = 2) {
    DatasetOptions options;
    options.seq_len = seq_len;
    options.long_samples = policy;
    return load(token_rows(1, 2) + token_rows(2, 5), RecordFormat::kTokens, options);
  }
};

TEST_F(LongSample, DropLeavesItOut) {
  const Dataset dataset = load_long(LongSamples::kDrop);
  EXPECT_EQ(dataset.samples.size(), 1U);
  EXPECT_EQ(dataset.report.dropped_long, 2);
}

TEST_F(LongSample, TruncateKeepsTheBeginning) {
  const Dataset dataset = load_long(LongSamples::kTruncate);
  ASSERT_EQ(dataset.samples.size(), 3U);
  EXPECT_EQ(dataset.samples[2].input_ids, (Ids{11, 11}));
  EXPECT_EQ(dataset.samples[2].labels, (Ids{11, 11}));
  EXPECT_EQ(dataset.report.truncated, 2);
}

TEST_F(LongSample, SplitMakesDocumentsAndDropsPiecesThatTrainNothing) {
  const Dataset dataset = load_long(LongSamples::kSplit);
  EXPECT_EQ(first_ids(dataset), (Ids{10, 10, 10, 11, 11}));  // each fifth token stands alone
  EXPECT_EQ(dataset.report.split, 2);
  EXPECT_EQ(dataset.report.dropped_without_labels, 2);
  EXPECT_EQ(load_long(LongSamples::kSplit, 3).samples.back().input_ids, (Ids{11, 11}));
}

TEST_F(LongSample, UnsetNamesRowLengthKeyAndChoices) {
  const std::string message = error_of<DataError>([] { load_long(LongSamples::kUnset); });
  RW_EXPECT_HAS(message, "data.jsonl:2: 5 tokens are more than data.seq_len 2");
  RW_EXPECT_HAS(message, "set data.long_samples to drop, truncate, split or error");
}

TEST_F(LongSample, ErrorNamesRowAndLength) {
  const std::string message = error_of<DataError>([] { load_long(LongSamples::kError); });
  RW_EXPECT_HAS(message, "data.jsonl:2: 5 tokens are more than data.seq_len 2");
}

TEST_F(LongSample, ExactlySeqLenIsNotLong) {
  EXPECT_EQ(load_long(LongSamples::kError, 5).samples.size(), 3U);
}

TEST(Dataset, TruncationThatLeavesOnlyThePromptIsDroppedWithCount) {
  DatasetOptions options;
  options.seq_len = 3;
  options.long_samples = LongSamples::kTruncate;
  const Dataset dataset = load(
      "{\"prompt\": \"abc\", \"completion\": \"d\"}\n{\"prompt\": \"\", \"completion\": \"d\"}",
      RecordFormat::kPromptCompletion, options);
  EXPECT_EQ(dataset.samples.size(), 1U);
  EXPECT_EQ(dataset.report.dropped_without_labels, 1);
}

TEST(Dataset, StoriesTrainingRowsEqualTheReference) {
  RW_REQUIRE_SHARED();
  const auto tokenizer = load_tokenizer(shared_folder() + "/models/stories260k");
  DatasetOptions options;
  options.seq_len = 160;
  options.long_samples = LongSamples::kTruncate;
  options.vocab_size = 512;
  const Dataset dataset =
      load_dataset({{shared_folder() + "/data/e2e/train.jsonl"}}, tokenizer.get(), options);
  const SafetensorsFile golden(shared_folder() + "/golden/stories260k/expected.safetensors");
  Arena arena;
  const Tensor ids = testing::load_i64(golden, "train_ids", arena);        // (60, 8, 160)
  const Tensor labels = testing::load_i64(golden, "train_labels", arena);  // (60, 8, 160)
  const int64_t rows = ids.numel() / 160;
  ASSERT_EQ(rows, 480);
  for (int64_t row = 0; row < rows; ++row) {
    const Sample& sample = dataset.samples[static_cast<size_t>(row)];
    for (int64_t t = 0; t < 160; ++t) {
      const bool padding = t >= static_cast<int64_t>(sample.input_ids.size());
      const auto at = static_cast<size_t>(t);
      ASSERT_EQ(padding ? 0 : sample.input_ids[at], ids.data<int64_t>()[row * 160 + t])
          << "row " << row << " token " << t;
      ASSERT_EQ(padding ? kIgnoredLabel : sample.labels[at], labels.data<int64_t>()[row * 160 + t])
          << "row " << row << " token " << t;
    }
  }
}

}  // namespace
}  // namespace rankwise
