// SPDX-License-Identifier: Apache-2.0
// Ranks that hold other bits than the others: found at the next comparison, named, never saved.
#include "launch/checkpoint/checkpoint_folder.h"
#include "launch/replica_check.h"
#include "tests/end_to_end/guarded_run.h"
#include "tests/support/error_of.h"

namespace rankwise::testing {
namespace {

// One bit of any tensor of one rank, in every layout with replicas.
TEST(Replicas, ThatDifferInOneBitAreNamed) {
  const SmallRun files;
  write_guarded_files(files, {});
  for (const auto& [method, overrides] : guarded_methods()) {
    for (const RunLayout& layout : {RunLayout{3, 1}, RunLayout{2, 2}}) {
      SCOPED_TRACE(fmt::format("{} on {} x {}", method, layout.data, layout.tensor));
      TrainConfig config = guarded_config(files, "run", overrides);
      config.train.global_batch = 2 * layout.data;
      config.parallel.tensor = layout.tensor;
      run_ranks_as_threads(layout.data * layout.tensor, [&](Communicator& world) {
        RankRun run(config, world);
        for (int i = 0; i < 2; ++i) run.step();
        const std::vector<LocalTensor> tensors = run_tensors(run.trainer());
        ReplicaCheck check(tensors, method == "galore", run.mesh(), Device());
        EXPECT_NO_THROW(check.check(2, run.stream()));
        const int wrong = world.size() - 1;
        for (size_t i = 0; i < tensors.size(); i += 5) {
          auto* byte = static_cast<uint8_t*>(tensors[i].value.raw()) + tensors[i].value.bytes() / 2;
          const auto flip = [&] {
            if (world.rank() == wrong) *byte ^= 16;
          };
          flip();
          const std::string error =
              error_of<CommunicationError>([&] { check.check(2, run.stream()); });
          flip();
          const bool over_data =
              method == "galore" || tensors[i].spec.kind == ShardSpec::Kind::kSharded;
          const bool split = over_data && layout.tensor > 1;
          const std::string who =
              split ? "ranks 1, 3 hold different bits of"
                    : fmt::format("rank {} holds other bits than the other {} of", wrong, wrong);
          RW_EXPECT_HAS(error, fmt::format("{} '{}'", who, tensors[i].name));
          RW_EXPECT_HAS(error, "after step 2 ");
        }
        EXPECT_NO_THROW(check.check(2, run.stream()));
      });
    }
  }
}

// Ranks whose adapters were not made of the same seed.
TEST(Replicas, AreComparedEveryFewStepsAndBeforeASave) {
  for (const bool at_save : {false, true}) {
    const SmallRun files;
    write_guarded_files(files, {});
    const TrainConfig config =
        guarded_config(files, "run",
                       {at_save ? "guard.replica_hash_every=100" : "guard.replica_hash_every=3",
                        at_save ? "checkpoint.every=2" : "checkpoint.every=5"});
    const std::string step = at_save ? "after step 2 " : "after step 3 ";
    EXPECT_EQ(code_of(
                  [&] {
                    run_ranks_as_threads(2, [&](Communicator& world) {
                      std::ostringstream out;
                      VerbContext context{
                          .world = world, .local_size = 2, .host = "host", .out = out};
                      TrainConfig own = config;
                      own.train.seed += world.rank();
                      TrainingRun(own, context).run({});
                    });
                  },
                  {step, "ranks 0, 1 hold different bits of 'model.layers.", ".lora_"}),
              ExitCode::kCommunication);
    EXPECT_EQ(committed_steps(config.checkpoint.dir), std::vector<int64_t>{0});
  }
}

}  // namespace
}  // namespace rankwise::testing
