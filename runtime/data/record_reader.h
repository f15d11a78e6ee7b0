// SPDX-License-Identifier: Apache-2.0
// RecordReader: the records of a data file one at a time, whatever the file's size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>

namespace rankwise {

struct Record {
  int64_t row = 0;   // from 1: line of JSON lines and of plain text, element of a JSON array
  std::string text;  // one JSON value, or one paragraph
};

// JSON lines (blank lines skipped) or a JSON array, told apart by the first character; with
// plain_text, paragraphs separated by blank lines. A UTF-8 BOM and CRLF are accepted. Splits only:
// whether a record is valid JSON is for its reader. DataError names file and row.
class RecordReader {
 public:
  // A record above the limit is refused: a missing line feed must not fill the memory.
  RecordReader(const std::string& path, bool plain_text, size_t largest_record = 100'000'000);

  // False at the end of the file.
  bool next(Record& record);

 private:
  void skip_byte_order_mark();
  int get();
  int peek();
  int skip_whitespace();  // returns the character it stopped before
  void append(Record& record, int character) const;
  bool next_line(Record& record);
  bool next_json_line(Record& record);
  bool next_paragraph(Record& record);
  bool next_element(Record& record);
  bool open_element(Record& record);
  void close_array();
  [[noreturn]] void fail(int64_t row, const std::string& reason) const;

  std::string path_;
  size_t largest_record_;
  std::ifstream file_;
  enum class Layout { kJsonLines, kJsonArray, kParagraphs } layout_ = Layout::kJsonLines;
  int64_t line_ = 1;     // of the next character
  int64_t element_ = 0;  // elements begun
  bool ended_ = false;
};

}  // namespace rankwise
