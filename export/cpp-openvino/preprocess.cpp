#include "preprocess.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace ttl {

namespace {

// Step 3: the image as it is meant to be seen.
Image<std::uint16_t> upright(Image<std::uint16_t> image, int orientation) {
    if (orientation == 1) {
        return image;
    }
    const int w = image.width, h = image.height;
    const bool turned = orientation >= 5;
    Image<std::uint16_t> result(turned ? h : w, turned ? w : h, image.channels);
    for (int y = 0; y < result.height; ++y) {
        for (int x = 0; x < result.width; ++x) {
            const int u = turned ? y : x, v = turned ? x : y;
            const bool mirror_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
            const bool mirror_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
            for (int c = 0; c < image.channels; ++c) {
                result.at(x, y, c) = image.at(mirror_x ? w - 1 - u : u, mirror_y ? h - 1 - v : v, c);
            }
        }
    }
    return result;
}

// White of 16-bit grey: fewer bits where the file says so, unless its values were scaled up as the PNG specification asks,
// with zeros below, in proportion, or with the upper bits repeated below.
std::uint32_t brightest(const Image<std::uint16_t>& image, int bits) {
    const std::uint32_t top = (1u << bits) - 1;
    const int shift = 16 - bits, repeat = std::max(bits - shift, 0);
    bool zeros = true, proportion = true, repeated = true;
    for (const std::uint32_t value : image.values) {
        if (value > top) {
            return 65535;
        }
        const std::uint32_t few = value >> shift;
        zeros = zeros && value == few << shift;
        proportion = proportion && value == (few * 131070u + top) / (2 * top);
        repeated = repeated && value == (few << shift | few >> repeat);
    }
    return zeros || proportion || repeated ? 65535 : top;
}

// Step 6 for 16-bit grey.
void to_eight_bit(Image<std::uint16_t>& image, int transparent, int bits, bool own_range) {
    for (std::uint16_t& value : image.values) {
        value = value == transparent ? 0 : value;
    }
    const auto [low, high] = std::minmax_element(image.values.begin(), image.values.end());
    const std::uint32_t top = bits >= 1 && bits < 16 ? brightest(image, bits) : 65535;
    const double least = *low, factor = 255.0 / (*high > *low ? *high - *low : 1);
    for (std::uint16_t& value : image.values) {
        value = own_range ? static_cast<std::uint16_t>((value - least) * factor + 0.5)
                          : static_cast<std::uint16_t>(std::min((value * 510u + top) / (2 * top), 255u));
    }
}

// a * b / 255, rounded to nearest, as fixed-point image libraries do it.
int multiply(int a, int b) {
    const int t = a * b + 128;
    return ((t >> 8) + t) >> 8;
}

// Steps 5 and 7: opaque over black, then RGB or luma.
Image8 to_channels(const Image<std::uint16_t>& image, int channels) {
    const bool alpha = image.channels % 2 == 0;
    const int colours = image.channels - (alpha ? 1 : 0);
    Image8 result(image.width, image.height, channels);
    for (int y = 0; y < image.height; ++y) {
        for (int x = 0; x < image.width; ++x) {
            int rgb[3];
            for (int c = 0; c < 3; ++c) {
                const int value = image.at(x, y, colours == 1 ? 0 : c);
                rgb[c] = alpha ? multiply(value, image.at(x, y, colours)) : value;
            }
            if (channels == 3) {
                for (int c = 0; c < 3; ++c) {
                    result.at(x, y, c) = static_cast<std::uint8_t>(rgb[c]);
                }
            } else {
                // ITU-R 601-2 luma in 16-bit fixed point; the weights add up to 65536, so grey stays as it is.
                const int luma = (rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 32768) >> 16;
                result.at(x, y, 0) = static_cast<std::uint8_t>(luma);
            }
        }
    }
    return result;
}

// Step 8: the largest part whose sides are as height to width. Images have up to 9e7 pixels, sizes up to 4096.
Image8 centre(const Image8& image, std::int64_t height, std::int64_t width) {
    const auto fitting = [](int side, std::int64_t fit) {
        return static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(side, fit)));
    };
    const int across = fitting(image.width, image.height * width / height);
    const int down = fitting(image.height, image.width * height / width);
    const int left = (image.width - across) / 2, top = (image.height - down) / 2;
    Image8 result(across, down, image.channels);
    for (int y = 0; y < down; ++y) {
        for (int x = 0; x < across; ++x) {
            for (int c = 0; c < image.channels; ++c) {
                result.at(x, y, c) = image.at(left + x, top + y, c);
            }
        }
    }
    return result;
}

