// SPDX-License-Identifier: Apache-2.0
// One file per rule of the safetensors format that breaks just this rule.
#include <gtest/gtest.h>

#include <vector>

#include "runtime/io/safetensors.h"
#include "tests/runtime/io/safetensors_bytes.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

using testing::entry;
using testing::object_of;
using testing::safetensors_bytes;

struct Case {
  std::string name;
  std::string file;
  std::string message;
};

std::string with_length(uint64_t length, const std::string& rest) {
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file + rest;
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets,
                size_t data_bytes) {
  return safetensors_bytes(object_of({entry("t", dtype, shape, offsets)}), data_bytes);
}

std::string two(const std::string& first_offsets, const std::string& second_offsets,
                size_t data_bytes) {
  return safetensors_bytes(
      object_of({entry("a", "U8", "[4]", first_offsets), entry("b", "U8", "[4]", second_offsets)}),
      data_bytes);
}

std::vector<Case> header_cases() {
  std::string deep = R"({"t":{"x":)" + std::string(10'000, '[');
  return {
      {"EmptyFile", "", "0 bytes, too short"},
      {"SevenBytes", "\x02\0\0\0\0\0\0", "too short"},
      {"LengthBeyondFile", with_length(3, "{}"), "header of 3 bytes does not fit"},
      {"LengthOverLimit", with_length(100'000'001, "{}"), "more than the 100000000 allowed"},
      {"LengthAtLimitBeyondFile", with_length(100'000'000, "{}"), "does not fit"},
      {"LengthThatOverflows", with_length(~uint64_t{0}, "{}"), "more than the 100000000"},
      {"LengthThatWrapsTheSum", with_length(~uint64_t{0} - 7, "{}"), "more than the 100000000"},
      {"HeaderOfLengthZero", with_length(0, ""), "not a JSON object"},
      {"OnlySpaces", safetensors_bytes("        "), "not a JSON object"},
      {"Array", safetensors_bytes("[]"), "not a JSON object"},
      {"ByteOrderMark", safetensors_bytes("\xef\xbb\xbf{}"), "not a JSON object"},
      {"LeadingNul", safetensors_bytes(std::string("\0{}", 3)), "not a JSON object"},
      {"NulBehindTheObject", safetensors_bytes(std::string("{}\0", 3)), "byte 3: a NUL byte"},
      {"InvalidUtf8", safetensors_bytes("{\"\xff\":{}}"), "byte 3"},
      {"OverlongUtf8", safetensors_bytes("{\"\xc0\x80\":{}}"), "byte 3"},
      {"BrokenJson", safetensors_bytes("{\"a\":}"), "syntax error"},
      {"TruncatedJson", safetensors_bytes("{\"a\":{"), "syntax error"},
      {"TextBehindTheObject", safetensors_bytes("{}{}"), "byte 3"},
      {"DuplicateTensor",
       safetensors_bytes(
           object_of({entry("t", "U8", "[1]", "[0,1]"), entry("t", "U8", "[1]", "[1,2]")}), 2),
       "duplicate key 't'"},
      {"DuplicateField",
       safetensors_bytes(R"({"t":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})",
                         1),
       "duplicate key 'dtype'"},
      {"DeepNesting", safetensors_bytes(deep), "nested deeper"},
      {"MetadataIsNoObject", safetensors_bytes(R"({"__metadata__":[]})"), "not an object"},
      {"MetadataValueIsNoString", safetensors_bytes(R"({"__metadata__":{"a":1}})"),
       "entry 'a' is not a string"},
      {"MetadataValueIsNull", safetensors_bytes(R"({"__metadata__":{"a":null}})"),
       "entry 'a' is not a string"},
  };
}

std::vector<Case> entry_cases() {
  return {
      {"EntryIsNoObject", safetensors_bytes(R"({"t":[]})"), "tensor 't': entry is not an object"},
      {"NoDtype", safetensors_bytes(R"({"t":{"shape":[],"data_offsets":[0,1]}})", 1), "no dtype"},
      {"NoShape", safetensors_bytes(R"({"t":{"dtype":"U8","data_offsets":[0,1]}})", 1), "no shape"},
      {"NoOffsets", safetensors_bytes(R"({"t":{"dtype":"U8","shape":[1]}})", 1), "no data_offsets"},
      {"UnknownDtype", one("F33", "[1]", "[0,4]", 4), "unknown dtype 'F33'"},
      {"LowerCaseDtype", one("f32", "[1]", "[0,4]", 4), "unknown dtype 'f32'"},
      {"DtypeIsNumber",
       safetensors_bytes(R"({"t":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", 1),
       "dtype is not a string"},
      {"ShapeIsNumber", one("U8", "1", "[0,1]", 1), "shape is not an array"},
      {"NegativeDimension", one("U8", "[-1]", "[0,1]", 1), "non-negative integer"},
      {"NegativeZeroDimension", one("U8", "[-0]", "[0,0]", 0), "non-negative integer"},
      {"RealDimension", one("U8", "[1.0]", "[0,1]", 1), "non-negative integer"},
      {"ExponentDimension", one("U8", "[1e0]", "[0,1]", 1), "non-negative integer"},
      {"TextDimension", one("U8", "[\"1\"]", "[0,1]", 1), "non-negative integer"},
      {"DimensionOver64Bits", one("U8", "[18446744073709551616]", "[0,1]", 1),
       "non-negative integer"},
      {"DimensionOver63Bits", one("U8", "[18446744073709551615]", "[0,1]", 1), "shape overflows"},
      {"ProductOverflows", one("U8", "[4611686018427387904,4]", "[0,0]", 0), "shape overflows"},
      {"ProductOverflowsBeforeZero", one("U8", "[4611686018427387904,4,0]", "[0,0]", 0),
       "shape overflows"},
      {"BitsOverflow", one("F64", "[288230376151711744]", "[0,0]", 0), "shape overflows"},
      {"SevenDimensions", one("U8", "[1,1,1,1,1,1,1]", "[0,1]", 1), "7 dimensions"},
      {"OffsetsAreNumber", one("U8", "[1]", "1", 1), "not an array of two"},
      {"OneOffset", one("U8", "[1]", "[0]", 1), "not an array of two"},
      {"ThreeOffsets", one("U8", "[1]", "[0,1,1]", 1), "not an array of two"},
      {"NegativeOffset", one("U8", "[1]", "[-1,0]", 1), "not an array of two"},
      {"RealOffset", one("U8", "[1]", "[0,1.0]", 1), "not an array of two"},
  };
}

std::vector<Case> layout_cases() {
  return {
      {"FirstNotAtZero", one("U8", "[1]", "[1,2]", 2), "do not follow the end 0"},
      {"Hole", two("[0,4]", "[5,9]", 9), "tensor 'b': data_offsets [5, 9] do not follow the end 4"},
      {"Overlap", two("[0,4]", "[3,7]", 7), "tensor 'b': data_offsets [3, 7] do not follow"},
      {"SharedBytes", two("[0,4]", "[0,4]", 4), "do not follow the end 4"},
      {"EndBeforeBegin", two("[0,4]", "[4,3]", 4), "data_offsets [4, 3] do not follow the end 4"},
      {"SizeTooSmall", one("F32", "[2]", "[0,4]", 4), "4 bytes of data, but F32 (2) needs 8"},
      {"SizeTooLarge", one("F32", "[1]", "[0,8]", 8), "8 bytes of data, but F32 (1) needs 4"},
      {"EmptyTensorWithData", one("F32", "[0]", "[0,4]", 4), "needs 0"},
      {"SubByteRemainder", one("F4", "[3]", "[0,2]", 2), "12 bits do not fill bytes"},
      {"DataTruncated", one("U8", "[4]", "[0,4]", 3),
       "end at byte 4 of the data, but the file has 3"},
      {"TrailingByte", one("U8", "[4]", "[0,4]", 5),
       "end at byte 4 of the data, but the file has 5"},
      {"DataWithoutTensors", safetensors_bytes("{}", 1), "the file has 1"},
      {"OffsetsFarBeyondTheFile", one("U8", "[1099511627776]", "[0,1099511627776]", 1),
       "the file has 1"},
  };
}

class SafetensorsRefusal : public ::testing::TestWithParam<Case> {};

TEST_P(SafetensorsRefusal, NamesFileAndReason) {
  const testing::ScratchFolder folder;
  const std::string path = folder.write("bad.safetensors", GetParam().file);
  const std::string message = testing::error_of<FormatError>([&] { SafetensorsFile file(path); });
  RW_EXPECT_HAS(message, path);
  RW_EXPECT_HAS(message, GetParam().message);
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_LT(message.size(), path.size() + 300);
}

std::string case_name(const ::testing::TestParamInfo<Case>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Header, SafetensorsRefusal, ::testing::ValuesIn(header_cases()),
                         case_name);
INSTANTIATE_TEST_SUITE_P(Entry, SafetensorsRefusal, ::testing::ValuesIn(entry_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Layout, SafetensorsRefusal, ::testing::ValuesIn(layout_cases()),
                         case_name);

// No single changed byte of a header may crash the reader or read outside the file.
TEST(SafetensorsMutation, AnyHeaderByteMayBeWrong) {
  const std::string good = two("[0,4]", "[4,8]", 8);
  const testing::ScratchFolder folder;
  int refused = 0;
  for (size_t i = 0; i + 8 < good.size(); ++i) {
    for (const int change : {0x01, 0x80}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ change);
      try {
        const SafetensorsFile file(folder.write(fmt::format("{}-{}", i, change), bad));
        for (const SafetensorsEntry& tensor : file.entries()) {
          EXPECT_EQ(file.read_bytes(tensor).size(), 4u);
        }
      } catch (const FormatError&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 200);  // the rest changes names or types of the same size
}

}  // namespace
}  // namespace rankwise
