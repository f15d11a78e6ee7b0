// SPDX-License-Identifier: Apache-2.0
// What load_dataset refuses, and that every message leads to the place.
#include <gtest/gtest.h>

#include <limits>

#include "runtime/data/dataset.h"
#include "runtime/errors.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;
using testing::ScratchFolder;

constexpr const char* kGoodTokens = "{\"input_ids\": [5, 6], \"labels\": [5, 6]}\n";
constexpr const char* kGoodPair = "{\"prompt\": \"a\", \"completion\": \"b\"}\n";

std::string refusal(std::string_view content, RecordFormat format,
                    const std::string& name = "data.jsonl") {
  const ScratchFolder folder;
  const std::string path = folder.write(name, content);
  DatasetOptions options;
  options.vocab_size = 300;
  return error_of<DataError>([&] {
    load_dataset({{path, format}}, make_byte_tokenizer().get(), options);
  });
}

std::string pair_refusal(std::string_view row) {
  return refusal(std::string(kGoodPair) + std::string(row), RecordFormat::kPromptCompletion);
}

std::string token_refusal(std::string_view row) {
  return refusal(std::string(kGoodTokens) + std::string(row), RecordFormat::kTokens);
}

TEST(DatasetErrors, MissingAndMistypedFieldsAreNamed) {
  RW_EXPECT_HAS(pair_refusal(R"({"prompt": "a"})"), "data.jsonl:2: field 'completion' is missing");
  RW_EXPECT_HAS(pair_refusal(R"({"completion": "a"})"), "data.jsonl:2: field 'prompt' is missing");
  RW_EXPECT_HAS(pair_refusal(R"({"prompt": [], "completion": "a"})"),
                "data.jsonl:2: field 'prompt' must be a string, not array");
  RW_EXPECT_HAS(pair_refusal(R"({"prompt": "a", "completion": null})"),
                "data.jsonl:2: field 'completion' must be a string, not null");
  RW_EXPECT_HAS(
      refusal(R"({"instruction": "a", "input": 1, "output": "b"})", RecordFormat::kAlpaca),
      "data.jsonl:1: field 'input' must be a string, not number");
  RW_EXPECT_HAS(refusal(R"({"text": 1})", RecordFormat::kText),
                "data.jsonl:1: field 'text' must be a string, not number");
}

TEST(DatasetErrors, RecordsThatAreNoObjectsAreRefused) {
  RW_EXPECT_HAS(pair_refusal("7"), "data.jsonl:2: the record is number, not an object");
  RW_EXPECT_HAS(refusal("[[1]]", RecordFormat::kTokens),
                "data.jsonl:1: the record is array, not an object");
}

TEST(DatasetErrors, BrokenJsonIsRefusedWithItsRow) {
  const std::string nested(200, '[');
  for (const std::string& row :
       {std::string("{\"prompt\": \"a\", "), std::string("{\"prompt\": \"a\"} {}"),
        std::string("{'prompt': 'a'}"), std::string("{\"prompt\": \"\\ud800\"}"),
        std::string("{\"prompt\": \"a\", \"prompt\": \"b\"}"), "{\"x\": " + nested}) {
    RW_EXPECT_HAS(pair_refusal(row), "data.jsonl:2: ");
  }
}

TEST(DatasetErrors, BrokenElementOfAnArrayIsRefusedWithItsNumber) {
  const std::string array = "[" + std::string(kGoodPair) + ",\n\n{\"prompt\" 1}]";
  RW_EXPECT_HAS(refusal(array, RecordFormat::kPromptCompletion), "data.jsonl:2: ");
}

TEST(DatasetErrors, InvalidUtf8IsRefusedWithItsRow) {
  for (const char* bytes : {"\xFF", "\xC0\x80", "\xED\xA0\x80", "\xE6\xBC"}) {
    const std::string text = bytes;
    RW_EXPECT_HAS(pair_refusal("{\"prompt\": \"" + text + "\", \"completion\": \"b\"}"),
                  "data.jsonl:2: ");
    RW_EXPECT_HAS(refusal("a\n\nb" + text, RecordFormat::kText, "data.txt"),
                  "data.txt:3: invalid UTF-8");
  }
}

TEST(DatasetErrors, NulBytesAreRefusedWithTheirRow) {
  using namespace std::string_view_literals;
  RW_EXPECT_HAS(pair_refusal("{\"prompt\": \"a\0\", \"completion\": \"b\"}"sv),
                "data.jsonl:2: a NUL byte");
  RW_EXPECT_HAS(pair_refusal("{\"prompt\": \"a\", \"completion\": \"b\"}\0rest"sv),
                "data.jsonl:2: a NUL byte");
  RW_EXPECT_HAS(refusal("a\n\nb\0"sv, RecordFormat::kText, "data.txt"), "data.txt:3: a NUL byte");
}

TEST(DatasetErrors, EscapedNulIsTextLikeAnyOther) {
  const ScratchFolder folder;
  const std::string path = folder.write("a.jsonl", R"({"text": "a\u0000b"})");
  const Dataset dataset =
      load_dataset({{path, RecordFormat::kText}}, make_byte_tokenizer().get(), {});
  EXPECT_EQ(dataset.samples[0].input_ids, (std::vector<int32_t>{1, 'a' + 3, 3, 'b' + 3, 2}));
}

