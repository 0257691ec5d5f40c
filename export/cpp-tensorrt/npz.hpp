// Arrays from an `.npz` of NumPy: a zip file of `.npy` files, stored or deflated.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace ttl {

struct Array {
    std::string type;  // as NumPy writes it: |u1, <f4
    std::vector<std::size_t> shape;
    std::vector<std::uint8_t> bytes;
};

// The arrays in row-major order, by name. Throws Error for what is no such file, or is larger than 256 MiB.
std::map<std::string, Array> read_npz(const std::string& path);

}  // namespace ttl
