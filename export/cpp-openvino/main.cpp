// ttl_predict ARTIFACT IMAGE...: class probabilities as CSV, equal to those of `ttl-deploy predict`.
//
// Exit codes: 0 done, 2 bad input (one line on stderr says what is wrong).

#include <algorithm>
#include <openvino/openvino.hpp>
#include <string>
#include <vector>

#include "answers.hpp"
#include "artifact.hpp"
#include "decode.hpp"
#include "error.hpp"
#include "preprocess.hpp"
#include "program.hpp"

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

void run(const std::string& folder, const std::vector<std::string>& images) {
    const ttl::Artifact artifact = ttl::open_artifact(folder, {{"onnx", "openvino"}, "onnx or openvino"});
    ov::Core core;
    ov::CompiledModel model = compile(core, artifact);
    const auto output = checked_output(model, artifact);
    ov::InferRequest request = model.create_infer_request();
    const ttl::Preprocess& spec = artifact.preprocess;
    const ov::Shape shape{1, static_cast<std::size_t>(spec.channels), static_cast<std::size_t>(spec.height),
                          static_cast<std::size_t>(spec.width)};
    ov::Tensor input(ov::element::f32, shape);
    ttl::print_header(artifact);
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
        ttl::print_row(image, artifact, logits.data<const float>());
    }
}

}  // namespace

int main(int count, char** arguments) { return ttl::program(count, arguments, run); }
