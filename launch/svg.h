// SPDX-License-Identifier: Apache-2.0
// What the SVG pictures of this program share: their frame, and text that is safe in XML.
#pragma once

#include <string>
#include <string_view>

namespace rankwise {

std::string escape_xml(std::string_view text);

// The opening element with a white background; "</svg>\n" ends the picture. Text is 12 px high.
std::string svg_opening(double width, double height);

}  // namespace rankwise
