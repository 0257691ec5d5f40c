// The few calls of the CUDA runtime that an engine needs; what fails throws Error.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

#include "choice.hpp"
#include "error.hpp"

namespace ttl {

inline void check(cudaError_t code, const std::string& what) {
    if (code != cudaSuccess) {
        throw Error("CUDA cannot " + what + ": " + cudaGetErrorString(code));
    }
}

// The first visible GPU.
inline Card card() {
    int count = 0;
    check(cudaGetDeviceCount(&count), "find a GPU");
    if (count < 1) {
        throw Error("CUDA sees no GPU");
    }
    check(cudaSetDevice(0), "use the GPU");
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, 0), "ask the GPU for its name");
    return {properties.name, properties.major, properties.minor};
}

// Memory on the GPU.
class DeviceMemory {
public:
    explicit DeviceMemory(std::size_t bytes) { check(cudaMalloc(&address_, bytes), "get memory on the GPU"); }
    ~DeviceMemory() { cudaFree(address_); }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    void* address() const { return address_; }

private:
    void* address_ = nullptr;
};

// Work of the GPU in its order.
class Stream {
public:
    Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream"); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    cudaStream_t get() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

}  // namespace ttl
