// SPDX-License-Identifier: Apache-2.0
#include "runtime/data/micro_batch.h"

#include <gtest/gtest.h>

namespace rankwise {
namespace {

using Ids = std::vector<int32_t>;

TEST(MicroBatch, DocumentsLieEndToEndWithShiftedTargets) {
  MicroBatch batch;
  append_document(batch, {{5, 6, 7}, {kIgnoredLabel, 6, 7}});
  append_document(batch, {{8, 9}, {8, 9}});
  EXPECT_EQ(batch.input_ids, (Ids{5, 6, 7, 8, 9}));
  EXPECT_EQ(batch.targets, (Ids{6, 7, kIgnoredLabel, 9, kIgnoredLabel}));
  EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 0, 1}));
  EXPECT_EQ(batch.document_offsets, (Ids{0, 3, 5}));
  EXPECT_EQ(batch.trained_tokens, 3);
  EXPECT_EQ(batch.tokens(), 5);
  EXPECT_EQ(batch.longest_document(), 3);
}

TEST(MicroBatch, MaskedTargetsAreNotCounted) {
  MicroBatch batch;
  append_document(batch, {{5, 6, 7, 8}, {5, kIgnoredLabel, kIgnoredLabel, 8}});
  EXPECT_EQ(batch.targets, (Ids{kIgnoredLabel, kIgnoredLabel, 8, kIgnoredLabel}));
  EXPECT_EQ(batch.trained_tokens, 1);
}

TEST(MicroBatch, EmptyOneHasNoTokens) {
  EXPECT_EQ(MicroBatch().tokens(), 0);
  EXPECT_EQ(MicroBatch().longest_document(), 0);
}

TEST(Sample, LabelOfTheFirstTokenIsNeverTrained) {
  EXPECT_EQ(trained_tokens({{1, 2}, {1, 2}}), 1);
  EXPECT_EQ(trained_tokens({{1}, {1}}), 0);
  EXPECT_EQ(trained_tokens({}), 0);
}

}  // namespace
}  // namespace rankwise
