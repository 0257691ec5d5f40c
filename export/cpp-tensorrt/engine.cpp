#include "engine.hpp"

#include <fstream>
#include <iterator>

#include "error.hpp"

namespace ttl {

namespace {

std::vector<char> read_bytes(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw Error(path + ": cannot be opened");
    }
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string shown(const nvinfer1::Dims& dims) {
    std::string text;
    for (int i = 0; i < dims.nbDims; ++i) {
        text += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
    }
    return "(" + text + ")";
}

}  // namespace

std::string library_version() {
    return std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
           std::to_string(getInferLibPatchVersion()) + "." + std::to_string(getInferLibBuildVersion());
}

void ErrorLog::log(Severity severity, nvinfer1::AsciiChar const* message) noexcept {
    if (severity == Severity::kERROR || severity == Severity::kINTERNAL_ERROR) {
        const std::lock_guard<std::mutex> held(mutex_);
        lines_ += (lines_.empty() ? "" : "; ") + std::string(message);
    }
}

std::string ErrorLog::said(const std::string& path, const std::string& what) {
    const std::lock_guard<std::mutex> held(mutex_);
    return path + ": " + what + (lines_.empty() ? "" : ": " + lines_);
}

void ErrorLog::refuse_logged(const std::string& path, const std::string& what) {
    {
        const std::lock_guard<std::mutex> held(mutex_);
        if (lines_.empty()) {
            return;
        }
    }
    throw Error(said(path, what));
}

Engine::Engine(const Choice& choice, const Artifact& artifact)
    : path_(choice.path), input_(artifact.input_name), output_(artifact.output_name) {
    const std::vector<char> plan = read_bytes(path_);
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (!runtime_) {
        throw Error(log_.said(path_, "the library makes no runtime"));
    }
    if (choice.host_code) {
        runtime_->setEngineHostCodeAllowed(true);
    }
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine_) {
        throw Error(log_.said(path_, "the library refuses the engine"));
    }
    check_ends(artifact);
    context_.reset(engine_->createExecutionContext());
    if (!context_) {
        throw Error(log_.said(path_, "the library makes no execution context"));
    }
    const nvinfer1::Dims least = engine_->getProfileShape(input_.c_str(), 0, nvinfer1::OptProfileSelector::kMIN);
    // An engine may take no batch of one: a larger one is then filled with the same image.
    batch_ = static_cast<std::size_t>(least.d[0]);
    classes_ = artifact.classes.size();
    image_ = static_cast<std::size_t>(least.d[1]) * static_cast<std::size_t>(least.d[2] * least.d[3]);
    device_input_ = std::make_unique<DeviceMemory>(batch_ * image_ * sizeof(float));
    device_output_ = std::make_unique<DeviceMemory>(batch_ * classes_ * sizeof(float));
    if (!context_->setInputShape(input_.c_str(), least) ||
        !context_->setTensorAddress(input_.c_str(), device_input_->address()) ||
        !context_->setTensorAddress(output_.c_str(), device_output_->address())) {
        throw Error(log_.said(path_, "the library refuses the input's shape or an address"));
    }
    log_.refuse_logged(path_, "the library logged an error and went on");
}

std::vector<float> Engine::run(const std::vector<float>& image) {
    std::vector<float> filled;
    for (std::size_t i = 0; i < batch_; ++i) {
        filled.insert(filled.end(), image.begin(), image.end());
    }
    if (filled.size() != batch_ * image_) {
        throw Error(path_ + ": takes images of another size than the manifest says");
    }
    std::vector<float> outputs(batch_ * classes_);
    const std::size_t bytes_in = filled.size() * sizeof(float), bytes_out = outputs.size() * sizeof(float);
    cudaStream_t stream = stream_.get();
    check(cudaMemcpyAsync(device_input_->address(), filled.data(), bytes_in, cudaMemcpyHostToDevice, stream), "copy");
    if (!context_->enqueueV3(stream)) {
        throw Error(log_.said(path_, "the library does not run the engine"));
    }
    check(cudaMemcpyAsync(outputs.data(), device_output_->address(), bytes_out, cudaMemcpyDeviceToHost, stream), "copy");
    check(cudaStreamSynchronize(stream), "finish the engine's work");
    log_.refuse_logged(path_, "the library logged an error and went on");
    outputs.resize(classes_);
    return outputs;
}

void Engine::check_ends(const Artifact& artifact) const {
    if (engine_->getNbIOTensors() != 2) {
        throw Error(path_ + ": has " + std::to_string(engine_->getNbIOTensors()) + " inputs and outputs, not 2");
    }
    for (int i = 0; i < 2; ++i) {
        const std::string name = engine_->getIOTensorName(i);
        if (name != input_ && name != output_) {
            throw Error(path_ + ": has the tensor " + name + ", not " + input_ + " and " + output_);
        }
    }
    const Preprocess& spec = artifact.preprocess;
    check_tensor(input_, nvinfer1::TensorIOMode::kINPUT, {spec.channels, spec.height, spec.width});
    check_tensor(output_, nvinfer1::TensorIOMode::kOUTPUT, {static_cast<long long>(artifact.classes.size())});
}

// A tensor of floats whose shape is (any batch, `shape`).
void Engine::check_tensor(const std::string& name, nvinfer1::TensorIOMode mode,
                          const std::vector<long long>& shape) const {
    const nvinfer1::Dims found = engine_->getTensorShape(name.c_str());
    bool right = engine_->getTensorIOMode(name.c_str()) == mode &&
                 engine_->getTensorDataType(name.c_str()) == nvinfer1::DataType::kFLOAT &&
                 found.nbDims == static_cast<int>(shape.size()) + 1;
    for (std::size_t i = 0; right && i < shape.size(); ++i) {
        right = found.d[i + 1] == shape[i];
    }
    if (!right) {
        throw Error(path_ + ": its " + name + " of shape " + shown(found) + " is not that of floats which the manifest " +
                    "describes");
    }
}

}  // namespace ttl
