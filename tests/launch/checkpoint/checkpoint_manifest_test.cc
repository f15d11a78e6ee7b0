// SPDX-License-Identifier: Apache-2.0
#include "launch/checkpoint/checkpoint_manifest.h"

#include <gtest/gtest.h>

#include <span>

#include "runtime/io/sha256.h"
#include "tests/support/error_of.h"

namespace rankwise {
namespace {

using testing::error_of;

// (4, 6) in two column halves, a vector in one piece, and block codes.
CheckpointManifest example() {
  const Shape matrix{4, 6};
  CheckpointManifest manifest{.step = 12, .ranks = 2};
  manifest.files = {{"rank-0000.h5", 100, std::string(64, 'a')},
                    {"rank-0001.h5", 200, std::string(64, 'b')}};
  const MatrixSlice left{matrix, 0, 4, 0, 2};
  const MatrixSlice right{matrix, 0, 4, 2, 6};
  manifest.tensors["w"] = {DType::kF32, matrix, false, {{0, left, {4, 2}}, {1, right, {4, 4}}}};
  manifest.tensors["w.codes"] = {DType::kU8, matrix, true, {{0, left, {8}}, {1, right, {16}}}};
  manifest.tensors["b"] = {DType::kBF16, {5}, false, {{1, whole_part({5}), {5}}}};
  manifest.scalars = {{"lr", 0.1}, {"seed", uint64_t{0xffffffffffffffff}}, {"best", nullptr}};
  return manifest;
}

// The text with `from` replaced by `to`, under a digest that fits.
std::string resealed(const std::string& from, const std::string& to) {
  std::string body = manifest_text(example());
  body.resize(body.rfind(",\"sha256\""));
  const size_t at = body.find(from);
  EXPECT_NE(at, std::string::npos) << from << " is not in " << body;
  body.replace(at, from.size(), to);
  return body + ",\"sha256\":\"" + sha256_hex(std::as_bytes(std::span(body))) + "\"}\n";
}

TEST(CheckpointManifest, ReadsBackWhatWasWritten) {
  const std::string text = manifest_text(example());
  const CheckpointManifest read = parse_manifest(text, "m");
  EXPECT_EQ(manifest_text(read), text);
  EXPECT_EQ(read.step, 12);
  EXPECT_EQ(read.ranks, 2);
  EXPECT_EQ(read.scalars, example().scalars);
  EXPECT_EQ(read.tensors.at("w").pieces[1].part.column_begin, 2);
  EXPECT_EQ(read.tensors.at("w.codes").pieces[1].stored, Shape{16});
  EXPECT_EQ(read.tensors.at("b").dtype, DType::kBF16);
}

TEST(CheckpointManifest, EveryFlippedBitIsRefusedByTheDigest) {
  std::string text = manifest_text(example());
  for (size_t bit = 0; bit < text.size() * 8; ++bit) {
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_EQ(error_of<FormatError>([&] { parse_manifest(text, "m.json"); }),
              "m.json: does not match its own digest");
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
  }
}

TEST(CheckpointManifest, EveryShorterTextIsRefused) {
  const std::string text = manifest_text(example());
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_THROW(parse_manifest(text.substr(0, length), "m"), FormatError) << length;
  }
}

TEST(CheckpointManifest, WrongContentUnderARightDigestIsRefusedByName) {
  struct Case {
    std::string from, to, message;
  };
  const std::vector<Case> cases = {
      {R"(kwise-checkpoint)", "kwise-store", "is not of a checkpoint"},
      {R"("version":1)", R"("version":2)", "has version 2, this program reads 1"},
      {R"("step":12)", R"("step":-1)", "'-1' where an integer"},
      {R"("step":12)", R"("step":12.0)", "'12.0' where an integer"},
      {R"("step":12)", R"("step":18446744073709551615)", "where an integer"},
      {R"("ranks":2)", R"("ranks":0)", "'0' where an integer"},
      {R"("ranks":2,)", "", "ranks"},
      {"rank-0001.h5", "../rank-0001.h5", "file name '../rank-0001.h5'"},
      {"rank-0001.h5", "rank-1.h5", "file name 'rank-1.h5'"},
      {"rank-0001.h5", "rank-0000.h5", "names a file twice"},
      {R"(["b","BF16")", R"(["a/b","BF16")", "tensor 'a/b': manifest: is no name"},
      {R"(["b","BF16")", R"(["","BF16")", "tensor '': manifest: is no name"},
      {R"(["b","BF16")", R"(["b","BF17")", "tensor 'b': manifest: unknown element type 'BF17'"},
      {R"("BF16",[5],[0,5,)", R"("BF16",[5],[0,4,)", "tensor 'b': manifest: 4 of 5 elements"},
      {R"("BF16",[5],[0,5,)", R"("BF16",[5],[0,6,)", "tensor 'b': manifest: '6' where"},
      {R"("BF16",[5],[0,5,)", R"("BF16",[5],[1,0,)", "tensor 'b': manifest: '0' where"},
      {R"("BF16",[5],[0,5,)", R"("BF16",[4611686018427387904,4],[0,5,)", "tensor 'b'"},
      {R"("BF16",[5],[0,5,)", R"("BF16",[1,1,1,1,1,1,5],[0,5,)", "a shape is expected"},
      {R"(["w","F32",[4,6],[0,4,2,6]])", R"(["w","F32",[4,6],[0,4,1,5]])",
       "tensor 'w': manifest: a part is stored twice"},
      {R"(["w","F32",[4,6],[0,4,2,6]])", R"(["w","F64",[4,6],[0,4,2,6]])",
       "tensor 'w': manifest: ranks differ in type or shape"},
      {R"(["w","F32",[4,6],[0,4,2,6]])", R"(["w","F32",[4,6]])", "array index"},
      {R"("scalars":{)", R"("scalars":[],"other":{)", "scalars are no object"},
  };
  for (const Case& c : cases) {
    RW_EXPECT_HAS(error_of<FormatError>([&] { parse_manifest(resealed(c.from, c.to), "m.json"); }),
                  c.message);
  }
}

TEST(CheckpointManifest, TwoPiecesOfOneTensorInOneFileAreRefused) {
  CheckpointManifest manifest = example();
  manifest.tensors["w"].pieces[1].file = 0;
  RW_EXPECT_HAS(error_of<FormatError>([&] { parse_manifest(manifest_text(manifest), "m"); }),
                "tensor 'w': manifest: a part is stored twice");
}

}  // namespace
}  // namespace rankwise
