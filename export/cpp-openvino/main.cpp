// ttl_predict ARTIFACT IMAGE...: class probabilities as CSV, equal to those of `ttl-deploy predict`.
//
// Exit codes: 0 done, 2 bad input (one line on stderr says what is wrong).

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <numeric>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "artifact.hpp"
#include "csv.hpp"
#include "decode.hpp"
#include "error.hpp"
#include "preprocess.hpp"

namespace {

bool has_name(const ov::Output<const ov::Node>& port, const std::string& name) {
    return port.get_names().count(name) > 0;
}

ov::CompiledModel compile(ov::Core& core, const ttl::Artifact& artifact) {
    ov::AnyMap settings{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY), ov::num_streams(1)};
    // On processors with bfloat16 OpenVINO would otherwise compute in that, whatever the weights are stored in.
    const auto precision = artifact.precision == "bf16" ? ov::element::bf16 : ov::element::f32;
    settings.insert(ov::hint::inference_precision(precision));
    return core.compile_model(core.read_model(artifact.model_path), "CPU", settings);
}

ov::Output<const ov::Node> checked_output(const ov::CompiledModel& model, const ttl::Artifact& artifact) {
    const ttl::Preprocess& spec = artifact.preprocess;
    const ov::PartialShape shape{1, spec.channels, spec.height, spec.width};
    const auto inputs = model.inputs();
    if (inputs.size() != 1 || !has_name(inputs[0], artifact.input_name) ||
        inputs[0].get_element_type() != ov::element::f32 || !inputs[0].get_partial_shape().compatible(shape)) {
        throw ttl::Error(artifact.model_path + ": its input is not the float image that the manifest describes");
    }
    for (const auto& output : model.outputs()) {
        if (has_name(output, artifact.output_name)) {
            return output;
        }
    }
    throw ttl::Error(artifact.model_path + ": has no output " + artifact.output_name);
}

std::vector<double> softmax(const float* logits, std::size_t count) {
    const double largest = *std::max_element(logits, logits + count);
    std::vector<double> result;
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) {
        result.push_back(std::exp(logits[i] - largest));
        sum += result.back();
    }
    for (double& value : result) {
        value /= sum;
    }
    return result;
}

// Names of the classes' columns; none is that of another column.
std::vector<std::string> columns(const std::vector<std::string>& classes) {
    std::vector<std::string> taken = {"id", "image", "label"};
    for (const std::string& shown : classes) {
        std::string name = ttl::printable(shown);
        while (std::find(taken.begin(), taken.end(), name) != taken.end()) {
            name = "probability_" + name;
        }
        taken.push_back(name);
    }
    return {taken.begin() + 3, taken.end()};
}

std::vector<double> sigmoid(const float* logits, std::size_t count) {
    std::vector<double> result;
    for (std::size_t i = 0; i < count; ++i) {
        const double small = std::exp(-std::abs(static_cast<double>(logits[i])));
        result.push_back(logits[i] >= 0 ? 1 / (1 + small) : small / (1 + small));
    }
    return result;
}

std::vector<double> probabilities_of(const ttl::Artifact& artifact, const float* logits) {
    const std::size_t count = artifact.classes.size();
    return artifact.task == ttl::Task::multilabel ? sigmoid(logits, count) : softmax(logits, count);
}

// All labels that are said, joined by |.
std::string labels(const ttl::Artifact& artifact, const std::vector<double>& probabilities) {
    std::string text;
    bool any = false;
    for (std::size_t i = 0; i < probabilities.size(); ++i) {
        if (probabilities[i] >= artifact.threshold.value_or(0.5)) {
            text += (any ? "|" : "") + artifact.classes[i];
            any = true;
        }
    }
    return text;
}

std::string said(const ttl::Artifact& artifact, const std::vector<double>& probabilities) {
    if (artifact.task == ttl::Task::multilabel) {
        return labels(artifact, probabilities);
    }
    auto from = probabilities.begin(), to = probabilities.end();
    if (artifact.threshold) {
        const auto first = from + static_cast<std::ptrdiff_t>(artifact.first_positive);
        const bool positive = std::accumulate(first, to, 0.0) >= *artifact.threshold;
        (positive ? from : to) = first;
    }
    return artifact.classes[static_cast<std::size_t>(std::max_element(from, to) - probabilities.begin())];
}

void print_row(const std::string& image, const ttl::Artifact& artifact, const std::vector<double>& probabilities) {
    std::cout << ttl::cell(image) << ',' << ttl::cell(ttl::printable(said(artifact, probabilities)));
    for (const double p : probabilities) {
        char text[32];
        std::snprintf(text, sizeof text, ",%.8f", p);
        std::cout << text;
    }
    std::cout << '\n';
}

void run(const std::string& folder, const std::vector<std::string>& images) {
    const ttl::Artifact artifact = ttl::open_artifact(folder);
    ov::Core core;
    ov::CompiledModel model = compile(core, artifact);
    const auto output = checked_output(model, artifact);
    ov::InferRequest request = model.create_infer_request();
    const ttl::Preprocess& spec = artifact.preprocess;
    const ov::Shape shape{1, static_cast<std::size_t>(spec.channels), static_cast<std::size_t>(spec.height),
                          static_cast<std::size_t>(spec.width)};
    ov::Tensor input(ov::element::f32, shape);
    std::cout << "image,label";
    for (const std::string& name : columns(artifact.classes)) {
        std::cout << ',' << ttl::cell(name);
    }
    std::cout << '\n';
    for (const std::string& image : images) {
        const ttl::Image8 pixels = ttl::to_pixels(ttl::decode(image), artifact.preprocess);
        const std::vector<float> values = ttl::normalise(pixels, artifact.preprocess);
        std::copy(values.begin(), values.end(), input.data<float>());
        request.set_input_tensor(input);
        request.infer();
        const ov::Tensor logits = request.get_tensor(output);
        if (logits.get_size() != artifact.classes.size()) {
            throw ttl::Error(artifact.model_path + ": gives another number of classes than the manifest names");
        }
        print_row(image, artifact, probabilities_of(artifact, logits.data<const float>()));
    }
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 3) {
        std::cerr << "usage: ttl_predict ARTIFACT IMAGE...   (reads " << ttl::formats() << ")\n";
        return 2;
    }
    try {
        run(arguments[1], std::vector<std::string>(arguments + 2, arguments + count));
    } catch (const std::exception& error) {
        std::string line = error.what();
        std::replace(line.begin(), line.end(), '\n', ' ');
        std::cerr << "error: " << ttl::printable(line) << '\n';
        return 2;
    }
    return 0;
}
