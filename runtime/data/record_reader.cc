// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/record_reader.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "runtime/errors.h"

namespace rankwise {
namespace {

constexpr int kEndOfFile = std::char_traits<char>::eof();
bool is_whitespace(int c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

bool is_blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\n") == std::string::npos;
}

}  // namespace

RecordReader::RecordReader(const std::string& path, bool plain_text, size_t largest_record)
    : path_(path), largest_record_(largest_record) {
  std::error_code ignored;  // what cannot be looked at cannot be opened either
  const std::filesystem::file_status status = std::filesystem::status(path, ignored);
  // Opening a pipe would wait for a writer, and it could be read only once.
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw DataError(fmt::format("{}: not a regular file", path));
  }
  file_.open(path, std::ios::binary);
  if (!file_) throw DataError(fmt::format("{}: cannot be opened: {}", path, std::strerror(errno)));

  skip_byte_order_mark();
  if (plain_text) {
    layout_ = Layout::kParagraphs;
  } else if (skip_whitespace() == '[') {
    get();
    layout_ = Layout::kJsonArray;
  }
}

bool RecordReader::next(Record& record) {
  record.text.clear();
  switch (layout_) {
    case Layout::kJsonLines:
      return next_json_line(record);
    case Layout::kJsonArray:
      return next_element(record);
    case Layout::kParagraphs:
      return next_paragraph(record);
  }
  return false;
}

void RecordReader::skip_byte_order_mark() {
  std::streambuf& buffer = *file_.rdbuf();
  int taken = 0;
  for (const int expected : {0xEF, 0xBB, 0xBF}) {
    if (peek() != expected) break;
    buffer.sbumpc();
    ++taken;
  }
  for (; taken < 3 && taken > 0; --taken) buffer.sungetc();  // a character that begins alike
}

int RecordReader::get() {
  const int c = peek();
  if (c != kEndOfFile) file_.rdbuf()->sbumpc();
  if (c == '\n') ++line_;
  return c;
}

int RecordReader::peek() {
  try {
    return file_.rdbuf()->sgetc();
  } catch (const std::ios_base::failure& failure) {  // how the stream buffer reports a read error
    fail(line_, fmt::format("cannot be read: {}", failure.what()));
  }
}

int RecordReader::skip_whitespace() {
  while (is_whitespace(peek())) get();
  return peek();
}

void RecordReader::append(Record& record, int character) const {
  if (record.text.size() >= largest_record_) {
    fail(record.row, fmt::format("the record is longer than {} bytes", largest_record_));
  }
  record.text.push_back(static_cast<char>(character));
}

// Appends one line without its end to the record.
bool RecordReader::next_line(Record& record) {
  if (peek() == kEndOfFile) return false;
  for (int c = get(); c != '\n' && c != kEndOfFile; c = get()) append(record, c);
  if (record.text.ends_with('\r')) record.text.pop_back();
  return true;
}

bool RecordReader::next_json_line(Record& record) {
  do {
    record.text.clear();
    record.row = line_;
    if (!next_line(record)) return false;
  } while (is_blank(record.text));
  return true;
}

bool RecordReader::next_paragraph(Record& record) {
  if (!next_json_line(record)) return false;  // the first line that is not blank
  Record line;
  line.row = record.row;
  while (next_line(line) && !is_blank(line.text)) {
    append(record, '\n');
    for (const char c : line.text) append(record, c);
    line.text.clear();
  }
  return true;
}

// Steps over what stands between two elements; false at the array's end.
bool RecordReader::open_element(Record& record) {
  if (ended_) return false;
  int c = skip_whitespace();
  if (c == ']' && element_ == 0) {
    close_array();
    return false;
  }
  record.row = ++element_;
  if (c == kEndOfFile) fail(record.row, "the file ends inside the JSON array");
  if (c == ',' || c == ']') fail(record.row, "a JSON value is missing before or after a comma");
  return true;
}

// Takes characters up to the comma or bracket that ends the element: those outside strings and
// nested values.
bool RecordReader::next_element(Record& record) {
  if (!open_element(record)) return false;
  int depth = 0;
  bool in_string = false;
  bool escaped = false;
  while (true) {
    const int c = peek();
    if (c == kEndOfFile) fail(record.row, "the file ends inside the JSON array");
    if (in_string) {
      in_string = escaped || c != '"';
      escaped = !escaped && c == '\\';
    } else if (depth == 0 && c == ',') {
      get();
      return true;
    } else if (depth == 0 && c == ']') {
      close_array();
      return true;
    } else {
      in_string = c == '"';
      if (c == '{' || c == '[') ++depth;
      if ((c == '}' || c == ']') && depth > 0) --depth;
    }
    append(record, get());
  }
}

void RecordReader::close_array() {
  get();  // ']'
  ended_ = true;
  if (skip_whitespace() != kEndOfFile) {
    throw DataError(fmt::format("{}: line {}: text after the end of the JSON array", path_, line_));
  }
}

void RecordReader::fail(int64_t row, const std::string& reason) const {
  throw DataError(fmt::format("{}:{}: {}", path_, row, reason));
}

}  // namespace rankwise
