// Image files: PGM and PPM always, PNG and JPEG where the libraries were there when this was built.
#pragma once

#include <string>

#include "image.hpp"

namespace ttl {

// Width times height may not be larger: a quarter gibibyte as RGB.
constexpr long long kMaxPixels = 1024LL * 1024 * 1024 / 4 / 3;

// Names of the formats this build reads.
std::string formats();

// Reads a file. Throws Error if it is missing, empty, damaged, too large or in another format.
Decoded decode(const std::string& path);

}  // namespace ttl
