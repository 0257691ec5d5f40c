// What is said of an image, as CSV, equal to what `ttl-deploy predict` writes.
#pragma once

#include <string>

#include "artifact.hpp"

namespace ttl {

void print_header(const Artifact& artifact);

// The row of an image: its label and probabilities. `outputs` holds as many numbers as there are classes.
void print_row(const std::string& image, const Artifact& artifact, const float* outputs);

}  // namespace ttl
