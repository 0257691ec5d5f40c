// CUDA's runtime on host memory, compiled against NVIDIA's own header, so that a wrong parameter does not compile. The GPU
// is FAKE_CARD, `major minor name`; without it there is none.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

cudaError_t cudaGetDeviceCount(int* count) {
    *count = std::getenv("FAKE_CARD") != nullptr;
    return *count ? cudaSuccess : cudaErrorInsufficientDriver;
}

cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    const int read = std::sscanf(std::getenv("FAKE_CARD"), "%d %d %255[^\n]", &properties->major, &properties->minor,
                                 properties->name);
    return read == 3 ? cudaSuccess : cudaErrorInvalidValue;
}

const char* cudaGetErrorString(cudaError_t) { return "CUDA driver version is insufficient"; }

cudaError_t cudaMalloc(void** address, size_t size) {
    *address = std::malloc(size);
    return *address ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void* address) {
    std::free(address);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
    *stream = reinterpret_cast<cudaStream_t>(7);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
    std::memcpy(to, from, size);
    return stream == reinterpret_cast<cudaStream_t>(7) ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
