// Which engine of an artifact runs on a GPU with a version of the library, and what is refused: engines are native code
// for one GPU and one release. The rules are those of ttl_deploy/runtime/trt.py and trt_rtx.py.
#pragma once

#include <string>

#include "artifact.hpp"

namespace ttl {

struct Card {
    std::string name;
    int major = 0, minor = 0;  // compute capability
};

struct Choice {
    std::string path;
    bool host_code = false;  // the engine carries a runtime of its own, which must be allowed
};

// What the edition that this was built for runs.
const Runnable& runnable();

// Throws Error where no engine of the artifact runs here. `version` has four numbers, such as 11.4.0.106.
Choice choose(const Artifact& artifact, const Card& card, const std::string& version);

}  // namespace ttl
