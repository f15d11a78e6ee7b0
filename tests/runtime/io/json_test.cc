// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/json.h"

#include <gtest/gtest.h>

#include "runtime/errors.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

std::string refusal(std::string_view text, const JsonLimits& limits = {}) {
  return testing::error_of<FormatError>([&] { parse_json(text, "x.json", limits); });
}

TEST(Json, KeepsValuesAndKeyOrder) {
  const Json json = parse_json(
      R"({"z": [1, -2, 1.5, true, null, "é\u00e9\n"], "a": {}, "big": 18446744073709551615})", "x");
  EXPECT_EQ(json.dump(), R"({"z":[1,-2,1.5,true,null,"éé\n"],"a":{},"big":18446744073709551615})");
  EXPECT_TRUE(json["big"].is_number_unsigned());
  EXPECT_EQ(parse_json(" 7 ", "x"), 7);
  EXPECT_EQ(parse_json(R"([[], [[1]], {"a": {"b": [{"c": 1}]}}])", "x").dump(),
            R"([[],[[1]],{"a":{"b":[{"c":1}]}}])");
}

TEST(Json, DuplicateKeysAreErrorsAtTheirPlace) {
  RW_EXPECT_HAS(refusal(R"({"a": 1, "b": 2, "a": 3})"), "x.json: byte 20: duplicate key 'a'");
  RW_EXPECT_HAS(refusal(R"([{"k": {"a": 1, "\u0061": 2}}])"), "duplicate key 'a'");
  EXPECT_EQ(parse_json(R"([{"a": 1}, {"a": {"a": 2}}])", "x").size(), 2u);  // other objects
}

TEST(Json, DeepNestingIsAnError) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_NO_THROW(parse_json(nested(64), "x.json"));
  RW_EXPECT_HAS(refusal(nested(65)), "x.json: byte 65: nested deeper than 64 levels");
  RW_EXPECT_HAS(refusal(std::string(10'000'000, '[')), "nested deeper");
  RW_EXPECT_HAS(refusal(R"({"a":{"b":1}})", {1000, 1}), "nested deeper than 1 levels");
}

TEST(Json, SyntaxErrorsGiveByteAndReasonInOneLine) {
  RW_EXPECT_HAS(refusal(R"({"a": tru})"), "x.json: byte 10: syntax error");
  for (const char* text : {"", "{", "[1,]", "{\"a\" 1}", "{'a': 1}", "[1] x", "\"\xff\"", "nan",
                           "\"\\ud800\"", "01", "1e999", "\"a\nb\"", "/* c */ 1"}) {
    const std::string message = refusal(text);
    RW_EXPECT_HAS(message, "x.json: byte ");
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  EXPECT_LT(refusal("\"" + std::string(1'000'000, 'a')).size(), 300u);
}

TEST(Json, NulIsNotTheEndOfTheText) {
  using namespace std::string_view_literals;
  RW_EXPECT_HAS(refusal("{}\0{}"sv), "x.json: byte 3: a NUL byte");
  RW_EXPECT_HAS(refusal("\0"sv), "x.json: byte 1: a NUL byte");
}

TEST(Json, SizeIsLimited) {
  RW_EXPECT_HAS(refusal("[1, 2]", {5, 64}), "6 bytes of JSON, more than the 5 allowed");
  const testing::ScratchFolder folder;
  const std::string path = folder.write("a.json", "{\"a\": 1}");
  EXPECT_EQ(read_json_file(path)["a"], 1);
  RW_EXPECT_HAS(testing::error_of<FormatError>([&] { read_json_file(path, {7, 64}); }), path);
}

TEST(Json, ManyKeysTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) text += fmt::format("\"key{}\":{},", i, i);
  text.back() = '}';
  EXPECT_EQ(parse_json(text, "x").size(), 200'000u);  // quadratic: minutes
}

}  // namespace
}  // namespace rankwise