TEST(DatasetErrors, TokenIdsOutsideTheVocabularyAreNamed) {
  RW_EXPECT_HAS(
      token_refusal(R"({"input_ids": [5, 300], "labels": [5, 5]})"),
      "data.jsonl:2: field 'input_ids'[1]: token id 300 is outside the model's vocabulary of 300");
  RW_EXPECT_HAS(token_refusal(R"({"input_ids": [-1, 5], "labels": [5, 5]})"),
                "data.jsonl:2: field 'input_ids'[0]: token id -1");
  RW_EXPECT_HAS(token_refusal(R"({"input_ids": [-100, 5], "labels": [5, 5]})"),
                "data.jsonl:2: field 'input_ids'[0]: token id -100");
}

TEST(DatasetErrors, LabelsAreInTheVocabularyOrTheMask) {
  RW_EXPECT_HAS(token_refusal(R"({"input_ids": [5, 6], "labels": [5, 300]})"),
                "data.jsonl:2: field 'labels'[1]: token id 300");
  RW_EXPECT_HAS(token_refusal(R"({"input_ids": [5, 6], "labels": [-99, 6]})"),
                "data.jsonl:2: field 'labels'[0]: token id -99");
}

TEST(DatasetErrors, TokenArraysHoldIntegersOfOneLength) {
  RW_EXPECT_HAS(token_refusal(R"({"input_ids": [5, 6], "labels": [5]})"),
                "data.jsonl:2: field 'labels' has 1 entries, 'input_ids' has 2");
  RW_EXPECT_HAS(token_refusal(R"({"input_ids": [5, 6]})"),
                "data.jsonl:2: field 'labels' is missing");
  for (const char* wrong : {"5", "\"5\"", "[5.0, 6]", "[\"5\", 6]", "[null, 6]", "{}"}) {
    RW_EXPECT_HAS(token_refusal("{\"input_ids\": " + std::string(wrong) + ", \"labels\": [5, 6]}"),
                  "data.jsonl:2: field 'input_ids' must be an array of integers");
  }
  for (const char* wide :
       {"2147483648", "-2147483649", "18446744073709551615", "-9223372036854775808"}) {
    const std::string row = "{\"input_ids\": [5, " + std::string(wide) + "], \"labels\": [5, 6]}";
    RW_EXPECT_HAS(token_refusal(row), "data.jsonl:2: field 'input_ids'[1]: " + std::string(wide) +
                                          " is not a token id");
  }
}

TEST(DatasetErrors, TokenizerLargerThanTheModelIsRefused) {
  const ScratchFolder folder;
  const std::string path = folder.write("a.jsonl", R"({"text": "~"})");
  DatasetOptions options;
  options.vocab_size = '~' + 3;  // one too few
  const auto load = [&] {
    load_dataset({{path, RecordFormat::kText}}, make_byte_tokenizer().get(), options);
  };
  RW_EXPECT_HAS(error_of<DataError>(load),
                "a.jsonl:1: token id 129 is outside the model's vocabulary of 129");
  options.vocab_size += 1;
  EXPECT_NO_THROW(load());
}

TEST(DatasetErrors, OfSeveralWrongRowsTheFirstIsReported) {
  std::string rows;
  for (int i = 0; i < 3000; ++i) rows += i < 1500 ? kGoodTokens : "{}\n";
  RW_EXPECT_HAS(refusal(rows, RecordFormat::kTokens), "data.jsonl:1501: ");
}

TEST(DatasetErrors, FilesWithoutRecordsAreRefused) {
  for (const char* content : {"", "\n\r\n", "[]", "\xEF\xBB\xBF"}) {
    RW_EXPECT_HAS(refusal(content, RecordFormat::kTokens), "data.jsonl: the file has no records");
  }
}

TEST(DatasetErrors, FilesWithoutAUsableSampleSayWhy) {
  RW_EXPECT_HAS(refusal("{\"input_ids\": [5, 6], \"labels\": [5, -100]}\n"
                        "{\"input_ids\": [], \"labels\": []}",
                        RecordFormat::kTokens),
                "data.jsonl: no usable sample: of 2 records 1 are empty, 0 longer than "
                "data.seq_len 2048, 1 samples have every label masked");
}

TEST(DatasetErrors, AnUnusableFileIsRefusedBesideAUsableOne) {
  const ScratchFolder folder;
  const std::vector<DataSource> sources = {{folder.write("good.jsonl", kGoodPair)},
                                           {folder.write("empty.jsonl", "")}};
  RW_EXPECT_HAS(error_of<DataError>(
                    [&] { load_dataset(sources, make_byte_tokenizer().get(), DatasetOptions()); }),
                "empty.jsonl");
}

TEST(DatasetErrors, AWeightThatLeavesNothingIsNamed) {
  const ScratchFolder folder;
  const std::string path = folder.write("a.jsonl", kGoodTokens);
  RW_EXPECT_HAS(error_of<DataError>([&] {
                  load_dataset({{path, RecordFormat::kTokens, 0.5}}, nullptr, {});
                }),
                "weight 0.5 is applied to 1");
}

TEST(DatasetErrors, WeightsMustBePositiveAndFinite) {
  const ScratchFolder folder;
  const std::string path = folder.write("a.jsonl", kGoodTokens);
  for (const double weight : {0.0, -1.0, 1e9, std::numeric_limits<double>::infinity(),
                              std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THROW(load_dataset({{path, RecordFormat::kTokens, weight}}, nullptr, {}), ConfigError);
  }
}

TEST(DatasetErrors, TextWithoutATokenizerIsRefused) {
  const ScratchFolder folder;
  const std::string path = folder.write("a.jsonl", kGoodPair);
  EXPECT_THROW(load_dataset({{path}}, nullptr, {}), ConfigError);
}

TEST(DatasetErrors, SeqLenMustHoldAPair) {
  DatasetOptions options;
  options.seq_len = 1;
  EXPECT_THROW(load_dataset({}, nullptr, options), ConfigError);
}

}  // namespace
}  // namespace rankwise
