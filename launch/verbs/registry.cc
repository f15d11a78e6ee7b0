// SPDX-License-Identifier: Apache-2.0
#include "launch/verbs/verb.h"

namespace rankwise {

std::vector<std::unique_ptr<Verb>> make_verbs() {
  // A new verb is one line here, and its maker in verb.h.
  using MakeVerb = std::unique_ptr<Verb> (*)();
  constexpr MakeVerb kMakers[] = {
      make_train_verb,   make_evaluate_verb, make_quantize_verb, make_merge_verb,
      make_export_verb,  make_generate_verb, make_bench_verb,    make_inspect_verb,
      make_analyze_verb, make_doctor_verb,   make_demo_verb,
  };
  std::vector<std::unique_ptr<Verb>> verbs;
  for (const MakeVerb make : kMakers) verbs.push_back(make());
  return verbs;
}

}  // namespace rankwise
