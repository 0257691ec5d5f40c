// An engine of TensorRT, loaded and ready to run one image at a time. Both editions of the library have the same names;
// TTL_TENSORRT_RTX says which headers these are.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "artifact.hpp"
#include "choice.hpp"
#include "cuda.hpp"

namespace ttl {

// Of the library that is loaded: four numbers, such as 11.4.0.106.
std::string library_version();

// Keeps errors that the library logs: it may log one and go on, and its answer is then anything, such as zeros.
class ErrorLog : public nvinfer1::ILogger {
public:
    void log(Severity severity, nvinfer1::AsciiChar const* message) noexcept override;

    // Throws Error with all that was logged, if anything was.
    void refuse_logged(const std::string& path, const std::string& what);

    // `what`, and what was logged.
    std::string said(const std::string& path, const std::string& what);

private:
    std::mutex mutex_;
    std::string lines_;
};

class Engine {
public:
    // Throws Error where the library refuses the engine, or where it is not what the artifact's manifest says.
    Engine(const Choice& choice, const Artifact& artifact);

    // The outputs, one per class, of an image (C, H, W). Throws Error, also for whatever the library logged as an error.
    std::vector<float> run(const std::vector<float>& image);

private:
    void check_ends(const Artifact& artifact) const;
    void check_tensor(const std::string& name, nvinfer1::TensorIOMode mode, const std::vector<long long>& shape) const;

    // Destroyed from the last to the first, as the library wants it.
    const std::string path_, input_, output_;
    ErrorLog log_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::size_t image_ = 0, classes_ = 0, batch_ = 0;
    std::unique_ptr<DeviceMemory> device_input_, device_output_;
    Stream stream_;
};

}  // namespace ttl
