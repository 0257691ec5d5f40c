// A library that runs engines which are a line of text, `channels height width smallest-batch behaviour`: their outputs are the
// input's pixels. What it calls itself is in FAKE_TENSORRT, four numbers.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "NvInferRuntime.h"

using namespace nvinfer1;

namespace {

int number(int index) {
    int parts[4] = {0, 0, 0, 0};
    std::sscanf(std::getenv("FAKE_TENSORRT"), "%d.%d.%d.%d", parts, parts + 1, parts + 2, parts + 3);
    return parts[index];
}

struct Plan {
    int channels = 0, height = 0, width = 0, least = 0;
    std::string behaviour;
    long long count() const { return static_cast<long long>(channels) * height * width; }
};

class Context : public IExecutionContext {
public:
    Context(const Plan& plan, ILogger& logger) : plan_(plan), logger_(logger) {}

    bool setInputShape(char const*, Dims const& dims) noexcept override {
        batch_ = dims.d[0];
        return batch_ >= plan_.least && dims.nbDims == 4 && dims.d[1] == plan_.channels && dims.d[2] == plan_.height && dims.d[3] == plan_.width;
    }

    bool setTensorAddress(char const* name, void* data) noexcept override {
        (std::strcmp(name, "images") == 0 ? input_ : output_) = static_cast<float*>(data);
        return data != nullptr;
    }

    bool enqueueV3(cudaStream_t) noexcept override {
        for (long long i = 0; i < batch_ * plan_.count(); ++i) {
            output_[i] = plan_.behaviour == "zeros" ? 0
                         : plan_.behaviour == "nan" ? std::numeric_limits<float>::quiet_NaN()
                         : plan_.behaviour == "off" ? input_[i] + 0.5f
                                                    : input_[i];
        }
        if (plan_.behaviour == "logs" && ++runs_ > 4) {
            logger_.log(ILogger::Severity::kERROR, "Error Code 1: no kernel image");
        }
        return plan_.behaviour != "fails";
    }

private:
    Plan plan_;
    ILogger& logger_;
    long long batch_ = 0, runs_ = 0;
    float *input_ = nullptr, *output_ = nullptr;
};

class Engine : public ICudaEngine {
public:
    Engine(const Plan& plan, ILogger& logger) : plan_(plan), logger_(logger) {}

    int32_t getNbIOTensors() const noexcept override { return plan_.behaviour == "three" ? 3 : 2; }
    char const* getIOTensorName(int32_t index) const noexcept override { return index == 0 ? "images" : "logits"; }
    TensorIOMode getTensorIOMode(char const* name) const noexcept override {
        return std::strcmp(name, "images") == 0 ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    DataType getTensorDataType(char const*) const noexcept override {
        return plan_.behaviour == "half" ? DataType::kHALF : DataType::kFLOAT;
    }
    Dims getTensorShape(char const* name) const noexcept override {
        return std::strcmp(name, "images") == 0 ? Dims{4, {-1, plan_.channels, plan_.height, plan_.width}}
                                                : Dims{2, {-1, plan_.count()}};
    }
    Dims getProfileShape(char const*, int32_t, OptProfileSelector) const noexcept override {
        return Dims{4, {plan_.least, plan_.channels, plan_.height, plan_.width}};
    }
    IExecutionContext* createExecutionContext() noexcept override { return new Context(plan_, logger_); }

private:
    Plan plan_;
    ILogger& logger_;
};

class Runtime : public IRuntime {
public:
    explicit Runtime(ILogger& logger) : logger_(logger) {}

    void setEngineHostCodeAllowed(bool allowed) noexcept override { allowed_ = allowed; }

    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override {
        const std::string text(static_cast<char const*>(blob), size);
        Plan plan;
        char behaviour[32] = "";
        const int read =
            std::sscanf(text.c_str(), "%d %d %d %d %31s", &plan.channels, &plan.height, &plan.width, &plan.least,
                        behaviour);
        plan.behaviour = behaviour;
        logger_.log(ILogger::Severity::kWARNING, "warnings are no errors");
        if (read != 5 || (plan.behaviour == "hosted" && !allowed_)) {
            logger_.log(ILogger::Severity::kERROR, "Error Code 4: the plan\nis damaged");
            return nullptr;
        }
        return new Engine(plan, logger_);
    }

private:
    ILogger& logger_;
    bool allowed_ = false;
};

}  // namespace

IRuntime* nvinfer1::createInferRuntime(ILogger& logger) noexcept { return new Runtime(logger); }

int32_t getInferLibMajorVersion() noexcept { return number(0); }
int32_t getInferLibMinorVersion() noexcept { return number(1); }
int32_t getInferLibPatchVersion() noexcept { return number(2); }
int32_t getInferLibBuildVersion() noexcept { return number(3); }
