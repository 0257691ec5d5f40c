#include "npz.hpp"

#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>

#include "error.hpp"

namespace ttl {

namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t kLargest = 256 * 1024 * 1024;
constexpr std::uint32_t kEnd = 0x06054b50, kEntry = 0x02014b50, kFile = 0x04034b50;

// Little-endian numbers at a place of the file, which must be inside it.
struct Reader {
    const Bytes& bytes;

    void need(std::size_t place, std::size_t count) const {
        if (place > bytes.size() || count > bytes.size() - place) {
            throw Error("it is cut off");
        }
    }

    std::uint32_t number(std::size_t place, int width) const {
        need(place, static_cast<std::size_t>(width));
        std::uint32_t value = 0;
        for (int i = width - 1; i >= 0; --i) {
            value = value << 8 | bytes[place + static_cast<std::size_t>(i)];
        }
        return value;
    }
};

// What the zip's directory says of a file in it.
struct Entry {
    std::string name;
    std::uint32_t method = 0, packed = 0, size = 0, place = 0;
};

std::size_t end_record(const Reader& file) {
    for (std::size_t place = file.bytes.size() < 22 ? 0 : file.bytes.size() - 22 + 1; place-- > 0;) {
        if (file.number(place, 4) == kEnd) {
            return place;
        }
    }
    throw Error("it is no zip file");
}

std::vector<Entry> directory(const Reader& file) {
    const std::size_t end = end_record(file);
    std::vector<Entry> entries;
    std::size_t place = file.number(end + 16, 4);
    for (std::uint32_t left = file.number(end + 10, 2); left > 0; --left) {
        if (file.number(place, 4) != kEntry) {
            throw Error("its directory is damaged");
        }
        const std::uint32_t length = file.number(place + 28, 2);
        file.need(place + 46, length);
        const auto name = file.bytes.begin() + static_cast<std::ptrdiff_t>(place) + 46;
        entries.push_back({std::string(name, name + static_cast<std::ptrdiff_t>(length)), file.number(place + 10, 2),
                           file.number(place + 20, 4), file.number(place + 24, 4), file.number(place + 42, 4)});
        place += 46 + length + file.number(place + 30, 2) + file.number(place + 32, 2);
    }
    return entries;
}

Bytes inflated(const std::uint8_t* packed, std::uint32_t length, std::uint32_t size) {
    Bytes bytes(size);
    z_stream stream{};
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) {
        throw Error("zlib cannot be used");
    }
    stream.next_in = const_cast<std::uint8_t*>(packed);
    stream.avail_in = length;
    stream.next_out = bytes.data();
    stream.avail_out = size;
    const int code = inflate(&stream, Z_FINISH);
    inflateEnd(&stream);
    if (code != Z_STREAM_END || stream.total_out != size) {
        throw Error("what it holds is damaged");
    }
    return bytes;
}

Bytes content(const Reader& file, const Entry& entry) {
    if (file.number(entry.place, 4) != kFile || entry.size > kLargest) {
        throw Error("its directory is damaged");
    }
    const std::size_t start =
        entry.place + std::size_t{30} + file.number(entry.place + 26, 2) + file.number(entry.place + 28, 2);
    file.need(start, entry.packed);
    const std::uint8_t* packed = file.bytes.data() + start;
    if (entry.method == 8) {
        return inflated(packed, entry.packed, entry.size);
    }
    if (entry.method != 0 || entry.packed != entry.size) {
        throw Error("it is packed in a way that this program does not know");
    }
    return Bytes(packed, packed + entry.packed);
}

std::string matched(const std::string& header, const char* pattern) {
    std::smatch found;
    if (!std::regex_search(header, found, std::regex(pattern))) {
        throw Error("it holds an array that this program does not know");
    }
    return found[1];
}

Array array(const Bytes& bytes) {
    const Reader file{bytes};
    if (file.number(0, 4) != 0x4d554e93 || file.number(4, 2) != 0x5950) {  // \x93NUMPY
        throw Error("it holds something else than arrays");
    }
    const bool first = file.number(6, 1) == 1;
    const std::size_t start = first ? 10 : 12, length = file.number(8, first ? 2 : 4);
    file.need(start, length);
    const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(start);
    const auto end = begin + static_cast<std::ptrdiff_t>(length);
    const std::string header(begin, end);
    matched(header, "'fortran_order': (False)");
    Array read;
    read.type = matched(header, "'descr': '([^']*)'");
    const std::string shape = matched(header, "'shape': \\(([0-9, ]*)\\)");
    const std::regex number("[0-9]{1,9}");
    for (std::sregex_iterator found(shape.begin(), shape.end(), number), none; found != none; ++found) {
        read.shape.push_back(std::stoul(found->str()));
    }
    read.bytes.assign(end, bytes.end());
    return read;
}

}  // namespace

std::map<std::string, Array> read_npz(const std::string& path) {
    try {
        std::ifstream stream(path, std::ios::binary);
        if (!stream || std::filesystem::file_size(path) > kLargest) {
            throw Error("it cannot be opened, or is too large");
        }
        const Bytes bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
        const Reader file{bytes};
        std::map<std::string, Array> arrays;
        for (const Entry& entry : directory(file)) {
            const std::size_t ending = entry.name.rfind(".npy");
            const Bytes inside = content(file, entry);
            // Names and texts are arrays of other types, which nobody here asks for.
            if (ending != std::string::npos && inside.size() > 10) {
                arrays[entry.name.substr(0, ending)] = array(inside);
            }
        }
        return arrays;
    } catch (const std::exception& error) {
        throw Error(path + ": cannot be read: " + error.what());
    }
}

}  // namespace ttl
