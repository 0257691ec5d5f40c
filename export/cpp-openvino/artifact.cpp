#include "artifact.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "error.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace ttl {

namespace {

namespace fs = std::filesystem;

constexpr unsigned long long kSchemaVersion = 4;
const std::string kAgain = "; export the run again with `ttl-deploy export`";

std::string read_text(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw Error(path.string() + ": cannot be opened; give the folder of an artifact");
    }
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

bool escapes(const fs::path& name) {
    return name.empty() || name.is_absolute() || std::find(name.begin(), name.end(), "..") != name.end();
}

void check_file(const fs::path& folder, const std::string& name, const Json& record) {
    const fs::path path = folder / name;
    if (escapes(name)) {
        throw Error("the manifest names a file outside the artifact: " + name);
    }
    if (!fs::is_regular_file(path)) {
        throw Error(path.string() + ": is missing" + kAgain);
    }
    if (fs::file_size(path) != record.at("size").size("size")) {
        throw Error(path.string() + ": has another size than the manifest says" + kAgain);
    }
    if (sha256_of_file(path.string()) != record.at("sha256").string("sha256")) {
        throw Error(path.string() + ": has changed since the export (its SHA-256 differs)" + kAgain);
    }
}

std::vector<double> numbers(const Json& list, const std::string& what) {
    std::vector<double> values;
    for (const Json& item : list.array(what)) {
        values.push_back(item.number(what));
    }
    return values;
}

bool choice(const Json& record, const std::string& key, const std::string& yes, const std::string& no) {
    const std::string& value = record.at(key).string(key);
    if (value != yes && value != no) {
        throw Error(key + " is \"" + value + "\", which this program does not know");
    }
    return value == yes;
}

int side(const Json& number) {
    const auto size = number.size("size");
    if (size < 8 || size > 4096) {
        throw Error("the size of the input is out of range");
    }
    return static_cast<int>(size);
}

// The input's size and channels: of a square one the manifest writes image_size, of any other its two sides.
void read_input(const Json& record, const Json& model, Preprocess& spec) {
    const auto& fields = model.object("model");
    const auto found = fields.find("input");
    std::size_t channels = 0;
    if (found == fields.end()) {
        spec.height = spec.width = side(record.at("image_size"));
        channels = record.at("channels").size("channels");
    } else {
        const auto& sides = found->second.at("size").array("size");
        if (found->second.at("kind").string("kind") != "image" || sides.size() != 2) {
            throw Error("takes no images of two axes, and this program reads no others");
        }
        spec.height = side(sides[0]);
        spec.width = side(sides[1]);
        channels = found->second.at("channels").size("channels");
    }
    if (channels != 1 && channels != 3) {
        throw Error("takes " + std::to_string(channels) + " channels; this program reads pictures, which have 1 or 3");
    }
    spec.channels = static_cast<int>(channels);
}

Preprocess read_preprocess(const Json& record, const Json& model) {
    // A field that this program does not know might change the pixels.
    for (const auto& [key, value] : record.object("preprocess")) {
        static const std::vector<std::string> known = {"image_size", "channels", "crop", "high_bit_depth", "mean", "std"};
        if (std::find(known.begin(), known.end(), key) == known.end()) {
            throw Error("preprocess has the unknown field \"" + key + "\"");
        }
    }
    Preprocess spec;
    read_input(record, model, spec);
    const auto channels = static_cast<std::size_t>(spec.channels);
    spec.center_crop = choice(record, "crop", "center", "none");
    spec.own_range = choice(record, "high_bit_depth", "min-max", "full-range");
    spec.mean = numbers(record.at("mean"), "mean");
    spec.std = numbers(record.at("std"), "std");
    if (spec.mean.size() != channels || spec.std.size() != channels ||
        *std::min_element(spec.std.begin(), spec.std.end()) <= 0) {
        throw Error("mean and std need a value per channel, and std must be positive");
    }
    return spec;
}

// Newer artifacts may hold a graph that takes raw pixels or gives probabilities; this program is not for those.
void refuse_special_graphs(const Json& manifest) {
    const std::map<std::string, std::string> plain = {{"input_type", "float32"}, {"activation", "none"}};
    for (const auto& [key, wanted] : plain) {
        const auto& fields = manifest.object("the manifest");
        const auto found = fields.find(key);
        if (found != fields.end() && found->second.string(key) != wanted) {
            throw Error(key + " is " + found->second.string(key) + ", this program needs " + wanted +
                        "; export without embedded preprocessing or activation");
        }
    }
}

// Sets the task, and of grades where the positive ones begin; gives whether anything is divided by an operating point.
bool read_task(const Json& model, Artifact& artifact) {
    const auto& fields = model.object("model");
    const auto found = fields.find("task");
    const std::string kind = found == fields.end() ? "multiclass" : found->second.at("kind").string("kind");
    const std::size_t count = artifact.classes.size();
    if (kind == "multiclass") {
        return count == 2;
    }
    if (kind == "multilabel") {
        artifact.task = Task::multilabel;
        return count == 1;
    }
    if (kind != "ordinal") {
        throw Error("is of the task " + kind + ", which this program does not know");
    }
    artifact.task = Task::ordinal;
    const auto& task = found->second.object("task");
    const auto named = task.find("positive_from");
    if (named == task.end()) {
        return false;
    }
    const auto place = std::find(artifact.classes.begin(), artifact.classes.end(), named->second.string("positive_from"));
    artifact.first_positive = static_cast<std::size_t>(place - artifact.classes.begin());
    return artifact.first_positive > 0 && artifact.first_positive < count;
}

std::optional<double> read_threshold(const Json& manifest, bool divided) {
    const auto& fields = manifest.object("the manifest");
    const auto found = fields.find("operating_point");
    if (found == fields.end() || found->second.kind() == Json::Kind::null) {
        return std::nullopt;
    }
    const double threshold = found->second.at("threshold").number("threshold");
    if (!(threshold >= 0 && threshold <= 1) || !divided) {
        throw Error("has no usable operating point" + kAgain);
    }
    return threshold;
}

Artifact read_manifest(const fs::path& folder, const Json& manifest, const Runnable& runnable) {
    const auto version = manifest.at("schema_version").size("schema_version");
    if (version > kSchemaVersion) {
        throw Error("schema version " + std::to_string(version) + " is newer than this program's 4; build a newer one");
    }
    const std::string& format = manifest.at("format").string("format");
    if (runnable.formats.count(format) == 0) {
        throw Error("format " + format + " is not for this program; export with --format " + runnable.exported_as);
    }
    refuse_special_graphs(manifest);
    Artifact artifact;
    const std::string& model = manifest.at("model_file").string("model_file");
    if (manifest.at("files").object("files").count(model) == 0) {
        throw Error("does not list its model file " + model);
    }
    artifact.folder = folder.string();
    artifact.model_path = (folder / model).string();
    for (const auto& [name, record] : manifest.at("files").object("files")) {
        artifact.files.insert(name);
    }
    const auto& fields = manifest.object("the manifest");
    if (const auto details = fields.find("details"); details != fields.end()) {
        artifact.details = details->second;
    }
    artifact.precision = manifest.at("precision").string("precision");
    artifact.input_name = manifest.at("input_name").string("input_name");
    artifact.output_name = manifest.at("output_name").string("output_name");
    for (const Json& name : manifest.at("model").at("classes").array("classes")) {
        artifact.classes.push_back(name.string("classes"));
    }
    artifact.threshold = read_threshold(manifest, read_task(manifest.at("model"), artifact));
    artifact.preprocess = read_preprocess(manifest.at("preprocess"), manifest.at("model"));
    return artifact;
}

}  // namespace

Artifact open_artifact(const std::string& folder, const Runnable& runnable) {
    const fs::path manifest_path = fs::path(folder) / "manifest.json";
    const std::string text = read_text(manifest_path);
    Artifact artifact;
    Json manifest;
    try {
        manifest = Json::parse(text);
        artifact = read_manifest(folder, manifest, runnable);
    } catch (const Error& error) {
        throw Error(manifest_path.string() + ": " + error.what());
    }
    for (const auto& [name, record] : manifest.at("files").object("files")) {
        check_file(folder, name, record);
    }
    return artifact;
}

}  // namespace ttl
