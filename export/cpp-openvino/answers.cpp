#include "answers.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <numeric>
#include <vector>

#include "csv.hpp"

namespace ttl {

namespace {

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
        std::string name = printable(shown);
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

std::vector<double> probabilities_of(const Artifact& artifact, const float* logits) {
    const std::size_t count = artifact.classes.size();
    return artifact.task == Task::multilabel ? sigmoid(logits, count) : softmax(logits, count);
}

// All labels that are said, joined by |.
std::string labels(const Artifact& artifact, const std::vector<double>& probabilities) {
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

std::string said(const Artifact& artifact, const std::vector<double>& probabilities) {
    if (artifact.task == Task::multilabel) {
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

}  // namespace

void print_header(const Artifact& artifact) {
    std::cout << "image,label";
    for (const std::string& name : columns(artifact.classes)) {
        std::cout << ',' << cell(name);
    }
    std::cout << '\n';
}

void print_row(const std::string& image, const Artifact& artifact, const float* outputs) {
    const std::vector<double> probabilities = probabilities_of(artifact, outputs);
    std::cout << cell(image) << ',' << cell(printable(said(artifact, probabilities)));
    for (const double p : probabilities) {
        char text[32];
        std::snprintf(text, sizeof text, ",%.8f", p);
        std::cout << text;
    }
    std::cout << '\n';
}

}  // namespace ttl
