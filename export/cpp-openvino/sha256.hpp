// SHA-256 (FIPS 180-4), to know that a file is the one that was validated.
#pragma once

#include <string>

namespace ttl {

// Hexadecimal digest of a file's content. Throws Error if it cannot be read.
std::string sha256_of_file(const std::string& path);

}  // namespace ttl
