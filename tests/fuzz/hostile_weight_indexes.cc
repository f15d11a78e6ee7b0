// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "tests/fuzz/hostile_inputs.h"
#include "tests/fuzz/sandbox.h"

namespace rankwise::testing {
namespace {

std::string index_of(const std::string& weight_map) {
  return fmt::format(R"({{"metadata":{{"total_size":16}},"weight_map":{}}})", weight_map);
}

// An index that finds "w" in the file of this name (as JSON text).
std::string in_file(const std::string& name) { return index_of(R"({"w":")" + name + "\"}"); }

std::vector<HostileInput> path_cases() {
  const std::string outside = Sandbox::instance().outside();
  const std::string refused = "model.safetensors.index.json: file name '";
  return {
      {"Absolute", in_file(outside + "/secret.safetensors"), refused},
      {"AbsoluteWithTwoSlashes", in_file("/" + outside + "/secret.safetensors"), refused},
      {"AbsoluteIntoTheFolderItself", in_file(Sandbox::instance().root() + "/shard.safetensors"),
       refused},
      {"ParentFolder", in_file("../outside/secret.safetensors"), refused},
      {"ParentFolderBehindAFolder", in_file("sub/../../outside/secret.safetensors"), refused},
      {"ParentFolderBehindDots", in_file("./.././outside/secret.safetensors"), refused},
      {"ParentFolderThatComesBack", in_file("../model/shard.safetensors"), refused},
      {"ParentFolderInside", in_file("sub/../shard.safetensors"), refused},
      {"ParentFolderAsEscapes", in_file("\\u002e\\u002e\\u002foutside\\u002fsecret.safetensors"),
       refused},
      {"OnlyDots", in_file(".."), refused},
      {"Dot", in_file("."), refused},
      {"Empty", in_file(""), "is empty"},
      {"Slash", in_file("/"), refused},
      {"TrailingSlash", in_file("shard.safetensors/"), "shard.safetensors/"},
      {"Backslashes", in_file("..\\\\outside\\\\secret.safetensors"), "contains a backslash"},
      {"DriveLetter", in_file("C:\\\\secret.safetensors"), "contains a backslash"},
      {"DriveLetterWithSlash", in_file("C:/secret.safetensors"), "cannot be opened"},
      {"PercentEncoded", in_file("%2e%2e/outside/secret.safetensors"), "cannot be opened"},
      {"PercentEncodedTwice", in_file("%252e%252e%252fsecret.safetensors"), "cannot be opened"},
      {"FullWidthDots", in_file("\xef\xbc\x8e\xef\xbc\x8e/outside/secret.safetensors"),
       "cannot be opened"},
      {"TwoDotLeader", in_file("\xe2\x80\xa5/outside/secret.safetensors"), "cannot be opened"},
      {"DivisionSlash", in_file("..\xe2\x88\x95outside\xe2\x88\x95secret.safetensors"),
       "cannot be opened"},
      {"OverlongSlash", in_file("..\xc0\xafoutside"), "byte"},
      {"Nul", in_file("shard.safetensors\\u0000/../x"), "contains NUL"},
      {"NulThenNothing", in_file("shard.safetensors\\u0000"), "contains NUL"},
      {"LineEnd", in_file("shard\\n.safetensors"), "shard"},
      {"EscapeSequence", in_file("\\u001b]0;x\\u0007"), "x"},
      {"FiveThousandCharacters", in_file(std::string(5000, 'a')), "'aaa"},
      {"PathOfAMillionCharacters", in_file(repeated("a/", 400'000) + "b"), "'a/a"},
      {"Tilde", in_file("~/secret.safetensors"), "cannot be opened"},
      {"Variable", in_file("$HOME/secret.safetensors"), "cannot be opened"},
      {"Url", in_file("file:///etc/passwd"), "cannot be opened"},
      {"LinkOut", in_file("out.safetensors"), "is a link out of the folder"},
      {"LinkedParent", in_file("out/secret.safetensors"), "is a link out of the folder"},
      {"ThroughALinkAndBack", in_file("out/../model/shard.safetensors"), refused},
      {"LinkToADevice", in_file("device.safetensors"), "is a link out of the folder"},
      {"Pipe", in_file("pipe.safetensors"), "not a regular file"},
      {"Folder", in_file("folder.safetensors"), "not a regular file"},
      {"TheIndexItself", in_file("model.safetensors.index.json"), "safetensors.index.json"},
      {"FileThatIsAFolderOnTheWay", in_file("shard.safetensors/x"), "shard.safetensors/x"},
      {"ProcessMemory", in_file("/proc/self/mem"), "is absolute"},
      {"NameOfTwoThousand", in_file(repeated("a/", 1000) + "w"), "is longer than 1024 characters"},
  };
}

std::vector<HostileInput> structure_cases() {
  std::string many = "{";
  for (int i = 0; i < 20'000; ++i) many += fmt::format("\"t{}\":\"shard.safetensors\",", i);
  return {
      {"PlainShard", in_file("shard.safetensors"), ""},
      {"ShardInAFolder", in_file("sub/shard.safetensors"), ""},
      {"SecondNameOfAFile", in_file("hard.safetensors"), ""},
      {"DotSlash", in_file("./shard.safetensors"), ""},
      {"DoubledSlash", in_file("sub//shard.safetensors"), ""},
      {"Nothing", "", "byte"},
      {"List", "[]", "no object weight_map"},
      {"Number", "1", "no object weight_map"},
      {"Null", "null", "no object weight_map"},
      {"EmptyObject", "{}", "no object weight_map"},
      {"MapIsAList", index_of("[\"shard.safetensors\"]"), "no object weight_map"},
      {"MapIsNull", index_of("null"), "no object weight_map"},
      {"MapGivenTwice", R"({"weight_map":{},"weight_map":{"w":"x"}})", "duplicate key"},
      {"NameGivenTwice", index_of(R"({"w":"shard.safetensors","w":"x"})"), "duplicate key 'w'"},
      {"EmptyMap", index_of("{}"), ""},
      {"ShardIsANumber", index_of(R"({"w":1})"), "entry 'w' is not a string"},
      {"ShardIsAList", index_of(R"({"w":["shard.safetensors"]})"), "entry 'w' is not a string"},
      {"LineEndInATensorName", index_of(R"({"a\nb":1})"), "entry 'a\\x0ab' is not a string"},
      {"TensorThatTheShardLacks", index_of(R"({"x":"shard.safetensors"})"), "tensor 'x' is not in"},
      {"OneShardUnderTwoNames", index_of(R"({"w":"shard.safetensors","v":"./shard.safetensors"})"),
       "'w'"},
      {"TwentyThousandTensorsThatAreNotThere", index_of(many + "\"w\":\"shard.safetensors\"}"),
       "is not in 'shard.safetensors'"},
      {"DeepMetadata", R"({"metadata":)" + repeated("[", 100'000), "nested deeper than 64"},
      {"DepthAtTheLimit",
       R"({"metadata":)" + repeated("[", 63) + repeated("]", 63) +
           R"(,"weight_map":{"w":"shard.safetensors"}})",
       ""},
      {"ByteOrderMark", "\xef\xbb\xbf" + in_file("shard.safetensors"), ""},
      {"Utf16", std::string("{\0\"\0", 4), "NUL"},
      {"Truncated", R"({"weight_map":{"w":"shard.safe)", "byte"},
  };
}

}  // namespace

std::vector<HostileInput> hostile_weight_indexes() {
  std::vector<HostileInput> all = path_cases();
  for (HostileInput& input : structure_cases()) all.push_back(std::move(input));
  return all;
}

}  // namespace rankwise::testing
