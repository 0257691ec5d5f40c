// ttl_predict ARTIFACT IMAGE...: class probabilities as CSV, equal to those of `ttl-deploy predict`, from an engine of
// TensorRT or of TensorRT for RTX.
//
// Exit codes: 0 done, 2 bad input (one line on stderr says what is wrong).

#include <string>
#include <vector>

#include "answers.hpp"
#include "artifact.hpp"
#include "choice.hpp"
#include "cuda.hpp"
#include "decode.hpp"
#include "engine.hpp"
#include "error.hpp"
#include "preprocess.hpp"
#include "program.hpp"
#include "samples.hpp"

namespace {

void run(const std::string& folder, const std::vector<std::string>& images) {
    const ttl::Artifact artifact = ttl::open_artifact(folder, ttl::runnable());
    const ttl::Choice choice = ttl::choose(artifact, ttl::card(), ttl::library_version());
    ttl::Engine engine(choice, artifact);
    // Before any answer: an engine can load and run, and compute something else than its graph.
    ttl::refuse_wrong(engine, artifact, choice.path);
    ttl::print_header(artifact);
    for (const std::string& image : images) {
        const ttl::Image8 pixels = ttl::to_pixels(ttl::decode(image), artifact.preprocess);
        ttl::print_row(image, artifact, engine.run(ttl::normalise(pixels, artifact.preprocess)).data());
    }
}

}  // namespace

int main(int count, char** arguments) { return ttl::program(count, arguments, run); }
