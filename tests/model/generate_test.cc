// SPDX-License-Identifier: Apache-2.0
#include "model/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "model/hf_folder.h"
#include "model/kv_cache.h"
#include "tests/model/tiny_config.h"
#include "tests/model/training_rig.h"

namespace rankwise {
namespace {

using testing::tiny_config;
using testing::TrainingRig;

class Generate : public ::testing::Test {
 protected:
  Generate() : Generate(Json::object()) {}
  explicit Generate(const Json& changes)
      : config(tiny_config(changes)), rig(config, *make_random_weights(config, 11), {}) {}

  std::vector<float> last_logits(const std::vector<int32_t>& ids) {
    MicroBatch batch;
    append_document(batch, {ids, std::vector<int32_t>(ids.size(), kIgnoredLabel)});
    const Tensor logits = rig.logits(batch);
    return {logits.data<float>() + logits.numel() - config.vocab_size,
            logits.data<float>() + logits.numel()};
  }
  std::vector<int32_t> run(const GenerateOptions& options,
                           const std::vector<int32_t>& prompt = {1, 7, 3}) {
    return generate(rig.model(), prompt, options, rig.arena(), rig.stream());
  }

  ModelConfig config;
  TrainingRig rig;
};

class WindowedGenerate : public Generate {
 protected:
  WindowedGenerate() : Generate(Json{{"model_type", "mistral"}, {"sliding_window", 4}}) {}
};

void expect_cached_equals_full(const std::vector<float>& cached, const std::vector<float>& full) {
  ASSERT_EQ(cached.size(), full.size());
  for (size_t i = 0; i < full.size(); ++i) EXPECT_NEAR(cached[i], full[i], 1e-5) << i;
}

TEST_F(Generate, CachedDecodingEqualsAFullForwardPass) {
  KvCache cache(config, config.num_key_value_heads, 12, DType::kF32, rig.arena());
  std::vector<int32_t> ids{1, 7, 3, 3, 20};
  expect_cached_equals_full(rig.model().next_token_logits(ids, cache, rig.stream()),
                            last_logits(ids));
  for (const std::vector<int32_t>& more : {std::vector<int32_t>{4}, {9, 9, 2}, {28}}) {
    ids.insert(ids.end(), more.begin(), more.end());
    expect_cached_equals_full(rig.model().next_token_logits(more, cache, rig.stream()),
                              last_logits(ids));
    EXPECT_EQ(cache.tokens(), static_cast<int64_t>(ids.size()));
  }
}

TEST_F(WindowedGenerate, CachedDecodingEqualsAFullForwardPass) {
  KvCache cache(config, config.num_key_value_heads, 12, DType::kF32, rig.arena());
  std::vector<int32_t> ids{1, 7, 3, 3, 20, 6};
  expect_cached_equals_full(rig.model().next_token_logits(ids, cache, rig.stream()),
                            last_logits(ids));
  for (const int32_t id : {4, 9, 28}) {
    ids.push_back(id);
    const std::vector<int32_t> one{id};
    expect_cached_equals_full(rig.model().next_token_logits(one, cache, rig.stream()),
                              last_logits(ids));
  }
}

TEST_F(Generate, GreedyTakesTheMostLikelyToken) {
  std::vector<int32_t> ids{1, 7, 3};
  std::vector<int32_t> expected;
  for (int i = 0; i < 8; ++i) {
    const std::vector<float> logits = last_logits(ids);
    ids.push_back(static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()));
    expected.push_back(ids.back());
  }
  EXPECT_EQ(run({.max_new_tokens = 8}), expected);
}

TEST_F(Generate, EqualLogitsGiveTheLowestId) {
  Parameter& head = rig.parameter("lm_head.weight");
  std::fill_n(head.dense().data<float>(), head.dense().numel(), 0.0f);
  EXPECT_EQ(run({.max_new_tokens = 2}), (std::vector<int32_t>{0, 0}));
  // The nucleus fills from the lowest id too: one token suffices for 1 / 29 of the probability.
  EXPECT_EQ(run({.max_new_tokens = 2, .temperature = 1.0, .top_p = 0.01}),
            (std::vector<int32_t>{0, 0}));
}

TEST_F(Generate, EndsBeforeAStopTokenAndAtTheLimit) {
  const std::vector<int32_t> all = run({.max_new_tokens = 8});
  ASSERT_EQ(all.size(), 8u);
  const auto stop = std::ranges::find(all, all[3]);
  EXPECT_EQ(run({.max_new_tokens = 8, .stop_ids = {all[3]}}),
            std::vector<int32_t>(all.begin(), stop));
  EXPECT_TRUE(run({.max_new_tokens = 0}).empty());
}

TEST_F(Generate, SamplingIsAFunctionOfTheSeed) {
  const GenerateOptions options{.max_new_tokens = 12, .temperature = 2.0, .seed = 1};
  const std::vector<int32_t> first = run(options);
  EXPECT_EQ(run(options), first);
  EXPECT_NE(run({.max_new_tokens = 12, .temperature = 2.0, .seed = 2}), first);
}

TEST_F(Generate, ATinyNucleusIsGreedy) {
  EXPECT_EQ(run({.max_new_tokens = 8, .temperature = 1.0, .top_p = 1e-6}),
            run({.max_new_tokens = 8}));
}

TEST_F(Generate, SamplesInProportionToProbability) {
  const std::vector<int32_t> prompt{5};
  const std::vector<float> logits = last_logits(prompt);
  const double temperature = 1.5;
  std::map<int32_t, double> probability;
  double total = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) total += std::exp(logits[i] / temperature);
  for (size_t i = 0; i < logits.size(); ++i) {
    probability[static_cast<int32_t>(i)] = std::exp(logits[i] / temperature) / total;
  }
  std::map<int32_t, double> seen;
  constexpr int kDraws = 4000;
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    const auto ids = run({.max_new_tokens = 1, .temperature = temperature, .seed = seed}, prompt);
    seen[ids.front()] += 1.0 / kDraws;
  }
  for (const auto& [id, expected] : probability) {
    const double deviation = std::sqrt(expected * (1.0 - expected) / kDraws);
    EXPECT_NEAR(seen[id], expected, 5.0 * deviation) << id;
  }
}

}  // namespace
}  // namespace rankwise
