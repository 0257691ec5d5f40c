#include "decode.hpp"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

#include "error.hpp"

#ifdef TTL_WITH_PNG
#include <png.h>
#endif
#ifdef TTL_WITH_JPEG
#include <csetjmp>
#include <cstdio>
extern "C" {
#include <jerror.h>
#include <jpeglib.h>
}
#endif

namespace ttl {

namespace {

using Bytes = std::vector<unsigned char>;

void refuse_large(long long width, long long height) {
    if (width < 1 || height < 1) {
        throw Error("has no pixels");
    }
    if (width > kMaxPixels / height) {
        throw Error(std::to_string(width) + " x " + std::to_string(height) + " pixels are more than the limit of " +
                    std::to_string(kMaxPixels) + "; shrink the image first");
    }
}

bool starts_with(const Bytes& bytes, const std::string& magic) {
    return bytes.size() >= magic.size() && std::equal(magic.begin(), magic.end(), bytes.begin(), [](char a, unsigned char b) {
               return static_cast<unsigned char>(a) == b;
           });
}

// A number in the header of a PNM file: white space and comments come before it, one white space after it.
class PnmHeader {
public:
    explicit PnmHeader(const Bytes& bytes) : bytes_(bytes) {}

    long long number() {
        while (position < bytes_.size() && (is_space(bytes_[position]) || bytes_[position] == '#')) {
            if (bytes_[position] == '#') {
                while (position < bytes_.size() && bytes_[position] != '\n') {
                    ++position;
                }
            } else {
                ++position;
            }
        }
        long long value = 0;
        const std::size_t start = position;
        while (position < bytes_.size() && bytes_[position] >= '0' && bytes_[position] <= '9' && position - start < 9) {
            value = 10 * value + (bytes_[position++] - '0');
        }
        if (position == start || position >= bytes_.size() || !is_space(bytes_[position])) {
            throw Error("is damaged: its header is not PNM");
        }
        return value;
    }

