// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "tests/fuzz/hostile_inputs.h"
#include "tests/runtime/io/safetensors_bytes.h"

namespace rankwise::testing {
namespace {

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

std::vector<HostileInput> header_cases() {
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

std::vector<HostileInput> entry_cases() {
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

std::vector<HostileInput> layout_cases() {
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

std::string named(const std::string& name) {
  return safetensors_bytes(object_of({entry(name, "U8", "[1]", "[0,1]")}), 1);
}

// Many members, each written by `member` from its number.
template <class Member>
std::string many(size_t count, size_t data_bytes, Member member) {
  std::string header = "{";
  for (size_t i = 0; i < count; ++i) header += (i == 0 ? "" : ",") + member(i);
  return safetensors_bytes(header + "}", data_bytes);
}

std::vector<HostileInput> name_cases() {
  const auto zero_sized = [](size_t i) {
    return entry(fmt::format("t{}", i), "U8", "[0]", "[0,0]");
  };
  return {
      {"NulInAName", named("a\\u0000b"), ""},
      {"LineEndInAName", safetensors_bytes(object_of({entry("a\\nb", "U8", "[2]", "[0,1]")}), 1),
       "tensor 'a\\x0ab': 1 bytes of data"},
      {"EscapeSequenceInAName",
       safetensors_bytes(object_of({entry("\\u001b[2J", "U8", "[2]", "[0,1]")}), 1),
       "tensor '\\x1b[2J'"},
      {"EmptyName", named(""), ""},
      {"NameOfOneMegabyte", named(std::string(1'000'000, 'n')), ""},
      {"WrongTensorWithANameOfOneMegabyte",
       safetensors_bytes(object_of({entry(std::string(1'000'000, 'n'), "U8", "[2]", "[0,1]")}), 1),
       "nnn...': 1 bytes of data"},
      {"SurrogatePair", named("\\ud83d\\ude00"), ""},
      {"LoneHighSurrogate", named("\\ud83d"), "byte"},
      {"LoneLowSurrogate", named("\\ude00"), "byte"},
      {"SurrogateEncodedInUtf8", named("\xed\xa0\x80"), "byte"},
      {"CodePointAboveUnicode", named("\xf4\x90\x80\x80"), "byte"},
      {"SameNameOnceEscaped",
       safetensors_bytes(
           object_of({entry("t", "U8", "[1]", "[0,1]"), entry("\\u0074", "U8", "[1]", "[1,2]")}),
           2),
       "duplicate key 't'"},
      {"MetadataGivenTwice", safetensors_bytes(R"({"__metadata__":{},"__metadata__":{}})"),
       "duplicate key '__metadata__'"},
      {"TensorNamedMetadata",
       safetensors_bytes(object_of({entry("__metadata__", "U8", "[1]", "[0,1]")}), 1),
       "entry 'shape' is not a string"},
      {"TenThousandEmptyTensors", many(10'000, 0, zero_sized), ""},
      {"UnknownDtypeOfOneMegabyte", one(std::string(1'000'000, 'F'), "[1]", "[0,1]", 1),
       "unknown dtype 'FFF"},
  };
}

std::vector<HostileInput> limit_cases() {
  const std::string most = "72057594037927936";  // 2^56
  return {
      {"NothingButAnEmptyObject", safetensors_bytes("{}"), ""},
      {"PaddedWithSpaces", safetensors_bytes("{}      "), ""},
      {"LeadingSpaces", safetensors_bytes("   {}"), ""},
      {"UnknownFieldsAreLeftAlone",
       safetensors_bytes(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":[{}]}})", 1),
       ""},
      {"EmptyMetadata", safetensors_bytes(R"({"__metadata__":{}})"), ""},
      {"ScalarOfRankZero", one("F32", "[]", "[0,4]", 4), ""},
      {"SixDimensions", one("U8", "[1,1,1,1,1,1]", "[0,1]", 1), ""},
      {"EmptyTensor", one("F32", "[0]", "[0,0]", 0), ""},
      {"LargestEmptyTensor", one("F32", "[0," + most + "]", "[0,0]", 0), ""},
      {"OneMoreThanTheLargestEmptyTensor", one("F32", "[0,72057594037927937]", "[0,0]", 0),
       "shape overflows"},
      {"EvenNumberOfHalfBytes", one("F4", "[4]", "[0,2]", 2), ""},
      {"SixBitsThatFillBytes", one("F6_E2M3", "[4]", "[0,3]", 3), ""},
      {"LeadingZeroInANumber", one("U8", "[01]", "[0,1]", 1), "syntax error"},
      {"PlusInANumber", one("U8", "[+1]", "[0,1]", 1), "syntax error"},
      {"NotANumber", one("U8", "[NaN]", "[0,1]", 1), "syntax error"},
      {"RealTooLargeForADouble", one("U8", "[1e999]", "[0,1]", 1), "byte"},
      {"HundredThousandDigits", one("U8", "[" + std::string(100'000, '9') + "]", "[0,1]", 1),
       "byte"},
      {"CommentInTheHeader", safetensors_bytes("{/* */}"), "syntax error"},
      {"TrailingComma", safetensors_bytes(R"({"__metadata__":{},})"), "syntax error"},
      {"EndWrapsAround", one("U8", "[1]", "[18446744073709551615,0]", 1), "do not follow the end"},
      {"BooleansOfAnyByte", one("BOOL", "[3]", "[0,3]", 3), ""},
      {"NotANumberInAFloat",
       safetensors_bytes(object_of({entry("t", "F32", "[1]", "[0,4]")})) + "\xff\xff\xff\xff", ""},
      {"ManyBracketsInAShape", one("U8", repeated("[", 60) + repeated("]", 60), "[0,1]", 1),
       "something other than a non-negative integer"},
      {"ShapeOfAMillionDimensions", one("U8", "[1" + repeated(",1", 499'999) + "]", "[0,1]", 1),
       "500000 dimensions"},
  };
}

}  // namespace

std::vector<HostileInput> hostile_safetensors() {
  std::vector<HostileInput> all;
  for (auto cases : {header_cases(), entry_cases(), layout_cases(), name_cases(), limit_cases()}) {
    all.insert(all.end(), cases.begin(), cases.end());
  }
  return all;
}

}  // namespace rankwise::testing
