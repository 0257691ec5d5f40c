#include "csv.hpp"

#include <cctype>
#include <cstdint>
#include <cstdio>
#include <regex>

namespace ttl {

namespace {

// Bytes of the character that begins with this one; of what is no UTF-8 each byte stands alone.
std::size_t length_of(const std::string& text, std::size_t place) {
    const auto first = static_cast<unsigned char>(text[place]);
    const std::size_t length = first < 0x80 ? 1 : first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
    return place + length <= text.size() ? length : 1;
}

std::uint32_t code_of(const std::string& character) {
    const auto first = static_cast<unsigned char>(character[0]);
    if (character.size() == 1) {
        return first < 0x80 ? first : 0xFFFD;
    }
    std::uint32_t code = first & (0x7Fu >> character.size());
    for (std::size_t i = 1; i < character.size(); ++i) {
        code = code << 6 | (static_cast<unsigned char>(character[i]) & 0x3Fu);
    }
    return code;
}

bool is_control(std::uint32_t code) {
    const auto within = [code](std::uint32_t low, std::uint32_t high) { return low <= code && code <= high; };
    return code < 0x20 || within(0x7F, 0x9F) || within(0x2028, 0x202E) || within(0x2066, 0x2069);
}

std::string spelled(std::uint32_t code) {
    switch (code) {
        case '\n':
            return "\\n";
        case '\r':
            return "\\r";
        case '\t':
            return "\\t";
        default: {
            char text[12];
            std::snprintf(text, sizeof text, code < 0x100 ? "\\x%02x" : "\\u%04x", static_cast<unsigned>(code));
            return text;
        }
    }
}

// How text begins that a spreadsheet may take for a formula, after our own mark or not; the last four are full-width.
bool is_formula(const std::string& text) {
    const std::size_t start = text.find_first_not_of('\'');
    if (start == std::string::npos) {
        return false;
    }
    if (std::string("=+-@\t\r\n").find(text[start]) != std::string::npos) {
        return true;
    }
    const std::string wide = text.substr(start, 3);
    return wide == "\xEF\xBC\x9D" || wide == "\xEF\xBC\x8B" || wide == "\xEF\xBC\x8D" || wide == "\xEF\xBC\xA0";
}

bool is_number(const std::string& text) {
    static const std::regex number(R"([+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan))", std::regex::icase);
    return std::regex_match(text, number);
}

}  // namespace

std::string printable(const std::string& text) {
    std::string result;
    for (std::size_t place = 0; place < text.size();) {
        const std::string character = text.substr(place, length_of(text, place));
        const std::uint32_t code = code_of(character);
        result += is_control(code) ? spelled(code) : character;
        place += character.size();
    }
    return result;
}

std::string cell(const std::string& text) {
    const std::string inert = is_formula(text) && !is_number(text) ? "'" + text : text;
    if (inert.find_first_of(",\"\r\n") == std::string::npos) {
        return inert;
    }
    std::string result = "\"";
    for (const char c : inert) {
        result += c == '"' ? std::string("\"\"") : std::string(1, c);
    }
    return result + '"';
}

}  // namespace ttl
