// SPDX-License-Identifier: Apache-2.0
#include "launch/svg.h"

#include <fmt/format.h>

#include <map>

namespace rankwise {

std::string escape_xml(std::string_view text) {
  static const std::map<char, std::string> kEntities = {
      {'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}};
  std::string escaped;
  for (const char c : text) {
    const auto entity = kEntities.find(c);
    escaped += entity == kEntities.end() ? std::string(1, c) : entity->second;
  }
  return escaped;
}

std::string svg_opening(double width, double height) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      width, height);
}

}  // namespace rankwise
