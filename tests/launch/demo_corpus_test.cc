// SPDX-License-Identifier: Apache-2.0
#include "launch/demo_corpus.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "model/hf_folder.h"
#include "runtime/data/tokenizer.h"

namespace rankwise {
namespace {

constexpr DemoSizes kSmall{.paragraphs = 400, .train_rows = 300, .eval_rows = 100};

std::string name_in(const std::string& slots) { return slots.substr(0, slots.find(" | ")); }

TEST(DemoCorpus, HasTheSizesAskedFor) {
  const DemoCorpus corpus = make_demo_corpus(kSmall, 1);
  EXPECT_EQ(corpus.paragraphs.size(), 400u);
  EXPECT_EQ(corpus.train.size(), 300u);
  EXPECT_EQ(corpus.eval.size(), 100u);
}

TEST(DemoCorpus, IsAFunctionOfItsSeed) {
  const DemoCorpus a = make_demo_corpus(kSmall, 1);
  const DemoCorpus b = make_demo_corpus(kSmall, 1);
  const DemoCorpus other = make_demo_corpus(kSmall, 2);
  EXPECT_EQ(a.paragraphs, b.paragraphs);
  EXPECT_EQ(a.eval[7].prompt, b.eval[7].prompt);
  EXPECT_NE(a.paragraphs, other.paragraphs);
}

TEST(DemoCorpus, EvaluationNamesOccurNowhereElse) {
  const DemoCorpus corpus = make_demo_corpus(kSmall, 3);
  std::set<std::string> seen;
  for (const DemoTaskRow& row : corpus.train) seen.insert(name_in(row.completion));
  for (const DemoTaskRow& row : corpus.eval) {
    const std::string name = name_in(row.completion);
    EXPECT_FALSE(seen.contains(name)) << name;
    for (const std::string& paragraph : corpus.paragraphs) {
      EXPECT_EQ(paragraph.find(name), std::string::npos) << name;
    }
  }
}

TEST(DemoCorpus, EveryOtherAnswerOfTheEvaluationWasSeenInTraining) {
  const DemoCorpus corpus = make_demo_corpus(DemoSizes{}, 3);
  std::set<std::string> seen;
  const auto slots = [](const std::string& text) { return text.substr(name_in(text).size()); };
  for (const DemoTaskRow& row : corpus.train) seen.insert(slots(row.completion));
  for (const DemoTaskRow& row : corpus.eval) {
    EXPECT_TRUE(seen.contains(slots(row.completion))) << row.completion;
  }
}

TEST(DemoCorpus, PromptContainsNameAndFoodOfItsAnswer) {
  for (const DemoTaskRow& row : make_demo_corpus(kSmall, 4).eval) {
    const std::string name = name_in(row.completion);
    const size_t food_at = name.size() + 3;
    const std::string food =
        row.completion.substr(food_at, row.completion.find(" | ", food_at) - food_at);
    EXPECT_NE(row.prompt.find(name), std::string::npos) << row.prompt;
    EXPECT_NE(row.prompt.find(food), std::string::npos) << row.prompt;
    EXPECT_EQ(std::count(row.completion.begin(), row.completion.end(), '|'), 3);
  }
}

TEST(DemoCorpus, ModelConfigFitsTheByteTokenizer) {
  const ModelConfig config = parse_model_config(parse_json(demo_model_config(), "demo"), "demo");
  EXPECT_GE(config.vocab_size, make_byte_tokenizer()->vocab_size());
  EXPECT_EQ(config.bos_token_id, make_byte_tokenizer()->bos_id());
  EXPECT_LT(parameter_count(config), 2'000'000);
}

}  // namespace
}  // namespace rankwise
