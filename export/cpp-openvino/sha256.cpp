#include "sha256.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <vector>

#include "error.hpp"

namespace ttl {

namespace {

using Word = std::uint32_t;

// The first 32 bits of the fractional part of the square or cube root of a prime (FIPS 180-4, sections 4.2.2, 5.3.3).
Word root_bits(int prime, bool cube) {
    const long double root = cube ? std::cbrt(static_cast<long double>(prime)) : std::sqrt(static_cast<long double>(prime));
    return static_cast<Word>((root - std::floor(root)) * 4294967296.0L);
}

std::array<int, 64> first_primes() {
    std::array<int, 64> primes{};
    std::size_t count = 0;
    for (int n = 2; count < primes.size(); ++n) {
        bool prime = true;
        for (std::size_t i = 0; i < count && prime; ++i) {
            prime = n % primes[i] != 0;
        }
        if (prime) {
            primes[count++] = n;
        }
    }
    return primes;
}

Word rotate(Word x, int n) { return (x >> n) | (x << (32 - n)); }

class Sha256 {
public:
    Sha256() {
        const auto primes = first_primes();
        for (std::size_t i = 0; i < 64; ++i) {
            constants_[i] = root_bits(primes[i], true);
        }
        for (std::size_t i = 0; i < 8; ++i) {
            state_[i] = root_bits(primes[i], false);
        }
    }

    void add(const unsigned char* data, std::size_t size) {
        bytes_ += size;
        for (std::size_t i = 0; i < size; ++i) {
            block_[filled_++] = data[i];
            if (filled_ == block_.size()) {
                compress();
                filled_ = 0;
            }
        }
    }

    std::string finish() {
        const std::uint64_t bits = bytes_ * 8;
        const unsigned char one = 0x80, zero = 0;
        add(&one, 1);
        while (filled_ != 56) {
            add(&zero, 1);
        }
        for (int shift = 56; shift >= 0; shift -= 8) {
            const auto byte = static_cast<unsigned char>(bits >> shift);
            add(&byte, 1);
        }
        std::string hex;
        for (const Word word : state_) {
            for (int shift = 28; shift >= 0; shift -= 4) {
                hex += "0123456789abcdef"[(word >> shift) & 15];
            }
        }
        return hex;
    }

private:
    void compress() {
        std::array<Word, 64> w{};
        for (std::size_t i = 0; i < 16; ++i) {
            w[i] = Word{block_[4 * i]} << 24 | Word{block_[4 * i + 1]} << 16 | Word{block_[4 * i + 2]} << 8 |
                   Word{block_[4 * i + 3]};
        }
        for (std::size_t i = 16; i < 64; ++i) {
            const Word s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >> 3);
            const Word s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >> 10);
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        std::array<Word, 8> v = state_;
        for (std::size_t i = 0; i < 64; ++i) {
            const Word s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
            const Word choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
            const Word t1 = v[7] + s1 + choice + constants_[i] + w[i];
            const Word s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
            const Word majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
            v = {t1 + s0 + majority, v[0], v[1], v[2], v[3] + t1, v[4], v[5], v[6]};
        }
        for (std::size_t i = 0; i < 8; ++i) {
            state_[i] += v[i];
        }
    }

    std::array<Word, 64> constants_{};
    std::array<Word, 8> state_{};
    std::array<unsigned char, 64> block_{};
    std::size_t filled_ = 0;
    std::uint64_t bytes_ = 0;
};

}  // namespace

std::string sha256_of_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw Error(path + ": cannot be opened");
    }
    Sha256 hash;
    std::vector<char> buffer(1 << 16);
    while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || file.gcount() > 0) {
        hash.add(reinterpret_cast<const unsigned char*>(buffer.data()), static_cast<std::size_t>(file.gcount()));
    }
    return hash.finish();
}

}  // namespace ttl