// Antialiased bilinear resampling (step 9) works on one axis at a time. Every output pixel is a weighted sum of the
// input pixels under a triangle, centred on where the output pixel falls; when the image shrinks, the triangle is
// stretched by the factor, so that every input pixel counts. Weights are computed in double precision, scaled to sum
// to 1, and rounded to 22 fractional bits: 32 bits, less 8 for the pixel and 2 for the sum to overshoot.
constexpr int kFraction = 22;

struct Window {
    int first = 0;
    std::vector<std::int32_t> weights;
};

std::vector<Window> windows(int from, int to) {
    const double step = static_cast<double>(from) / to;
    const double reach = std::max(step, 1.0);
    std::vector<Window> result(static_cast<std::size_t>(to));
    for (int i = 0; i < to; ++i) {
        const double centre = (i + 0.5) * step;
        const int first = std::max(0, static_cast<int>(centre - reach + 0.5));
        const int end = std::min(from, static_cast<int>(centre + reach + 0.5));
        std::vector<double> exact;
        double sum = 0;
        for (int j = first; j < end; ++j) {
            const double distance = std::abs((j - centre + 0.5) * (1.0 / reach));
            exact.push_back(distance < 1.0 ? 1.0 - distance : 0.0);
            sum += exact.back();
        }
        Window& window = result[static_cast<std::size_t>(i)];
        window.first = first;
        for (const double weight : exact) {
            const double share = sum != 0.0 ? weight / sum : weight;
            window.weights.push_back(static_cast<std::int32_t>(0.5 + share * (1 << kFraction)));
        }
    }
    return result;
}

std::uint8_t rounded(std::int32_t sum) {
    return static_cast<std::uint8_t>(std::clamp(sum >> kFraction, 0, 255));
}

constexpr std::int32_t kHalf = 1 << (kFraction - 1);

Image8 resize_width(const Image8& image, int width) {
    if (image.width == width) {
        return image;
    }
    const std::vector<Window> columns = windows(image.width, width);
    Image8 result(width, image.height, image.channels);
    for (int y = 0; y < image.height; ++y) {
        for (int x = 0; x < width; ++x) {
            const Window& window = columns[static_cast<std::size_t>(x)];
            for (int c = 0; c < image.channels; ++c) {
                std::int32_t sum = kHalf;
                for (std::size_t k = 0; k < window.weights.size(); ++k) {
                    sum += window.weights[k] * image.at(window.first + static_cast<int>(k), y, c);
                }
                result.at(x, y, c) = rounded(sum);
            }
        }
    }
    return result;
}

Image8 resize_height(const Image8& image, int height) {
    if (image.height == height) {
        return image;
    }
    const std::vector<Window> rows = windows(image.height, height);
    Image8 result(image.width, height, image.channels);
    for (int y = 0; y < height; ++y) {
        const Window& window = rows[static_cast<std::size_t>(y)];
        for (int x = 0; x < image.width; ++x) {
            for (int c = 0; c < image.channels; ++c) {
                std::int32_t sum = kHalf;
                for (std::size_t k = 0; k < window.weights.size(); ++k) {
                    sum += window.weights[k] * image.at(x, window.first + static_cast<int>(k), c);
                }
                result.at(x, y, c) = rounded(sum);
            }
        }
    }
    return result;
}

}  // namespace

Image8 to_pixels(Decoded decoded, const Preprocess& spec) {
    Image<std::uint16_t> image = upright(std::move(decoded.pixels), decoded.orientation);
    if (decoded.deep) {
        to_eight_bit(image, decoded.transparent, decoded.bits, spec.own_range);
    }
    Image8 pixels = to_channels(image, spec.channels);
    if (spec.center_crop) {
        pixels = centre(pixels, spec.height, spec.width);
    }
    // The height first where it loses more than twice as many pixels as the width does.
    if (pixels.height - spec.height > std::max(0, 2 * (pixels.width - spec.width))) {
        return resize_width(resize_height(pixels, spec.height), spec.width);
    }
    return resize_height(resize_width(pixels, spec.width), spec.height);
}

std::vector<float> normalise(const Image8& pixels, const Preprocess& spec) {
    const std::size_t plane = static_cast<std::size_t>(pixels.width) * pixels.height;
    std::vector<float> result(plane * pixels.channels);
    for (int c = 0; c < pixels.channels; ++c) {
        const auto factor = static_cast<float>(1 / (255 * spec.std[c]));
        const auto offset = static_cast<float>(spec.mean[c] / spec.std[c]);
        for (std::size_t i = 0; i < plane; ++i) {
            result[c * plane + i] = static_cast<float>(pixels.values[i * pixels.channels + c]) * factor - offset;
        }
    }
    return result;
}

}  // namespace ttl
