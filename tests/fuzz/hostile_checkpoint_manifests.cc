// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "tests/fuzz/hostile_inputs.h"

namespace rankwise::testing {
namespace {

std::string manifest_of(const std::string& files, const std::string& numbers = "") {
  return R"({"format":"rankwise-checkpoint","version":1,)" +
         (numbers.empty() ? R"("step":5,"ranks":2)" : numbers) + R"(,"files":[)" + files +
         R"(],"scalars":{}})";
}

std::string file_of(const std::string& name, const std::string& tensors,
                    const std::string& bytes = "100") {
  return fmt::format(R"({{"name":"{}","bytes":{},"sha256":"00","tensors":[{}]}})", name, bytes,
                     tensors);
}

std::string one(const std::string& tensor) { return manifest_of(file_of("rank-0000.h5", tensor)); }

std::string two(const std::string& first, const std::string& second) {
  return manifest_of(file_of("rank-0000.h5", first) + "," + file_of("rank-0001.h5", second));
}

}  // namespace

std::vector<HostileInput> hostile_checkpoint_manifests() {
  const std::string whole = R"(["w","F32",[4,2],[0,4,0,2]])";
  std::string many;
  for (int rank = 0; rank < 4'000; ++rank) {
    const std::string part = fmt::format(R"(["w","U8",[4000],[{},{},0,1]])", rank, rank + 1);
    many += (rank == 0 ? "" : ",") + file_of(fmt::format("rank-{:04}.h5", rank), part);
  }
  return {
      {"OneFile", one(whole), ""},
      {"TwoHalves", two(R"(["w","F32",[4,2],[0,2,0,2]])", R"(["w","F32",[4,2],[2,4,0,2]])"), ""},
      {"FourThousandParts", manifest_of(many), ""},
      {"Nothing", "", "manifest.json: "},
      {"List", "[]", "manifest.json: "},
      {"AnotherFormat", R"({"format":"x"})", "is not of a checkpoint"},
      {"FormatIsANumber", R"({"format":1})", "actual type is number"},
      {"NegativeStep", manifest_of("", R"("step":-1,"ranks":1)"), "'-1' where an integer from 0"},
      {"StepOf64Bits", manifest_of("", R"("step":18446744073709551615,"ranks":1)"), "integer from"},
      {"StepIsReal", manifest_of("", R"("step":1e3,"ranks":1)"), "integer from 0"},
      {"StepOfAMegabyte",
       manifest_of("", "\"step\":\"" + std::string(1 << 20, 'x') + "\",\"ranks\":1"),
       "where an integer from 0"},
      {"NoRanks", manifest_of("", R"("step":1,"ranks":0)"), "integer from 1"},
      {"BillionRanks", manifest_of("", R"("step":1,"ranks":1000000000)"), "integer from 1"},
      {"FileAbove", manifest_of(file_of("../rank-0000.h5", whole)), "file name '../rank"},
      {"FileWithAPath", manifest_of(file_of("rank-0000.h5/../x", whole)), "file name 'rank"},
      {"FileWithNul", manifest_of(file_of("rank-0000.h5\\u0000", whole)), "file name 'rank"},
      {"FileOfANegativeRank", manifest_of(file_of("rank--001.h5", whole)), "file name 'rank"},
      {"FileOfAHugeRank", manifest_of(file_of("rank-99999999999999999999.h5", whole)),
       "file name 'rank"},
      {"FileTwice", two(whole, whole).replace(two(whole, whole).find("0001"), 4, "0000"),
       "names a file twice"},
      {"EmptyFile", manifest_of(file_of("rank-0000.h5", whole, "0")), "integer from 1"},
      {"PartTwice", two(whole, whole), "a part is stored twice"},
      {"PartMissing", one(R"(["w","F32",[4,2],[0,3,0,2]])"), "6 of 8 elements are stored"},
      {"PartsThatOverlap", two(R"(["w","F32",[4,2],[0,3,0,2]])", R"(["w","F32",[4,2],[2,4,0,2]])"),
       "stored twice"},
      {"PartOutside", one(R"(["w","F32",[4,2],[0,5,0,2]])"), "integer from 0 to 4"},
      {"PartBackwards", one(R"(["w","F32",[4,2],[4,0,0,2]])"), "integer from 4"},
      {"TypesThatDiffer", two(R"(["w","F32",[4,2],[0,2,0,2]])", R"(["w","F64",[4,2],[2,4,0,2]])"),
       "ranks differ"},
      {"UnknownType", one(R"(["w","a\nb",[4],[0,4,0,1]])"), "unknown element type 'a\\x0ab'"},
      {"ShapeThatOverflows", one(R"(["w","F32",[72057594037927936,2],[0,1,0,1]])"),
       "integer from 0 to 1"},
      {"ShapeOfSevenDimensions", one(R"(["w","F32",[1,1,1,1,1,1,1],[0,1,0,1]])"), "a shape"},
      {"ShapeIsAnObject", one(R"(["w","F32",{},[0,1,0,1]])"), "a shape"},
      {"NameThatIsAPath", one(R"(["../w","F32",[1],[0,1,0,1]])"), "is no name of a tensor"},
      {"NameWithALineEnd", one(R"(["a\nb","F32",[1],[0,0,0,1]])"), "tensor 'a\\x0ab'"},
      {"NameIsANumber", one(R"([1,"F32",[1],[0,1,0,1]])"), "actual type is number"},
      {"TooFewNumbers", one(R"(["w","F32",[1],[0,1]])"), "manifest.json: "},
      {"TensorIsANumber", one("1"), "manifest.json: "},
      {"DeepScalars", R"({"format":)" + repeated("[", 100'000) + "}", "nested deeper than 64"},
      {"KeyGivenTwice", R"({"format":"rankwise-checkpoint","format":"x"})", "duplicate key"},
  };
}

}  // namespace rankwise::testing
