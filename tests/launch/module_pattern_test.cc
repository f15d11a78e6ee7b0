// SPDX-License-Identifier: Apache-2.0
#include "launch/config/module_pattern.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/errors.h"

namespace rankwise {
namespace {

TEST(ModulePattern, StarTakesAnyRunOfCharactersAndTheWholeNameMustMatch) {
  EXPECT_TRUE(matches_glob("model.layers.*.self_attn.q_proj", "model.layers.17.self_attn.q_proj"));
  EXPECT_TRUE(matches_glob("*.q_proj", "model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(matches_glob("*", "lm_head"));
  EXPECT_FALSE(matches_glob("q_proj", "model.layers.0.self_attn.q_proj"));
  EXPECT_FALSE(matches_glob("model.layers.*.self_attn", "model.layers.0.self_attn.q_proj"));
  EXPECT_FALSE(matches_glob("", "lm_head"));
}

TEST(ModulePattern, StarGoesBackWhenALaterPartNeedsIt) {
  EXPECT_TRUE(matches_glob("*ab*b", "aababb"));
  EXPECT_TRUE(matches_glob("a*b*c", "abxbc"));
  EXPECT_FALSE(matches_glob("*ab", "aba"));
}

TEST(ModulePattern, QuestionMarkTakesExactlyOneCharacter) {
  EXPECT_TRUE(matches_glob("model.layers.?.mlp", "model.layers.3.mlp"));
  EXPECT_FALSE(matches_glob("model.layers.?.mlp", "model.layers.13.mlp"));
}

TEST(ModulePattern, BracesListAlternativesAndNest) {
  EXPECT_TRUE(matches_glob("*.{q,v}_proj", "a.v_proj"));
  EXPECT_FALSE(matches_glob("*.{q,v}_proj", "a.k_proj"));
  EXPECT_EQ(expand_braces("{a,b{1,2}}-{x,}"),
            (std::vector<std::string>{"a-x", "a-", "b1-x", "b1-", "b2-x", "b2-"}));
}

TEST(ModulePattern, UnbalancedBracesAreRefused) {
  for (const char* pattern : {"{a", "a}", "{a,{b}", "}{", "{a}}"}) {
    EXPECT_THROW(expand_braces(pattern), ConfigError) << pattern;
  }
}

TEST(ModulePattern, BraceBombIsRefused) {
  std::string pattern;
  for (int i = 0; i < 40; ++i) pattern += "{a,b}";
  EXPECT_THROW(expand_braces(pattern), ConfigError);
  EXPECT_THROW(expand_braces(std::string(2000, '*')), ConfigError);
}

// Few alternatives, each reached through many patterns.
TEST(ModulePattern, BracesThatMultiplyTheWorkAloneAreRefused) {
  std::string pattern;
  for (int i = 0; i < 10; ++i) pattern += "{a,b}";
  EXPECT_EQ(expand_braces(pattern).size(), 1024u);
  for (int i = 0; i < 300; ++i) pattern += "{c}";
  EXPECT_THROW(expand_braces(pattern), ConfigError);
  EXPECT_EQ(expand_braces("{a,b}" + pattern.substr(50)).size(), 2u);
}

TEST(ModulePattern, ManyStarsDoNotTakeExponentialTime) {
  std::string pattern;
  for (int i = 0; i < 400; ++i) pattern += "*a";
  EXPECT_FALSE(matches_glob(pattern + "b", std::string(2000, 'a')));
}

TEST(ModulePattern, AllLinearIsEveryLinearOfTheBlocksAndNothingElse) {
  const AdaptRule rule;
  EXPECT_TRUE(matches(rule, "model.layers.0.mlp.up_proj", ModuleKind::kBlockLinear));
  EXPECT_FALSE(matches(rule, "lm_head", ModuleKind::kOther));
}

TEST(ModulePattern, RulesMatchWhatTheirPatternsSay) {
  std::vector<AdaptRule> rules(3);
  rules[0].match = {"lm_head", "*.o_proj"};
  rules[1].match = {"all-linear"};
  rules[2].match = {"*"};
  const auto index = [&](std::string_view module, ModuleKind kind) {
    return std::ranges::find_if(
               rules, [&](const AdaptRule& rule) { return matches(rule, module, kind); }) -
           rules.begin();
  };
  EXPECT_EQ(index("lm_head", ModuleKind::kOther), 0);
  EXPECT_EQ(index("model.layers.0.self_attn.o_proj", ModuleKind::kBlockLinear), 0);
  EXPECT_EQ(index("model.layers.0.self_attn.q_proj", ModuleKind::kBlockLinear), 1);
  EXPECT_EQ(index("model.norm", ModuleKind::kOther), 2);
  rules.pop_back();
  EXPECT_EQ(index("model.norm", ModuleKind::kOther), 2);  // none
}

}  // namespace
}  // namespace rankwise
