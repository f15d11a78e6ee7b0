// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/tokenizer.h"

#include <gtest/gtest.h>

#include <numeric>

#include "runtime/errors.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/json.h"
#include "tests/support/error_of.h"
#include "tests/support/golden.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;
using testing::ScratchFolder;
using testing::shared_folder;

// tokenizer.model of the small Llama with a tokenizer_config.json of the test's choice.
TokenizerFiles stories_files(const std::string& config) {
  TokenizerFiles files = {
      {"tokenizer.model", read_file(shared_folder() + "/models/stories260k/tokenizer.model")}};
  if (!config.empty()) files.emplace_back("tokenizer_config.json", config);
  return files;
}

void expect_golden_encodings(const std::string& folder, const std::string& key) {
  const auto tokenizer = load_tokenizer(folder);
  const Json golden = read_json_file(shared_folder() + "/golden/tokenizer_encodings.json");
  ASSERT_GT(golden[key].size(), 10U);
  for (const Json& entry : golden[key]) {
    const auto text = entry["text"].get<std::string>();
    const auto ids = entry["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->encode(text), ids) << text;
    EXPECT_EQ(tokenizer->decode(ids), entry["decoded"].get<std::string>());
  }
}

TEST(SentencepieceTokenizer, Llama2IdsAndTextEqualTheReference) {
  RW_REQUIRE_SHARED();
  expect_golden_encodings(shared_folder() + "/tokenizers/llama2", "sentencepiece/llama2");
}

TEST(SentencepieceTokenizer, Stories260kIdsAndTextEqualTheReference) {
  RW_REQUIRE_SHARED();
  expect_golden_encodings(shared_folder() + "/models/stories260k", "sentencepiece/stories260k");
}

TEST(SentencepieceTokenizer, WithoutConfigTheModelsOwnSpecialTokensHold) {
  RW_REQUIRE_SHARED();
  const auto tokenizer = load_tokenizer(shared_folder() + "/tokenizers/llama2");
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->vocab_size(), 32000);
}

TEST(SentencepieceTokenizer, ConfigNamesSpecialTokensAsTextObjectOrNull) {
  RW_REQUIRE_SHARED();
  const auto swapped = load_tokenizer_from_files(
      stories_files(R"({"bos_token": {"content": "</s>", "special": true}, "eos_token": "<s>"})"),
      "memory");
  EXPECT_EQ(swapped->bos_id(), 2);
  EXPECT_EQ(swapped->eos_id(), 1);
  const auto none = load_tokenizer_from_files(
      stories_files(R"({"bos_token": null, "add_bos_token": true})"), "memory");
  EXPECT_EQ(none->bos_id(), -1);
  EXPECT_FALSE(none->adds_bos());
  EXPECT_EQ(none->eos_id(), 2);
  const auto silent =
      load_tokenizer_from_files(stories_files(R"({"add_bos_token": false})"), "memory");
  EXPECT_EQ(silent->bos_id(), 1);
  EXPECT_FALSE(silent->adds_bos());
}

TEST(SentencepieceTokenizer, AddedTokenMayBeTheEndOfText) {
  RW_REQUIRE_SHARED();
  const char* config = R"({"eos_token": "<|im_end|>",
      "added_tokens_decoder": {"1": {"content": "<s>"}, "512": {"content": "<|im_end|>"}}})";
  const auto from_config = load_tokenizer_from_files(stories_files(config), "memory");
  EXPECT_EQ(from_config->eos_id(), 512);
  EXPECT_EQ(from_config->vocab_size(), 513);
  EXPECT_EQ(from_config->decode(std::vector<int32_t>{403, 512}), "Once");

  TokenizerFiles files = stories_files(R"({"eos_token": "<|im_end|>"})");
  files.emplace_back("added_tokens.json", R"({"<|im_end|>": 515})");
  EXPECT_EQ(load_tokenizer_from_files(files, "memory")->eos_id(), 515);
}

TEST(SentencepieceTokenizer, DecodeLeavesOutSpecialAndUnknownIds) {
  RW_REQUIRE_SHARED();
  const auto tokenizer = load_tokenizer(shared_folder() + "/models/stories260k");
  const std::vector<int32_t> ids = {1, 403, 407, 0, 2, -1, 512, 1 << 30, 261};
  EXPECT_EQ(tokenizer->decode(ids), tokenizer->decode(std::vector<int32_t>{403, 407, 261}));
  EXPECT_EQ(tokenizer->decode({}), "");
}

TEST(SentencepieceTokenizer, DecodeReplacesBytesThatFormNoCharacter) {
  RW_REQUIRE_SHARED();
  const auto tokenizer = load_tokenizer(shared_folder() + "/models/stories260k");
  const std::vector<int32_t> cut = {3 + 0xE6, 3 + 0xBC};  // the pieces <0xE6>, <0xBC>
  EXPECT_EQ(tokenizer->decode(cut), "\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(SentencepieceTokenizer, DecodeReplacesBytesOfPiecesThatAreNoText) {
  RW_REQUIRE_SHARED();
  TokenizerFiles files = stories_files("");
  std::string& model = files[0].second;
  model.at(model.find("Once") + 2) = '\xff';
  const auto tokenizer = load_tokenizer_from_files(files, "memory");
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{403}),
            "On\xEF\xBF\xBD"
            "e");
}

