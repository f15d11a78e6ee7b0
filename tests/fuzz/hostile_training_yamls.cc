// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "tests/fuzz/hostile_inputs.h"

namespace rankwise::testing {
namespace {

// A whole configuration; `lines` stand before it.
std::string with(const std::string& lines) {
  return lines + "model: {path: m}\ndata: {train: [{path: t.jsonl}]}\ntrain: {steps: 10}\n";
}

// Nine levels of lists, each of nine aliases of the one before: 9^9 values when expanded.
std::string alias_bomb() {
  std::string yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i <= 9; ++i) {
    yaml += fmt::format("a{0}: &a{0} [{1}]\n", i, repeated(fmt::format("*a{}, ", i - 1), 9));
  }
  return yaml;
}

std::string many_keys(int count) {
  std::string yaml;
  for (int i = 0; i < count; ++i) yaml += fmt::format("key{}: {}\n", i, i);
  return yaml;
}

std::vector<HostileInput> expansion_cases() {
  return {
      {"Plain", with(""), ""},
      {"AliasBomb", alias_bomb(), "run.yaml:1:"},
      {"Cycle", "a: &x\n  b: *x\n", "anchors are not allowed"},
      {"FlowCycle", "a: &x [*x]\n", "anchors are not allowed"},
      {"AnchorThatNobodyUses", with("optim: {lr: &x 0.1}\n"), "anchors are not allowed"},
      {"AliasOfNothing", with("optim: {lr: *x}\n"), "run.yaml:1:"},
      {"AliasAsAKey", "*x : 1\n", "run.yaml:1:"},
      {"AnchorOnAKey", "&x optim: {}\n", "anchors are not allowed"},
      {"AnchorOnTheDocument", "&x\noptim: {}\n", "run.yaml:"},
      {"AnchorWithoutAValue", with("optim: &x\n"), "anchors are not allowed"},
      {"MergeKey", "a: 1\n<<: {b: 2}\n", "merge keys are not allowed"},
      {"MergeKeyInQuotes", "\"<<\": {b: 2}\n", "merge keys are not allowed"},
      {"MergeOfAnAlias", "a: &x {b: 1}\nc: {<<: *x}\n", "anchors are not allowed"},
      {"TagOfALanguage", "a: !!python/object/apply:os.system [ls]\n", "tags are not allowed"},
      {"TagThatIncludesAFile", "a: !include /etc/passwd\n", "tags are not allowed"},
      {"TagOfAType", with("optim: {lr: !!float 1}\n"), "tags are not allowed"},
      {"TagOnAMap", "a: !!map {b: 1}\n", "tags are not allowed"},
      {"TagWithAUri", "a: !<tag:yaml.org,2002:str> b\n", "tags are not allowed"},
      {"TagDirective", "%TAG ! tag:x,2000:\n---\na: !b c\n", "run.yaml:"},
      {"DirectiveOfAnotherVersion", "%YAML 3.0\n---\na: 1\n", "run.yaml:"},
      {"TwoDocuments", with("") + "---\noptim: {}\n", "only one YAML document"},
      {"TextBehindTheDocument", with("") + "...\nx: 1\n", "run.yaml:"},
  };
}

std::vector<HostileInput> key_cases() {
  return {
      {"SectionGivenTwice", with("optim: {lr: 0.1}\noptim: {lr: 0.9}\n"), "is given twice"},
      {"KeyGivenTwice", with("optim: {lr: 0.1, lr: 0.9}\n"), "key 'lr' is given twice"},
      {"KeyGivenTwiceOnceInQuotes", with("optim: {lr: 0.1, \"lr\": 0.9}\n"), "is given twice"},
      {"KeyGivenTwiceOnceEscaped", with("optim: {lr: 0.1, \"\\x6cr\": 0.9}\n"), "is given twice"},
      {"LineEndInAKeyGivenTwice", "\"a\\nb\": 1\n\"a\\nb\": 2\n", "is given twice"},
      {"LineEndInAnUnknownKey", with("\"a\\nb\": 1\n"), "unknown key"},
      {"EscapeSequenceInAnUnknownKey", with("\"\\e[2J\": 1\n"), "unknown key"},
      {"KeyOfAMegabyte", std::string(1'000'000, 'k') + ": 1\n", "run.yaml:1:"},
      {"QuotedKeyOfAMegabyte", "\"" + std::string(1'000'000, 'k') + "\": 1\n", "run.yaml:1:"},
      {"KeyOfAMegabyteGivenTwice",
       "? " + std::string(400'000, 'k') + "\n: 1\n? " + std::string(400'000, 'k') + "\n: 1\n",
       "is given twice"},
      {"KeyIsAList", "[a, b]: 1\n", "a key must be a plain name"},
      {"KeyIsAMap", "{a: b}: 1\n", "a key must be a plain name"},
      {"KeyIsNull", "~: 1\n", "run.yaml:1:"},
      {"EmptyKey", "\"\": 1\n", "unknown key"},
      {"FiftyThousandUnknownKeys", many_keys(50'000), "more than 10000"},
      {"KeyThatIncludesAFile", with("include: ../outside/secret.yaml\n"), "unknown key"},
      {"DotsInAKey", with("optim.lr: 0.1\n"), "unknown key"},
  };
}

std::vector<HostileInput> value_cases() {
  return {
      {"LineEndInAText", with("device: \"a\\nb\"\n"), "device"},
      {"TextOfAMegabyte", with("device: " + std::string(1'000'000, 'x') + "\n"), "device"},
      {"EscapesInAText", with("device: \"\\e[2J\\a\"\n"), "device"},
      {"NumberWithDigitsOfAMegabyte", with("optim: {lr: " + std::string(1'000'000, '1') + "}\n"),
       "optim.lr"},
      {"Infinity", with("optim: {lr: .inf}\n"), "must be a finite number"},
      {"NotANumber", with("optim: {lr: .nan}\n"), "must be a finite number"},
      {"ExponentBeyondADouble", with("optim: {lr: 1e999}\n"), "must be a finite number"},
      {"IntegerBeyond64Bits", with("log: {every: 9223372036854775808}\n"), "64-bit"},
      {"HexadecimalInteger", with("log: {every: 0x10}\n"), "log.every: expected an integer"},
      {"OctalInteger", with("log: {every: 0o7}\n"), "log.every: expected an integer"},
      {"SexagesimalInteger", with("log: {every: \"1:30\"}\n"), "log.every: expected an integer"},
      {"NorwayIsNoTruthValue", with("parallel: {shard_base: no}\n"), "parallel.shard_base: 'no'"},
      {"ListForANumber", with("optim: {lr: [0.1]}\n"), "optim.lr: expected a number"},
      {"MapForANumber", with("optim: {lr: {a: 1}}\n"), "optim.lr: expected a number"},
      {"NullForANumber", with("optim: {lr: }\n"), "optim.lr: expected a number"},
      {"ListForASection", with("optim: [1]\n"), "optim: expected a section"},
      {"BracesThatMultiply", with("adapt: [{match: \"" + repeated("{a,b}", 190) + "\"}]\n"),
       "more than 1024"},
      {"BracesInBraces",
       with("adapt: [{match: \"" + repeated("{", 400) + repeated("}", 400) + "\"}]\n"), ""},
      {"PatternOfAMegabyte", with("adapt: [{match: \"" + std::string(900'000, '*') + "\"}]\n"),
       "adapt.0.match"},
      {"UnbalancedBracesWithALineEnd", with("adapt: [{match: \"{\\n\"}]\n"), "adapt.0.match"},
      {"FiftyThousandRules", with("adapt: [" + repeated("{},", 50'000) + "]\n"), "more than 10000"},
  };
}

std::vector<HostileInput> syntax_cases() {
  const auto nested = [](const std::string& open, size_t depth, const std::string& close) {
    return "a: " + repeated(open, depth) + repeated(close, depth) + "\n";
  };
  std::string indented;
  for (size_t i = 0; i < 1000; ++i) indented += repeated(" ", i) + "a:\n";
  return {
      {"Nothing", "", "the configuration is empty"},
      {"OnlyAComment", "# nothing\n", "empty"},
      {"OnlyADocumentMark", "---\n", "expected sections"},
      {"List", "- a\n", "expected sections"},
      {"Text", "hello\n", "expected sections"},
      {"FlowDepthAtTheLimit", nested("[", 31, "]"), "unknown key"},
      {"FlowDepthOverTheLimit", nested("[", 32, "]"), "nested deeper than 32"},
      {"BracketsOfCve20175950", "a: " + repeated("[", 23'100), "run.yaml:1:"},
      {"BracesOfCve201820573", "a: " + repeated("{a: ", 23'100), "nested deeper than 32"},
      {"BracketsAndBracesOfCve201820574", "a: " + repeated("[{a: ", 11'500), "run.yaml:1:"},
      {"QuestionMarksOfCve20196285", repeated("? ", 16'384), "run.yaml:1:"},
      {"DashesNested", repeated("- ", 100'000), "nested deeper than 32"},
      {"ColonsNested", repeated("a: ", 100'000), "run.yaml:1:"},
      {"IndentationOfAThousandLevels", indented, "nested deeper than 32"},
      {"OpenQuote", with("device: \"cpu\n"), "run.yaml:"},
      {"OpenQuoteAtTheEnd", with("") + "device: 'cpu", "run.yaml:"},
      {"Tabs", "model:\n\tpath: m\n", "run.yaml:"},
      {"NulByte", std::string("a: \0b\n", 6), "control character 0x00"},
      {"Bell", "a: \x07\n", "control character 0x07"},
      {"InvalidUtf8", "a: \xff\n", "run.yaml:1: byte 4: invalid UTF-8"},
      {"InvalidUtf8InALongComment", with("#" + std::string(100'000, 'x') + "\xff\n"),
       "byte 100002"},
      {"EscapeOfOneByteInAPath", with("checkpoint: {dir: \"runs\\_\"}\n"), "write \\u0085"},
      {"EscapeOfOneByteInAKey", with("\"optim\\N\": {}\n"), "write \\u0085"},
      {"EscapeOfOneByteInAGlob", with("adapt: [{match: [\"a\", \"\\_\"]}]\n"), "write \\u0085"},
      {"Utf16WithAMark",
       std::string("\xff\xfe"
                   "a\0:\0",
                   6),
       "invalid UTF-8"},
      {"NextLineCharacter",
       with("device: a\xc2\x85"
            "b\n"),
       "device"},
      {"LineSeparator",
       with("device: a\xe2\x80\xa8"
            "b\n"),
       "device"},
      {"DirectionOverride", with("device: \xe2\x80\xaeupc\n"), "device"},
      {"ByteOrderMarkInTheMiddle",
       with("device: \xef\xbb\xbf"
            "cpu\n"),
       "device"},
      {"BytesOverTheLimit", with("#" + std::string(1 << 20, ' ') + "\n"), "at most 1048576 bytes"},
      {"AMegabyteOfComment", with("#" + std::string(1'040'000, ' ') + "\n"), ""},
      {"AMegabyteOfLineEnds", with(std::string(1'040'000, '\n')), ""},
      {"AMegabyteOfCommas", "a: [" + std::string(1'000'000, ',') + "]\n", "run.yaml:1:"},
      {"BlockScalarThatIsIndentedByNine", "a: |9\n x\n", "run.yaml:"},
      {"PercentSigns", repeated("%\n", 1000), "run.yaml:"},
  };
}

}  // namespace

std::vector<HostileInput> hostile_training_yamls() {
  std::vector<HostileInput> all;
  for (auto cases : {expansion_cases(), key_cases(), value_cases(), syntax_cases()}) {
    all.insert(all.end(), cases.begin(), cases.end());
  }
  return all;
}

}  // namespace rankwise::testing
