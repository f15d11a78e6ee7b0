// SPDX-License-Identifier: Apache-2.0
// `rankwise inspect` and `rankwise export` on the checkpoints of runs.
#include "launch/checkpoint/checkpoint_folder.h"
#include "launch/verbs/export.h"
#include "launch/verbs/verb.h"
#include "runtime/io/atomic_file.h"
#include "tests/end_to_end/resumed_run.h"
#include "tests/launch/verb_runner.h"
#include "tests/support/error_of.h"

namespace rankwise::testing {
namespace {

std::string inspect(std::vector<std::string> arguments) {
  return run_verb(*make_inspect_verb(), std::move(arguments));
}

void export_checkpoint(const std::string& source, const std::string& output,
                       ExportPart part = ExportPart::kOnlyOne) {
  ExportOptions options;
  options.source = source;
  options.output = output;
  options.part = part;
  export_result(options);
}

// By name, from the folder on.
std::map<std::string, std::string> files_in(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& [path, digest] : contents_of(folder)) {
    files[path.substr(folder.size())] = digest;
  }
  return files;
}

const std::string kFullNorms = R"({match: "*norm", method: full})";
const std::string kTwoRanks =
    R"([{match: "*.q_proj", rank: 3, alpha: 5}, {match: all-linear, rank: 4, alpha: 8}, )" +
    kFullNorms + "]";

struct ExportCase {
  const char* name;
  Overrides method;
  RunLayout layout = {};
};

class ExportedCheckpoint : public ::testing::TestWithParam<ExportCase> {};

// Of the last step: that of the run, byte for byte.
TEST_P(ExportedCheckpoint, IsWhatTheRunExports) {
  const SmallRun files;
  const TrainConfig config = run_config(files, "run", GetParam().method);
  const std::string& run = config.checkpoint.dir;
  ASSERT_EQ(train_in_folder(config, "none", GetParam().layout), ExitCode::kDone);
  int parts = 0;
  for (const auto& [name, part] :
       {std::pair{"/adapter", ExportPart::kAdapter}, std::pair{"/model", ExportPart::kModel}}) {
    if (!fs::exists(run + name)) continue;
    ++parts;
    const std::string output = files.folder().file("out") + name;
    fs::create_directories(files.folder().file("out"));
    export_checkpoint(run + "/" + checkpoint_name(kSteps) + "/", output, part);
    EXPECT_EQ(files_in(output), files_in(run + name)) << name;
    // Another step is another result.
    export_checkpoint(run + "/" + checkpoint_name(5), output + "5", part);
    EXPECT_NE(files_in(output + "5"), files_in(run + name)) << name;
  }
  EXPECT_GT(parts, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Methods, ExportedCheckpoint,
    ::testing::Values(
        ExportCase{"lora", {"adapt.0.dropout=0.1"}},
        ExportCase{"ranks_and_norms", {"adapt=" + kTwoRanks}, {1, 2}},
        ExportCase{"norms_beside_nf4", {"adapt=" + kTwoRanks, "model.quant=nf4"}},
        ExportCase{"dora", {"adapt.0.method=dora"}, {2, 1}},
        ExportCase{"adalora",
                   {"adapt.0={match: all-linear, method: adalora, adalora: {init_rank: 6, "
                    "target_rank: 3, warmup: 2, final: 3, interval: 2}}"},
                   {2, 2}},
        ExportCase{"galore",
                   {"adapt.0={match: \"*\", method: galore, galore: {rank: 8, refresh: 4}}"},
                   {1, 2}},
        ExportCase{"full", {"adapt.0={match: \"*\", method: full}", "optim.name=adamw8bit"}}),
    [](const auto& method) { return method.param.name; });

// A run of data 2 x tensor 2 ranks that was stopped after step 7, after an evaluation in step 4.
class Inspected : public ::testing::Test {
 protected:
  void SetUp() override {
    const TrainConfig config = run_config(files_, "run", {"checkpoint.every=4"});
    ASSERT_EQ(train_in_folder(config, "none", {2, 2}, 7), ExitCode::kRequeue);
  }
  std::string run() const { return files_.folder().file("run"); }
  std::string checkpoint(int64_t step = 7) const { return run() + "/" + checkpoint_name(step); }
  void damage(const std::string& path) const {
    std::string bytes = read_file(path);
    bytes[bytes.size() / 2] ^= 1;
    write_file_atomically(path, bytes);
  }

  const SmallRun files_;
};

TEST_F(Inspected, CheckpointTellsWhereTheRunStood) {
  const std::string text = inspect({checkpoint() + "/", "--verify"});
  const std::vector<double> epochs = read_metric(run() + "/metrics.jsonl", "epoch");
  const std::vector<double> tokens = read_metric(run() + "/metrics.jsonl", "tokens");
  RW_EXPECT_HAS(text, "checkpoint: " + checkpoint() + "\n");
  RW_EXPECT_HAS(text, "step         7 of 12\n");
  RW_EXPECT_HAS(text, fmt::format("position     epoch {:.4g}, 56 rows, {:.0f} tokens\n",
                                  epochs.back(), tokens.back()));
  RW_EXPECT_HAS(text, "method       lora on all-linear\n");
  RW_EXPECT_HAS(text, "saved on     4 rank(s) (data 2 x tensor 2), ");
  RW_EXPECT_HAS(text, ", fp32\n");
  RW_EXPECT_HAS(text, "base         " + files_.folder().file("model") + "\n");
  RW_EXPECT_HAS(text, "base sha256  none: drawn from a seed\n");
  RW_EXPECT_HAS(text, "version      0.1.0, commit ");
  // 14 matrices; A and B, and two moments of each.
  RW_EXPECT_HAS(text, "F32          84 tensors, ");
  RW_EXPECT_HAS(text, "verified     every file has its digest, every value is finite\n");
  const std::string tensors = inspect({checkpoint(), "--tensors"});
  EXPECT_EQ(tensors.find("verified"), std::string::npos);
  RW_EXPECT_HAS(tensors, "  model.layers.1.mlp.down_proj.lora_A.weight ");
  RW_EXPECT_HAS(tensors, "(4, 44)");
}

TEST_F(Inspected, DamagedCheckpointNamesFileAndTensor) {
  const std::string file = checkpoint() + "/rank-0000.h5";
  damage(file);
  EXPECT_NO_THROW(inspect({checkpoint()}));
  const std::string error = error_of<FormatError>([&] { inspect({checkpoint(), "--verify"}); });
  RW_EXPECT_HAS(error, file + ": does not match its digest in the manifest: ");
  fs::resize_file(file, 100);
  RW_EXPECT_HAS(error_of<FormatError>([&] { inspect({checkpoint()}); }), file + ": 100 bytes");
  fs::remove(file);
  RW_EXPECT_HAS(error_of<FormatError>([&] { inspect({checkpoint()}); }), file);
  damage(checkpoint() + "/manifest.json");
  RW_EXPECT_HAS(error_of<FormatError>([&] { inspect({checkpoint()}); }),
                "manifest.json: does not match its own digest");
  fs::remove(checkpoint() + "/manifest.json");
  RW_EXPECT_HAS(error_of<FormatError>([&] { inspect({checkpoint()}); }), "manifest.json");
  RW_EXPECT_HAS(
      error_of<ConfigError>([&] { export_checkpoint(checkpoint(), files_.folder().file("out")); }),
      "holds no finished");
}

TEST_F(Inspected, RunListsItsCheckpoints) {
  const std::string text = inspect({run(), "--verify"});
  RW_EXPECT_HAS(text, "checkpoints  step-00000007, LATEST, ");
  RW_EXPECT_HAS(text, ", newest good\n             step-00000004, BEST, ");
  damage(checkpoint() + "/rank-0000.h5");
  RW_EXPECT_HAS(inspect({run()}), ", newest complete\n             step-00000004, BEST, ");
  fs::resize_file(checkpoint() + "/rank-0000.h5", 100);
  const std::string damaged = inspect({run()});
  RW_EXPECT_HAS(damaged, "checkpoints  step-00000007, LATEST, DAMAGED: " + checkpoint());
  RW_EXPECT_HAS(damaged, "newest complete\n             step-00000000");
  const std::string error = error_of<FormatError>([&] { inspect({run(), "--verify"}); });
  RW_EXPECT_HAS(error, checkpoint() + "/rank-0000.h5: 100 bytes");
}

// A run that is not finished has no result of its own.
TEST_F(Inspected, RunThatGoesOnIsExportedByItsCheckpoint) {
  const std::string output = files_.folder().file("out");
  RW_EXPECT_HAS(error_of<ConfigError>([&] { export_checkpoint(run(), output); }),
                "export a checkpoint");
  damage(checkpoint(4) + "/rank-0000.h5");
  RW_EXPECT_HAS(error_of<FormatError>([&] { export_checkpoint(checkpoint(4), output); }),
                "does not match its digest");
  EXPECT_FALSE(fs::exists(output));
  export_checkpoint(checkpoint(), output);
  EXPECT_TRUE(fs::exists(output + "/adapter_model.safetensors"));
  EXPECT_THROW(export_checkpoint(checkpoint(), output + "2", ExportPart::kModel), ConfigError);
}

}  // namespace
}  // namespace rankwise::testing
