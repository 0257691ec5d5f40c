#include "choice.hpp"

#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <vector>

#include "error.hpp"

namespace ttl {

namespace {

// The first three numbers of a version: builds of one release read each other's engines.
[[maybe_unused]] std::vector<int> release(const std::string& version) {
    std::vector<int> numbers;
    std::istringstream text(version);
    for (std::string part; numbers.size() < 3 && std::getline(text, part, '.');) {
        numbers.push_back(std::atoi(part.c_str()));
    }
    return numbers;
}

[[maybe_unused]] std::string capability(const Card& card) {
    return std::to_string(card.major) + "." + std::to_string(card.minor);
}

std::string in_artifact(const Artifact& artifact, const std::string& name) {
    if (artifact.files.count(name) == 0) {
        throw Error(artifact.folder + ": does not list its engine " + name + "; export the run again");
    }
    return (std::filesystem::path(artifact.folder) / name).string();
}

}  // namespace

#ifdef TTL_TENSORRT_RTX

const Runnable& runnable() {
    // The artifact is the graph, with engines inside.
    static const Runnable kinds{{"onnx"}, "trt-rtx"};
    return kinds;
}

Choice choose(const Artifact& artifact, const Card& card, const std::string& version) {
    if (artifact.details.kind() != Json::Kind::object || artifact.details.object("details").count("rtx") == 0) {
        throw Error(artifact.folder + ": holds no engine of TensorRT for RTX; export with --format trt-rtx");
    }
    const Json& rtx = artifact.details.at("rtx");
    const std::string& built = rtx.at("tensorrt_rtx").string("tensorrt_rtx");
    if (built != version) {
        // Engines run on the very release that built them, and on no other.
        throw Error(artifact.folder + ": its engines were built by TensorRT for RTX " + built + ", here is " + version +
                    "; install that version, or export again with this one");
    }
    const std::string here = "sm" + std::to_string(card.major) + std::to_string(card.minor);
    const auto& engines = rtx.at("engines").object("engines");
    const auto found = engines.find(here);
    if (found == engines.end()) {
        std::string others;
        for (const auto& [name, engine] : engines) {
            others += (others.empty() ? "" : ", ") + name;
        }
        throw Error(artifact.folder + ": holds engines for " + others + ", here is " + card.name + " (" + here +
                    "); export with --format trt-rtx --for " + here);
    }
    return {in_artifact(artifact, found->second.at("file").string("file")), false};
}

#else

const Runnable& runnable() {
    static const Runnable kinds{{"trt"}, "trt"};
    return kinds;
}

namespace {

void refuse_other_release(const Artifact& artifact, const std::string& built, const std::string& here, bool later) {
    if (release(built) == release(here) || (later && release(here) > release(built))) {
        return;
    }
    throw Error(artifact.folder + ": was built by TensorRT " + built + ", here is " + here + "; build it again here");
}

bool runs_on(const Card& card, const std::string& level, const std::string& name, const std::string& built_for) {
    if (level == "none") {
        return card.name == name && capability(card) == built_for;
    }
    if (level == "same-compute-capability") {
        return capability(card) == built_for;
    }
    return level == "ampere-plus" && card.major >= 8;
}

}  // namespace

Choice choose(const Artifact& artifact, const Card& card, const std::string& version) {
    const Json& engine = artifact.details.at("engine");
    const Json& profile = engine.at("profile");
    const bool compatible = profile.at("version_compatible").boolean("version_compatible");
    refuse_other_release(artifact, engine.at("tensorrt").string("tensorrt"), version, compatible);
    const std::string& name = engine.at("gpu").string("gpu");
    const std::string& built_for = engine.at("compute_capability").string("compute_capability");
    if (!runs_on(card, profile.at("hardware").string("hardware"), name, built_for)) {
        throw Error(artifact.folder + ": was built for " + name + " (compute capability " + built_for + "), here is " +
                    card.name + " (" + capability(card) + "); build it again here");
    }
    return {in_artifact(artifact, std::filesystem::path(artifact.model_path).filename().string()), compatible};
}

#endif

}  // namespace ttl