    std::size_t position = 2;

private:
    static bool is_space(unsigned char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

    const Bytes& bytes_;
};

Decoded decode_pnm(const Bytes& bytes) {
    PnmHeader header(bytes);
    const int channels = bytes[1] == '6' ? 3 : 1;
    const long long width = header.number(), height = header.number(), most = header.number();
    refuse_large(width, height);
    Decoded result;
    result.deep = most == 65535 && channels == 1;
    if (most != 255 && !result.deep) {
        throw Error("has a largest value of " + std::to_string(most) + "; give PNM of 255, or PGM of 65535");
    }
    result.pixels = Image<std::uint16_t>(static_cast<int>(width), static_cast<int>(height), channels);
    const std::size_t each = result.deep ? 2 : 1, start = header.position + 1;
    if (bytes.size() < start + each * result.pixels.values.size()) {
        throw Error("is damaged: the file is truncated");
    }
    const unsigned char* from = bytes.data() + start;
    for (std::uint16_t& value : result.pixels.values) {
        value = result.deep ? static_cast<std::uint16_t>(from[0] << 8 | from[1]) : from[0];
        from += each;
    }
    return result;
}

#if defined(TTL_WITH_PNG) || defined(TTL_WITH_JPEG)
// The EXIF orientation, tag 0x0112 of the first directory of a TIFF structure; 1 where there is none.
int orientation_of(const unsigned char* tiff, std::size_t size) {
    if (size < 8 || (std::memcmp(tiff, "II*\0", 4) != 0 && std::memcmp(tiff, "MM\0*", 4) != 0)) {
        return 1;
    }
    const bool little = tiff[0] == 'I';
    const auto read = [&](std::size_t at, int bytes) {
        std::size_t value = 0;
        for (int i = 0; i < bytes; ++i) {
            value = value << 8 | tiff[at + (little ? bytes - 1 - i : i)];
        }
        return value;
    };
    const std::size_t directory = read(4, 4);
    if (directory > size - 2) {
        return 1;
    }
    const std::size_t entries = read(directory, 2);
    for (std::size_t i = 0; i < entries && directory + 2 + 12 * (i + 1) <= size; ++i) {
        const std::size_t entry = directory + 2 + 12 * i;
        if (read(entry, 2) == 0x0112 && read(entry + 2, 2) == 3) {
            const std::size_t value = read(entry + 8, 2);
            return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
        }
    }
    return 1;
}
#endif

#ifdef TTL_WITH_PNG
struct PngSource {
    const Bytes* bytes;
    std::size_t position;
    std::string problem;
};

void png_fail(png_structp png, png_const_charp message) {
    static_cast<PngSource*>(png_get_error_ptr(png))->problem = message;
    png_longjmp(png, 1);
}

void png_ignore(png_structp, png_const_charp) {}

void png_give(png_structp png, png_bytep to, png_size_t count) {
    auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
    if (count > source->bytes->size() - source->position) {
        png_error(png, "the file is truncated");
    }
    std::memcpy(to, source->bytes->data() + source->position, count);
    source->position += count;
}

// Everything that has a destructor lives in the caller: libpng leaves this function by longjmp.
bool read_png(png_structp png, png_infop info, Decoded& result, Bytes& buffer, std::vector<png_bytep>& rows,
              std::string& refused) {
    if (setjmp(png_jmpbuf(png))) {
        return false;
    }
    png_read_info(png, info);
    const png_uint_32 width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    const int depth = png_get_bit_depth(png, info), colour = png_get_color_type(png, info);
    const bool keyed = png_get_valid(png, info, PNG_INFO_tRNS) && colour != PNG_COLOR_TYPE_PALETTE;
    if (static_cast<long long>(width) > kMaxPixels / static_cast<long long>(height)) {
        refused = "has more pixels than the limit of " + std::to_string(kMaxPixels) + "; shrink the image first";
        return false;
    }
    if (keyed && depth != 8 && !(depth == 16 && colour == PNG_COLOR_TYPE_GRAY)) {
        refused = "has a transparent colour at a bit depth other than 8; save it without";
        return false;
    }
    result.deep = depth == 16 && colour == PNG_COLOR_TYPE_GRAY;
    if (result.deep) {
        png_color_16p key = nullptr;
        if (png_get_tRNS(png, info, nullptr, nullptr, &key) && key != nullptr) {
            result.transparent = key->gray;
        }
        png_color_8p significant = nullptr;
        if (png_get_sBIT(png, info, &significant) && significant != nullptr) {
            result.bits = significant->gray;
        }
    } else {
        png_set_strip_16(png);
        png_set_expand(png);
    }
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    const std::size_t stride = png_get_rowbytes(png, info);
    result.pixels = Image<std::uint16_t>(static_cast<int>(width), static_cast<int>(height), png_get_channels(png, info));
    buffer.resize(stride * height);
    rows.resize(height);
    for (png_uint_32 y = 0; y < height; ++y) {
        rows[y] = buffer.data() + stride * y;
    }
    png_read_image(png, rows.data());
    png_read_end(png, info);
#ifdef PNG_eXIf_SUPPORTED
    png_bytep exif = nullptr;
    png_uint_32 exif_size = 0;
    if (png_get_eXIf_1(png, info, &exif_size, &exif)) {
        result.orientation = orientation_of(exif, exif_size);
    }
#endif
    return true;
}

Decoded decode_png(const Bytes& bytes) {
    PngSource source{&bytes, 0, ""};
    Decoded result;
    Bytes buffer;
    std::vector<png_bytep> rows;
    std::string refused;
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, png_fail, png_ignore);
    png_infop info = png != nullptr ? png_create_info_struct(png) : nullptr;
    if (info == nullptr) {
        png_destroy_read_struct(&png, nullptr, nullptr);
        throw Error("libpng cannot start");
    }
    png_set_read_fn(png, &source, png_give);
    const bool good = read_png(png, info, result, buffer, rows, refused);
    png_destroy_read_struct(&png, &info, nullptr);
    if (!good) {
        throw Error(refused.empty() ? "is damaged: " + source.problem : refused);
    }
    for (std::size_t i = 0; i < result.pixels.values.size(); ++i) {
        result.pixels.values[i] =
            result.deep ? static_cast<std::uint16_t>(buffer[2 * i] << 8 | buffer[2 * i + 1]) : buffer[i];
    }
    return result;
}
#endif

#ifdef TTL_WITH_JPEG
struct JpegErrors {
    jpeg_error_mgr manager;
    std::jmp_buf back;
    char message[JMSG_LENGTH_MAX];
};

void jpeg_fail(j_common_ptr info) {
    auto* errors = reinterpret_cast<JpegErrors*>(info->err);
    info->err->format_message(info, errors->message);
    std::longjmp(errors->back, 1);
}

// Other damage is decoded as well as it can be, as Pillow does; a file that ends too early is refused.
void jpeg_message(j_common_ptr info, int level) {
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) {
        jpeg_fail(info);
    }
}

bool read_jpeg(jpeg_decompress_struct& info, JpegErrors& errors, const Bytes& bytes, Decoded& result, Bytes& row,
               std::string& refused) {
    if (setjmp(errors.back)) {
        return false;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, bytes.data(), static_cast<unsigned long>(bytes.size()));
    jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info, TRUE);
    if (static_cast<long long>(info.image_width) > kMaxPixels / static_cast<long long>(info.image_height)) {
        refused = "has more pixels than the limit of " + std::to_string(kMaxPixels) + "; shrink the image first";
        return false;
    }
    if (info.num_components != 1 && info.num_components != 3) {
        refused = "is JPEG of " + std::to_string(info.num_components) + " components; convert it to RGB";
        return false;
    }
    info.out_color_space = info.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    for (jpeg_saved_marker_ptr marker = info.marker_list; marker != nullptr; marker = marker->next) {
        if (marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0) {
            result.orientation = orientation_of(marker->data + 6, marker->data_length - 6);
        }
    }
    jpeg_start_decompress(&info);
    result.pixels = Image<std::uint16_t>(static_cast<int>(info.output_width), static_cast<int>(info.output_height),
                                         info.output_components);
    row.resize(static_cast<std::size_t>(info.output_width) * info.output_components);
    while (info.output_scanline < info.output_height) {
        const std::size_t start = static_cast<std::size_t>(info.output_scanline) * row.size();
        JSAMPROW line = row.data();
        jpeg_read_scanlines(&info, &line, 1);
        std::copy(row.begin(), row.end(), result.pixels.values.begin() + static_cast<std::ptrdiff_t>(start));
    }
    jpeg_finish_decompress(&info);
    return true;
}

