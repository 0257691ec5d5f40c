// Does an engine compute on this GPU what its graph computed where it was made? The artifact's samples tell: the rule is
// that of ttl_deploy/runtime/stored_samples.py.
#pragma once

#include <string>

#include "artifact.hpp"
#include "engine.hpp"

namespace ttl {

// Runs the samples one by one. Throws Error where the outputs are zeros, not finite or too far from what is expected, or
// where the artifact holds no samples. `path` is the engine's file, for the error.
void refuse_wrong(Engine& engine, const Artifact& artifact, const std::string& path);

}  // namespace ttl
