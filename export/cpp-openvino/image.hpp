// Pixels in memory, rows from the top, channels interleaved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ttl {

template <typename Value>
struct Image {
    int width = 0, height = 0, channels = 0;
    std::vector<Value> values;

    Image() = default;
    Image(int w, int h, int c)
        : width(w), height(h), channels(c), values(static_cast<std::size_t>(w) * h * c) {}

    Value& at(int x, int y, int c) { return values[(static_cast<std::size_t>(y) * width + x) * channels + c]; }
    const Value& at(int x, int y, int c) const {
        return values[(static_cast<std::size_t>(y) * width + x) * channels + c];
    }
};

using Image8 = Image<std::uint8_t>;

// What a file holds, before the preprocessing rule.
struct Decoded {
    Image<std::uint16_t> pixels;  // 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA
    bool deep = false;            // 16-bit grey: values 0..65535, otherwise 0..255
    int transparent = -1;         // 16-bit grey: the value that is transparent, or -1
    int bits = 16;                // 16-bit grey: how many of them say something, by PNG's sBIT
    int orientation = 1;          // EXIF, 1 to 8
};

}  // namespace ttl
