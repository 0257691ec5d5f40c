// The evaluation-time preprocessing of ttl-deploy, bit for bit: the rule is written in ttl_deploy/inputs/image.py.
#pragma once

#include <vector>

#include "artifact.hpp"
#include "image.hpp"

namespace ttl {

// The image at the network's size, channels interleaved (steps 3 to 9 of the rule).
Image8 to_pixels(Decoded decoded, const Preprocess& spec);

// The network's input, channels first: (C, H, W) (step 10).
std::vector<float> normalise(const Image8& pixels, const Preprocess& spec);

}  // namespace ttl
