// SPDX-License-Identifier: Apache-2.0
#include "launch/config/config_tree.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "runtime/errors.h"

namespace rankwise {
namespace {

// The message of the ConfigError that `yaml` leads to; empty when it is accepted.
std::string refusal(const std::string& yaml) {
  try {
    parse_config_tree(yaml, "run.yaml");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

std::string override_refusal(const std::string& yaml, const std::vector<std::string>& overrides) {
  ConfigNode root = parse_config_tree(yaml, "run.yaml");
  try {
    apply_overrides(root, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(ConfigTree, NodesKnowWhereTheyStand) {
  const ConfigNode root = parse_config_tree("a: 1\nb:\n  - c: \"x\"\n  - ~\n", "run.yaml");
  ASSERT_EQ(root.kind, ConfigNode::Kind::kMap);
  EXPECT_EQ(root.find("a")->place, "run.yaml:1:4");
  EXPECT_FALSE(root.find("a")->quoted);
  const ConfigNode& list = *root.find("b");
  ASSERT_EQ(list.items.size(), 2u);
  EXPECT_EQ(list.items[0].entries[0].key_place, "run.yaml:3:5");
  EXPECT_TRUE(list.items[0].find("c")->quoted);
  EXPECT_EQ(list.items[1].kind, ConfigNode::Kind::kNull);
  EXPECT_EQ(root.find("absent"), nullptr);
}

TEST(ConfigTree, RefusesWhatWouldBeAmbiguous) {
  const std::pair<const char*, const char*> vectors[] = {
      {"a: 1\nb: 2\na: 3\n", "run.yaml:3:1: key 'a' is given twice, first at run.yaml:1:1"},
      {"a: &x 1\n", "run.yaml:1:4: anchors"},
      {"a: *x\n", "run.yaml:1:4: "},
      {"<<: {a: 1}\n", "run.yaml:1:1: merge keys"},
      {"a: !!int 1\n", "run.yaml:1:4: tags"},
      {"a: !thing {b: 1}\n", "run.yaml:1:4: tags"},
      {"[a, b]: 1\n", "run.yaml:1:1: a key must be a plain name"},
      {"{a: 1}: 1\n", "run.yaml:1:1: a key must be a plain name"},
      {"~: 1\n", "run.yaml:1:1: a key must be a plain name"},
      {"a: 1\n---\nb: 2\n", "run.yaml:2:1: only one YAML document"},
      {"a: [1, 2\n", "run.yaml:2:1: "},
      {"a: b: c\n", "run.yaml:1:5: "},
      {"a: \"x\nb: 1\n", "run.yaml:1:4: the quote is not closed"},
      {"a: 'x\nb: 'y'\n", "run.yaml:1:4: the quote is not closed"},
      {"\xef\xbb\xbf"
       "a: \"x\\\"\n",
       "run.yaml:1:4: the quote is not closed"},
      {"\tx: 1\n", "run.yaml:1:"},
  };
  for (const auto& [yaml, expected] : vectors) {
    EXPECT_TRUE(refusal(yaml).starts_with(expected)) << yaml << " -> " << refusal(yaml);
  }
}

TEST(ConfigTree, QuotesMayHoldQuotesAndHashes) {
  const ConfigNode root = parse_config_tree(
      "\xef\xbb\xbf"
      "a: \"x\\\"y # z\"\nb: 'it''s'\n\"c\": caf\xc3\xa9 \nd: {e: \"\xc3\xa9\", f: 'g'}\n",
      "run.yaml");
  EXPECT_EQ(root.find("a")->text, "x\"y # z");
  EXPECT_EQ(root.find("b")->text, "it's");
  EXPECT_EQ(root.find("d")->find("f")->text, "g");
}

TEST(ConfigTree, RefusesEmptyDocumentsAndControlCharacters) {
  EXPECT_EQ(refusal(""), "run.yaml: the configuration is empty");
  EXPECT_EQ(refusal("# nothing\n"), "run.yaml: the configuration is empty");
  EXPECT_EQ(refusal(std::string("a: 1\nb\0: 2\n", 11)),
            "run.yaml:2: byte 2: control character 0x00");
  EXPECT_EQ(refusal("a: \x1b[31m\n"), "run.yaml:1: byte 4: control character 0x1b");
}

TEST(ConfigTree, InvalidUtf8IsRefusedWithItsLineAndByte) {
  EXPECT_EQ(refusal("a: \xff\n"), "run.yaml:1: byte 4: invalid UTF-8 0xff");
  EXPECT_EQ(refusal("\xef\xbb\xbf# x\nb: \xc3\xa9\xc3\n"),
            "run.yaml:2: byte 6: invalid UTF-8 0xc3");
  EXPECT_EQ(refusal("# \xa0" + std::string(100'000, 'x')),
            "run.yaml:1: byte 3: invalid UTF-8 0xa0");
  EXPECT_EQ(refusal("a: 1\nb: \xe2\x82"), "run.yaml:2: byte 4: invalid UTF-8 0xe2");
  EXPECT_EQ(override_refusal("a: 1\n", {"a=x\xff"}),
            "command line: a:1: byte 2: invalid UTF-8 0xff");
}

TEST(ConfigTree, EscapesGiveCharactersOrAreRefused) {
  const std::string refused = R"(the escapes \N and \_ are not allowed, write \u0085 or \u00a0)";
  EXPECT_EQ(refusal(R"(a: [x, "y\_"])"), "run.yaml:1:8: " + refused);
  EXPECT_EQ(refusal(R"("\N": 1)"), "run.yaml:1:1: " + refused);
  EXPECT_EQ(refusal(R"(a: "b\0c")"),
            "run.yaml:1:4: NUL and DEL are no characters of a name or a path");
  EXPECT_EQ(refusal(R"(a: "b\x7fc")"), refusal(R"(a: "b\0c")"));
  EXPECT_EQ(override_refusal("a: 1\n", {R"(a="\N")"}), "command line: a:1:1: " + refused);
  const ConfigNode root = parse_config_tree(R"(a: "\u0085\u00a0\x85\xff\L\U0001f600")", "run.yaml");
  EXPECT_EQ(root.find("a")->text, "\u0085\u00a0\u0085\u00ff\u2028\U0001f600");
  for (const char* escape : {R"("\ud800")", R"("\udfff")", R"("\U00110000")"}) {
    EXPECT_TRUE(refusal(escape).starts_with("run.yaml:1:")) << escape;
  }
}

TEST(ConfigTree, AliasBombIsRefusedAtItsFirstAnchor) {
  std::string bomb = "a0: &a0 [x, x]\n";
  for (int i = 1; i < 30; ++i) bomb += fmt::format("a{0}: &a{0} [*a{1}, *a{1}]\n", i, i - 1);
  EXPECT_TRUE(refusal(bomb).starts_with("run.yaml:1:5: anchors")) << refusal(bomb);
}

TEST(ConfigTree, CycleIsRefused) {
  EXPECT_TRUE(refusal("a: &x\n  b: *x\n").find("anchors are not allowed") != std::string::npos);
}

TEST(ConfigTree, DeepNestingIsRefusedWithoutDeepRecursion) {
  const auto nested = [](size_t depth) {
    return "a: " + std::string(depth - 1, '[') + std::string(depth - 1, ']');
  };
  EXPECT_EQ(refusal(nested(kMaxConfigDepth)), "");
  EXPECT_NE(refusal(nested(kMaxConfigDepth + 1)).find("nested deeper than 32"), std::string::npos);
  EXPECT_NE(refusal(std::string(500'000, '[')), "");
  EXPECT_NE(refusal(std::string(500'000, '{')), "");
  std::string block;
  for (int i = 0; i < 600; ++i) block += std::string(i, ' ') + "a:\n";
  EXPECT_NE(refusal(block).find("nested deeper than 32"), std::string::npos);
}

TEST(ConfigTree, HugeInputIsRefusedBySize) {
  EXPECT_NE(refusal("a: " + std::string(kMaxConfigBytes, 'x')).find("at most 1048576 bytes"),
            std::string::npos);
  const std::string path = ::testing::TempDir() + "rankwise_huge.yaml";
  std::ofstream(path) << std::string(kMaxConfigBytes + 1, '#');
  EXPECT_THROW(read_config_tree(path), ConfigError);
  std::remove(path.c_str());
}

TEST(ConfigTree, FilesThatAreNoFilesAreRefused) {
  EXPECT_THROW(read_config_tree("/nonexistent/run.yaml"), ConfigError);
  EXPECT_THROW(read_config_tree("/dev/zero"), ConfigError);
  EXPECT_THROW(read_config_tree(::testing::TempDir()), ConfigError);
}

TEST(ConfigTree, OverridesReplaceAddAndReachIntoLists) {
  ConfigNode root = parse_config_tree("a: {b: 1}\nlist: [{r: 1}, {r: 2}]\n", "run.yaml");
  apply_overrides(root, {"a.b=5", "a.c=[1, 2]", "list.1.r=\"7\"", "new.0.x=true", "eq=a=b"});
  EXPECT_EQ(root.find("a")->find("b")->text, "5");
  EXPECT_EQ(root.find("a")->find("b")->place, "command line");
  EXPECT_EQ(root.find("a")->find("c")->items.size(), 2u);
  EXPECT_EQ(root.find("list")->items[0].find("r")->text, "1");
  EXPECT_EQ(root.find("list")->items[1].find("r")->text, "7");
  EXPECT_TRUE(root.find("list")->items[1].find("r")->quoted);
  EXPECT_EQ(root.find("new")->items[0].find("x")->text, "true");
  EXPECT_EQ(root.find("eq")->text, "a=b");
}

TEST(ConfigTree, WrongOverridesNameTheCommandLineAndTheKey) {
  const std::string yaml = "a: {b: 1}\nlist: [{r: 1}]\n";
  const std::pair<std::vector<std::string>, std::string> vectors[] = {
      {{"a.b"}, "command line: a.b: expected key=value"},
      {{"=1"}, "command line: =1: expected key=value"},
      {{"a..b=1"}, "command line: a..b: expected key.key=value"},
      {{".a=1"}, "command line: .a: expected key.key=value"},
      {{"a.=1"}, "command line: a.: expected key.key=value"},
      {{"a.b="}, "command line: a.b: has no value"},
      {{"a.b=1", "a.b=2"}, "command line: a.b: is given twice"},
      {{"a.b.c=1"}, "command line: a.b.c: 'c' lies inside '1', which is no section"},
      {{"list.1.r=1"}, "command line: list.1.r: there is no entry 1, the list has 1"},
      {{"list.-1.r=1"}, "command line: list.-1.r: '-1' must be the number of a list entry"},
      {{"list.99999999999999999999=1"}, "command line: list.99999999999999999999: '9999"},
      {{"new.1.r=1"}, "command line: new.1.r: there is no entry 1, the list has 0"},
      {{"a.b=&x 1"}, "command line: a.b:1:1: anchors"},
      {{"a.b=[1"}, "command line: a.b:1:1: "},
      {{"a.b=# c"}, "command line: a.b: the configuration is empty"},
  };
  for (const auto& [overrides, expected] : vectors) {
    const std::string message = override_refusal(yaml, overrides);
    EXPECT_TRUE(message.starts_with(expected)) << overrides[0] << " -> " << message;
  }
}

}  // namespace
}  // namespace rankwise
