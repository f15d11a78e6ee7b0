// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <span>
#include <stdexcept>

#include "launch/checkpoint/checkpoint_manifest.h"
#include "runtime/io/sha256.h"
#include "tests/fuzz/readers.h"

namespace rankwise::testing {

void read_checkpoint_manifest(std::string_view bytes) {
  // The brace that ends the object comes behind the seal.
  const std::string body(bytes.substr(0, bytes.rfind('}')));
  const std::string digest = sha256_hex(std::as_bytes(std::span(body)));
  const CheckpointManifest manifest =
      parse_manifest(fmt::format("{},\"sha256\":\"{}\"}}\n", body, digest), "manifest.json");
  const std::string again = manifest_text(manifest);
  if (manifest_text(parse_manifest(again, "again")) != again) {
    throw std::logic_error("does not read back: " + again);
  }
}

}  // namespace rankwise::testing
