// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/record_reader.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <utility>
#include <vector>

#include "runtime/errors.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::error_of;
using testing::ScratchFolder;
using Records = std::vector<std::pair<int64_t, std::string>>;

Records records_of(std::string_view content, bool plain_text = false) {
  const ScratchFolder folder;
  RecordReader reader(folder.write("data", content), plain_text);
  Records out;
  for (Record record; reader.next(record);) out.emplace_back(record.row, record.text);
  return out;
}

std::string refusal(std::string_view content) {
  return error_of<DataError>([&] { records_of(content); });
}

TEST(RecordReader, JsonLinesKeepTheirLineNumbers) {
  const Records expected = {{1, R"({"a": 1})"}, {4, R"({"a": 2})"}};
  EXPECT_EQ(records_of("{\"a\": 1}\n\n  \t\n{\"a\": 2}\n"), expected);
  EXPECT_EQ(records_of("{\"a\": 1}\r\n\r\n\r\n{\"a\": 2}"), expected);
  EXPECT_EQ(records_of("\xEF\xBB\xBF{\"a\": 1}\n\n\n{\"a\": 2}"), expected);
  EXPECT_EQ(records_of("\n\n{}"), (Records{{3, "{}"}}));
}

TEST(RecordReader, ArrayElementsAreCountedAndCutAtTheirCommas) {
  const Records expected = {{1, R"({"a": "],\"[\\"})"}, {2, "{\"b\": [1, {\"c\": 2}]}"}};
  const std::string array = R"([{"a": "],\"[\\"},)"
                            "{\"b\": [1, {\"c\": 2}]}]";
  EXPECT_EQ(records_of(array), expected);
  EXPECT_EQ(records_of("\xEF\xBB\xBF \r\n" + array + "\r\n"), expected);
}

TEST(RecordReader, EmptyFilesAndArraysHaveNoRecords) {
  for (const char* content : {"", "\n\n", "\xEF\xBB\xBF", "[]", " [ \n ] "}) {
    EXPECT_TRUE(records_of(content).empty()) << content;
  }
}

TEST(RecordReader, BrokenArraysAreRefusedWithTheElement) {
  RW_EXPECT_HAS(refusal("[{}, {\"a\": \"x"), "data:2: the file ends inside");
  RW_EXPECT_HAS(refusal("["), "data:1: the file ends inside");
  RW_EXPECT_HAS(refusal("[{},"), "data:2: the file ends inside");
  RW_EXPECT_HAS(refusal("[{},]"), "data:2: a JSON value is missing");
  RW_EXPECT_HAS(refusal("[,{}]"), "data:1: a JSON value is missing");
  RW_EXPECT_HAS(refusal("[{}]\n\n{}"), "line 3: text after the end");
}

TEST(RecordReader, ParagraphsAreSeparatedByBlankLines) {
  const Records expected = {{2, "one\ntwo"}, {6, "three"}};
  EXPECT_EQ(records_of("\none\ntwo\n \n\nthree\n", true), expected);
  EXPECT_EQ(records_of("\r\none\r\ntwo\r\n\r\n\r\nthree", true), expected);
}

TEST(RecordReader, CharactersThatBeginLikeAByteOrderMarkAreKept) {
  EXPECT_EQ(records_of("\xEF\xBC\xA1", true), (Records{{1, "\xEF\xBC\xA1"}}));
  EXPECT_EQ(records_of("\xEF\xBB\xBC", true), (Records{{1, "\xEF\xBB\xBC"}}));
  EXPECT_EQ(records_of("\xEF", true), (Records{{1, "\xEF"}}));
}

TEST(RecordReader, RecordsLongerThanAnyBufferAreWhole) {
  const std::string longer(200'000, 'x');
  EXPECT_EQ(records_of(longer + "\n" + longer + "y"), (Records{{1, longer}, {2, longer + "y"}}));
}

TEST(RecordReader, RecordsAboveTheLimitAreRefusedWithTheirRow) {
  const ScratchFolder folder;
  for (const char* content : {"abc\n\nabcd", "[123,4567]"}) {
    const std::string path = folder.write("data", content);
    RW_EXPECT_HAS(error_of<DataError>([&] {
                    RecordReader reader(path, false, 3);
                    for (Record record; reader.next(record);) {
                    }
                  }),
                  "the record is longer than 3 bytes");
  }
}

TEST(RecordReader, MissingFilesFoldersAndPipesAreNamed) {
  const ScratchFolder folder;
  RW_EXPECT_HAS(error_of<DataError>([&] { RecordReader(folder.path() + "/absent", false); }),
                "absent: cannot be opened: No such file");
  RW_EXPECT_HAS(error_of<DataError>([&] { RecordReader(folder.path(), false); }),
                "not a regular file");
  mkfifo(folder.file("pipe").c_str(), 0600);
  RW_EXPECT_HAS(error_of<DataError>([&] { RecordReader(folder.file("pipe"), false); }),
                "not a regular file");  // and does not wait for a writer
}

}  // namespace
}  // namespace rankwise
