// An artifact folder as `ttl-deploy export` writes it, checked before anything in it is used.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "json.hpp"

namespace ttl {

struct Preprocess {
    int height = 0, width = 0;
    int channels = 0;
    bool center_crop = true;     // false: the whole image squeezed
    bool own_range = false;      // 16-bit images: their own minimum and maximum instead of 0 and 65535
    std::vector<double> mean, std;  // one per channel, on the 0..1 scale
};

// What the outputs mean.
enum class Task { multiclass, ordinal, multilabel };

struct Artifact {
    std::string folder;
    std::string model_path;
    std::set<std::string> files;  // names of all that was verified
    Json details;                 // what its format says beside, such as what an engine was built for
    std::string precision;
    std::string input_name, output_name;
    std::vector<std::string> classes;
    Task task = Task::multiclass;
    std::size_t first_positive = 1;   // of two classes the second; of grades the first that counts as positive
    std::optional<double> threshold;  // the positive side is said from this probability on; none: the likelier
    Preprocess preprocess;
};

// What a program runs: formats as a manifest names them, and what to export with to get one.
struct Runnable {
    std::set<std::string> formats;
    std::string exported_as;
};

// Reads the manifest and verifies size and SHA-256 of every file. Throws Error.
Artifact open_artifact(const std::string& folder, const Runnable& runnable);

}  // namespace ttl
