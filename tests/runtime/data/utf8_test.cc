// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/utf8.h"

#include <gtest/gtest.h>

namespace rankwise {
namespace {

TEST(Utf8, SequencesOfEveryLengthAtTheirLimitsAreValid) {
  for (const char* text :
       {"", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
        "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(is_valid_utf8(text)) << text;
    EXPECT_EQ(replace_invalid_utf8(text), text);
  }
}

TEST(Utf8, OverlongSurrogateCutAndOutOfRangeSequencesAreInvalid) {
  for (const char* text : {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xC2", "\xC2\x20",
                           "\xE0\x9F\xBF", "\xE1\x80", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                           "\xF1\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"}) {
    EXPECT_FALSE(is_valid_utf8(text));
    EXPECT_EQ(utf8_sequence_length(text, 0), 0U);
  }
}

TEST(Utf8, EachInvalidByteIsReplacedOnceAndTheRestIsKept) {
  EXPECT_EQ(replace_invalid_utf8("a\xE1\x80z\xFF"), "a\xEF\xBF\xBD\xEF\xBF\xBDz\xEF\xBF\xBD");
}

TEST(Utf8, TheFirstInvalidByteIsFound) {
  EXPECT_EQ(find_invalid_utf8("a\xC3\xA9\xE1\x80z\xFF"), 3U);
  EXPECT_EQ(find_invalid_utf8("a\xC3\xA9"), std::string_view::npos);
}

TEST(Utf8, NothingIsReadBehindTheEnd) {
  const std::string_view cut = std::string_view("\xE2\x82\xAC").substr(0, 2);
  EXPECT_EQ(utf8_sequence_length(cut, 0), 0U);
  EXPECT_EQ(utf8_sequence_length(cut, 2), 0U);
}

}  // namespace
}  // namespace rankwise
