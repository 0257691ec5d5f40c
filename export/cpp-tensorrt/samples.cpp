#include "samples.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <vector>

#include "error.hpp"
#include "npz.hpp"
#include "preprocess.hpp"

namespace ttl {

namespace {

const std::string kSamples = "samples.npz";

// Largest difference: in units of how much the expected outputs vary over the samples, and relative to the largest.
struct Bound {
    double tolerance, rounding;
};

const std::map<std::string, Bound> kBounds = {
    {"fp32", {1e-3, 1e-5}}, {"tf32", {1e-2, 2e-3}}, {"fp16", {2e-2, 2e-3}},
    {"bf16", {1e-1, 2e-2}}, {"int8", {0.25, 2e-2}},
};

struct Samples {
    std::size_t count = 0, classes = 0;
    std::vector<Image8> pixels;
    std::vector<float> expected;  // row by row
};

std::size_t product(const std::vector<std::size_t>& shape) {
    std::size_t result = 1;
    for (const std::size_t length : shape) {
        result *= length;
    }
    return result;
}

const Array& array_of(const std::map<std::string, Array>& arrays, const std::string& name, const std::string& type,
                      std::size_t width, std::size_t rank, const std::string& path) {
    const auto found = arrays.find(name);
    if (found == arrays.end() || found->second.type != type || found->second.shape.size() != rank ||
        found->second.bytes.size() != product(found->second.shape) * width) {
        throw Error(path + ": holds no " + name + " to check an engine with; export again");
    }
    return found->second;
}

Samples read_samples(const Artifact& artifact) {
    if (artifact.files.count(kSamples) == 0) {
        throw Error(artifact.folder + ": holds no " + kSamples + " to check its engine with; export again");
    }
    const std::string path = (std::filesystem::path(artifact.folder) / kSamples).string();
    const auto arrays = read_npz(path);
    const Array& pixels = array_of(arrays, "pixels", "|u1", 1, 4, path);
    const Array& expected = array_of(arrays, "expected", "<f4", sizeof(float), 2, path);
    const Preprocess& spec = artifact.preprocess;
    const std::vector<std::size_t> image_shape{static_cast<std::size_t>(spec.height), static_cast<std::size_t>(spec.width),
                                               static_cast<std::size_t>(spec.channels)};
    const std::size_t count = pixels.shape[0];
    if (count == 0 || std::vector<std::size_t>(pixels.shape.begin() + 1, pixels.shape.end()) != image_shape ||
        expected.shape != std::vector<std::size_t>{count, artifact.classes.size()}) {
        throw Error(path + ": its samples are not those of this artifact; export again");
    }
    Samples samples;
    samples.count = count;
    samples.classes = artifact.classes.size();
    for (std::size_t i = 0; i < count; ++i) {
        Image8 image(spec.width, spec.height, spec.channels);
        const auto first = pixels.bytes.begin() + static_cast<std::ptrdiff_t>(i * image.values.size());
        std::copy(first, first + static_cast<std::ptrdiff_t>(image.values.size()), image.values.begin());
        samples.pixels.push_back(image);
    }
    samples.expected.resize(count * samples.classes);
    std::memcpy(samples.expected.data(), expected.bytes.data(), expected.bytes.size());
    return samples;
}

// The largest standard deviation of a class's outputs over the samples.
double spread(const Samples& samples) {
    double largest = 0;
    for (std::size_t c = 0; c < samples.classes; ++c) {
        double mean = 0, squares = 0;
        for (std::size_t i = 0; i < samples.count; ++i) {
            mean += samples.expected[i * samples.classes + c] / static_cast<double>(samples.count);
        }
        for (std::size_t i = 0; i < samples.count; ++i) {
            const double off = samples.expected[i * samples.classes + c] - mean;
            squares += off * off / static_cast<double>(samples.count);
        }
        largest = std::max(largest, std::sqrt(squares));
    }
    return largest;
}

// What is wrong with the outputs, in words; empty if nothing is.
std::string fault(const Samples& samples, const std::vector<float>& got, const Bound& bound) {
    double worst = 0, largest = 0;
    bool any = false, any_expected = false;
    for (std::size_t i = 0; i < got.size(); ++i) {
        if (!std::isfinite(got[i])) {
            return "outputs are not finite";
        }
        any = any || got[i] != 0;
        any_expected = any_expected || samples.expected[i] != 0;
        worst = std::max(worst, std::abs(static_cast<double>(got[i]) - samples.expected[i]));
        largest = std::max(largest, std::abs(static_cast<double>(samples.expected[i])));
    }
    if (!any && any_expected) {
        return "all " + std::to_string(got.size()) + " outputs are 0";
    }
    const double allowed = bound.tolerance * spread(samples) + bound.rounding * largest;
    if (worst <= allowed) {
        return "";
    }
    char text[96];
    std::snprintf(text, sizeof text, "the stored samples differ by up to %.3g (bound %.2g)", worst, allowed);
    return text;
}

}  // namespace

void refuse_wrong(Engine& engine, const Artifact& artifact, const std::string& path) {
    const auto bound = kBounds.find(artifact.precision);
    if (bound == kBounds.end()) {
        throw Error(artifact.folder + ": is of the precision " + artifact.precision + ", which this program does not know");
    }
    const Samples samples = read_samples(artifact);
    std::vector<float> got;
    for (const Image8& pixels : samples.pixels) {
        const std::vector<float> outputs = engine.run(normalise(pixels, artifact.preprocess));
        got.insert(got.end(), outputs.begin(), outputs.end());
    }
    const std::string wrong = fault(samples, got, bound->second);
    if (!wrong.empty()) {
        throw Error(path + ": does not compute on this GPU what was validated: " + wrong +
                    "; take another format or precision here, or export again with another version of the library");
    }
}

}  // namespace ttl
