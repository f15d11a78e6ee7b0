// SPDX-License-Identifier: Apache-2.0
#include "launch/progress_line.h"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

namespace rankwise {
namespace {

MetricsRecord example() {
  return {.step = 120,
          .loss = 1.832,
          .loss_ema = 1.87,
          .grad_norm = 0.42,
          .lr = 1.9e-4,
          .tokens_per_s = 21400,
          .tokens_per_s_per_rank = 10700,
          .step_ms = 352,
          .slowest_rank = 1,
          .peak_bytes = int64_t{18} << 30};
}

TEST(ProgressLine, ShowsWhatIsKnownAndNothingElse) {
  std::ostringstream out;
  ProgressLine progress(out, 1000, /*has_eval=*/false, /*live=*/false);
  EXPECT_EQ(
      progress.format(example()),
      "step  120/1000  12% | loss  1.8320 (ema  1.8700) | gnorm     0.42 | lr 1.90e-04 |  21.4k "
      "tok/s ( 10.7k/rank) |    352 ms (slowest r1) |   18.0 GiB | eta 00:05:10");
}

TEST(ProgressLine, ColumnsDoNotMove) {
  std::ostringstream out;
  ProgressLine progress(out, 1000, /*has_eval=*/true, /*live=*/false);
  MetricsRecord early = example();
  early.step = 1;
  early.tokens_per_s = 9;
  early.grad_norm = 1234.5;
  early.peak_bytes = 12;
  early.mfu = 0.05;
  MetricsRecord late = example();
  late.step = 1000;
  late.eval_loss = 1.91;
  late.mfu = 0.71;
  const std::string first = progress.format(early);
  const std::string last = progress.format(late);
  EXPECT_EQ(first.size(), last.size()) << first << "\n" << last;
  for (size_t at = first.find('|'); at != std::string::npos; at = first.find('|', at + 1)) {
    EXPECT_EQ(last[at], '|') << first << "\n" << last;
  }
  EXPECT_NE(first.find("| eval       - |"), std::string::npos) << first;
  EXPECT_NE(last.find("| eval  1.9100 |"), std::string::npos) << last;
  EXPECT_NE(last.find("|  71% of ceiling |"), std::string::npos) << last;
}

TEST(ProgressLine, LatestEvaluationStaysVisible) {
  std::ostringstream out;
  ProgressLine progress(out, 1000, true, false);
  MetricsRecord record = example();
  record.eval_loss = 1.91;
  progress.format(record);
  EXPECT_NE(progress.format(example()).find("eval  1.9100"), std::string::npos);
}

TEST(ProgressLine, BarIsForTerminalsOnlyAndMakesRoomForLines) {
  std::ostringstream plain;
  ProgressLine to_file(plain, 10, false, /*live=*/false);
  to_file.advance(5, 1.0);
  to_file.clear();
  EXPECT_EQ(plain.str(), "");

  std::ostringstream out;
  ProgressLine live(out, 10, false, /*live=*/true);
  live.advance(5, 1.0);
  EXPECT_EQ(out.str(), "\r\x1b[K[####################....................] 5/10 eta 00:00:05");
  out.str("");
  live.print(example());
  EXPECT_TRUE(out.str().starts_with("\r\x1b[Kstep")) << out.str();
  out.str("");
  live.clear();
  EXPECT_EQ(out.str(), "");  // the bar was gone already
}

TEST(ProgressLine, BarDisappearsWithItsOwner) {
  std::ostringstream out;
  { ProgressLine(out, 10, false, true).advance(1, 1.0); }
  EXPECT_TRUE(out.str().ends_with("\r\x1b[K"));
}

TEST(ProgressLine, DurationsBytesAndRatesAreReadable) {
  EXPECT_EQ(format_duration(0), "00:00:00");
  EXPECT_EQ(format_duration(310.4), "00:05:10");
  EXPECT_EQ(format_duration(360'000), "100:00:00");
  EXPECT_EQ(format_duration(NAN), "--:--:--");
  EXPECT_EQ(format_duration(-1), "--:--:--");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes((int64_t{1} << 30) - 1), "1.0 GiB");
  EXPECT_EQ(format_bytes(int64_t{3} << 40), "3.0 TiB");
  EXPECT_EQ(format_rate(950), "950");
  EXPECT_EQ(format_rate(999.7), "1.0k");
  EXPECT_EQ(format_rate(21'400), "21.4k");
  EXPECT_EQ(format_rate(3'200'000), "3.20M");
  EXPECT_EQ(format_rate(INFINITY), "-");
}

}  // namespace
}  // namespace rankwise