TEST(SentencepieceTokenizer, FilesTravelByteForByte) {
  RW_REQUIRE_SHARED();
  const std::string folder = shared_folder() + "/models/stories260k";
  const TokenizerFiles files = load_tokenizer(folder)->files();
  ASSERT_EQ(files.size(), 3U);
  for (const auto& [name, content] : files) EXPECT_EQ(content, read_file(folder + "/" + name));
  EXPECT_EQ(load_tokenizer_from_files(files, "memory")->encode("a b"),
            load_tokenizer(folder)->encode("a b"));
}

TEST(SentencepieceTokenizer, WrongConfigIsRefusedByFileAndKey) {
  RW_REQUIRE_SHARED();
  const auto message = [](const std::string& config) {
    return error_of<FormatError>(
        [&] { load_tokenizer_from_files(stories_files(config), "folder"); });
  };
  for (const auto& [config, key] : std::vector<std::pair<const char*, const char*>>{
           {R"({"bos_token": "<absent>"})", "<absent>"},
           {R"({"eos_token": 7})", "eos_token"},
           {R"({"add_bos_token": "yes"})", "add_bos_token"},
           {R"({"added_tokens_decoder": {"x": {"content": "y"}}})", "added_tokens_decoder"},
           {R"({"added_tokens_decoder": {"9": "y"}})", "added_tokens_decoder"},
           {R"({"added_tokens_decoder": {"99999999999": {"content": "y"}}})", "99999999999"},
           {R"([1])", "object"},
           {R"({"bos_token": )", "tokenizer_config.json"}}) {
    RW_EXPECT_HAS(message(config), "folder/tokenizer_config.json");
    RW_EXPECT_HAS(message(config), key);
  }
}

TEST(Tokenizer, ModelFilesThatAreNoSentencepieceModelAreRefused) {
  // The last one is how Llama-3 names a file of quite another format.
  for (const char* content : {"", "garbage", "IQ== 0\nIg== 1\nIw== 2\n"}) {
    const std::string message = error_of<FormatError>([&] {
      load_tokenizer_from_files({{"tokenizer.model", content}}, "folder");
    });
    RW_EXPECT_HAS(message, "folder/tokenizer.model");
  }
}

TEST(Tokenizer, TruncatedSentencepieceModelIsRefused) {
  RW_REQUIRE_SHARED();
  const std::string whole = stories_files("")[0].second;
  for (const size_t size : {whole.size() / 2, whole.size() - 1, size_t{5}}) {
    EXPECT_THROW(load_tokenizer_from_files({{"tokenizer.model", whole.substr(0, size)}}, "memory"),
                 FormatError)
        << size;
  }
}

TEST(Tokenizer, FolderWithoutTokenizerSaysWhatWasLookedFor) {
  const ScratchFolder folder;
  const auto message = [&] {
    return error_of<FormatError>([&] { load_tokenizer(folder.path()); });
  };
  RW_EXPECT_HAS(message(), folder.path());
  RW_EXPECT_HAS(message(), "tokenizer.model");
  RW_EXPECT_HAS(message(), "RankwiseByteTokenizer");
  folder.write("tokenizer.json", "{}");
  RW_EXPECT_HAS(message(), "tokenizer.json is there");
}

TEST(ByteTokenizer, EveryByteHasItsOwnIdBehindTheSpecialOnes) {
  const auto tokenizer = make_byte_tokenizer();
  std::string bytes(256, '\0');
  std::iota(bytes.begin(), bytes.end(), '\0');
  const std::vector<int32_t> ids = tokenizer->encode(bytes);
  ASSERT_EQ(ids.size(), 256U);
  for (int32_t i = 0; i < 256; ++i) EXPECT_EQ(ids[static_cast<size_t>(i)], i + 3);
  EXPECT_EQ(tokenizer->vocab_size(), 259);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_TRUE(tokenizer->adds_bos());
}

TEST(ByteTokenizer, DecodeInvertsEncodeAndLeavesOutSpecialIds) {
  const auto tokenizer = make_byte_tokenizer();
  const std::string text = "Zo\xC3\xAB \xE6\xBC\xA2 </s>\n";
  std::vector<int32_t> ids = tokenizer->encode(text);
  ids.insert(ids.begin(), {1, 0, -5});
  ids.insert(ids.end(), {2, 259});
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{0xE6 + 3}), "\xEF\xBF\xBD");
}

TEST(ByteTokenizer, ItsConfigLoadsFromAFolderAndTravels) {
  const ScratchFolder folder;
  folder.write("tokenizer_config.json", byte_tokenizer_config());
  const auto tokenizer = load_tokenizer(folder.path());
  EXPECT_EQ(tokenizer->vocab_size(), 259);
  EXPECT_EQ(tokenizer->files(), make_byte_tokenizer()->files());

  const auto silent = load_tokenizer_from_files(
      {{"tokenizer_config.json",
        R"({"tokenizer_class": "RankwiseByteTokenizer", "add_bos_token": false})"}},
      "memory");
  EXPECT_FALSE(silent->adds_bos());
}

}  // namespace
}  // namespace rankwise