Decoded decode_jpeg(const Bytes& bytes) {
    jpeg_decompress_struct info{};
    JpegErrors errors{};
    info.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = jpeg_fail;
    errors.manager.emit_message = jpeg_message;
    Decoded result;
    Bytes row;
    std::string refused;
    const bool good = read_jpeg(info, errors, bytes, result, row, refused);
    jpeg_destroy_decompress(&info);
    if (!good) {
        throw Error(refused.empty() ? std::string("is damaged: ") + errors.message : refused);
    }
    return result;
}
#endif

Decoded decode_bytes(const Bytes& bytes) {
    if (bytes.empty()) {
        throw Error("is empty (0 bytes); restore it or leave it out");
    }
    if (starts_with(bytes, "P5") || starts_with(bytes, "P6")) {
        return decode_pnm(bytes);
    }
#ifdef TTL_WITH_PNG
    if (starts_with(bytes, "\x89PNG\r\n\x1a\n")) {
        return decode_png(bytes);
    }
#endif
#ifdef TTL_WITH_JPEG
    if (starts_with(bytes, "\xff\xd8\xff")) {
        return decode_jpeg(bytes);
    }
#endif
    throw Error("is not an image that this build reads; give " + formats());
}

}  // namespace

std::string formats() {
    std::string names = "PGM or PPM";
#ifdef TTL_WITH_PNG
    names += ", PNG";
#endif
#ifdef TTL_WITH_JPEG
    names += ", JPEG";
#endif
    return names;
}

Decoded decode(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw Error(path + ": cannot be opened; correct the path or leave it out");
    }
    const Bytes bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (file.bad()) {
        throw Error(path + ": cannot be read");
    }
    try {
        return decode_bytes(bytes);
    } catch (const Error& error) {
        throw Error(path + ": " + error.what());
    }
}

}  // namespace ttl
