#include "json.hpp"

#include <charconv>
#include <cmath>
#include <cstdint>

#include "error.hpp"

namespace ttl {

namespace {

constexpr int kDeepest = 64;

void append_utf8(std::string& text, std::uint32_t point) {
    if (point < 0x80) {
        text += static_cast<char>(point);
        return;
    }
    const int extra = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    const unsigned lead[] = {0, 0xC0, 0xE0, 0xF0};
    text += static_cast<char>(lead[extra] | (point >> (6 * extra)));
    for (int i = extra - 1; i >= 0; --i) {
        text += static_cast<char>(0x80 | ((point >> (6 * i)) & 0x3F));
    }
}

}  // namespace

class JsonReader {
public:
    explicit JsonReader(const std::string& text) : text_(text) {}

    Json document() {
        Json value = read(0);
        skip_space();
        if (position_ != text_.size()) {
            fail("text after the value");
        }
        return value;
    }

private:
    [[noreturn]] void fail(const std::string& what) const {
        throw Error("not valid JSON at byte " + std::to_string(position_) + ": " + what);
    }

    char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }

    void skip_space() {
        while (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t') {
            ++position_;
        }
    }

    bool take(char wanted) {
        if (peek() != wanted) {
            return false;
        }
        ++position_;
        return true;
    }

    void expect(const std::string& word) {
        if (text_.compare(position_, word.size(), word) != 0) {
            fail("expected " + word);
        }
        position_ += word.size();
    }

    Json read(int depth) {
        if (depth > kDeepest) {
            fail("nested too deeply");
        }
        skip_space();
        Json value;
        switch (peek()) {
            case '{':
                read_object(value, depth);
                break;
            case '[':
                read_array(value, depth);
                break;
            case '"':
                value.kind_ = Json::Kind::string;
                value.string_ = read_string();
                break;
            case 't':
                expect("true");
                value.kind_ = Json::Kind::boolean;
                value.boolean_ = true;
                value.number_ = 1;
                break;
            case 'f':
                expect("false");
                value.kind_ = Json::Kind::boolean;
                break;
            case 'n':
                expect("null");
                break;
            default:
                value.kind_ = Json::Kind::number;
                value.number_ = read_number();
        }
        return value;
    }

    void read_object(Json& value, int depth) {
        value.kind_ = Json::Kind::object;
        expect("{");
        skip_space();
        if (take('}')) {
            return;
        }
        do {
            skip_space();
            std::string key = read_string();
            skip_space();
            expect(":");
            if (!value.object_.emplace(key, read(depth + 1)).second) {
                fail("the key \"" + key + "\" is there twice");
            }
            skip_space();
        } while (take(','));
        expect("}");
    }

    void read_array(Json& value, int depth) {
        value.kind_ = Json::Kind::array;
        expect("[");
        skip_space();
        if (take(']')) {
            return;
        }
        do {
            value.array_.push_back(read(depth + 1));
            skip_space();
        } while (take(','));
        expect("]");
    }

    std::string read_string() {
        expect("\"");
        std::string result;
        while (!take('"')) {
            if (position_ >= text_.size() || static_cast<unsigned char>(peek()) < 0x20) {
                fail("a string does not end");
            }
            const char c = text_[position_++];
            if (c != '\\') {
                result += c;
            } else {
                read_escape(result);
            }
        }
        return result;
    }

    void read_escape(std::string& result) {
        static const std::string names = "\"\\/bfnrt";
        static const std::string values = "\"\\/\b\f\n\r\t";
        const char c = peek();
        ++position_;
        if (c == 'u') {
            append_utf8(result, read_point());
            return;
        }
        const auto index = c == '\0' ? std::string::npos : names.find(c);
        if (index == std::string::npos) {
            fail("unknown escape");
        }
        result += values[index];
    }

    std::uint32_t read_point() {
        const std::uint32_t first = read_hex();
        if (first < 0xD800 || first > 0xDFFF) {
            return first;
        }
        if (first > 0xDBFF) {
            fail("half a surrogate pair");
        }
        expect("\\u");
        const std::uint32_t second = read_hex();
        if (second < 0xDC00 || second > 0xDFFF) {
            fail("half a surrogate pair");
        }
        return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    }

    std::uint32_t read_hex() {
        std::uint32_t value = 0;
        const char* begin = text_.data() + position_;
        const char* end = begin + std::min<std::size_t>(4, text_.size() - position_);
        const auto [stop, problem] = std::from_chars(begin, end, value, 16);
        if (problem != std::errc() || stop != begin + 4) {
            fail("expected four hexadecimal digits");
        }
        position_ += 4;
        return value;
    }

    double read_number() {
        const std::size_t start = position_;
        take('-');
        const bool zero = peek() == '0';
        const std::size_t digits = skip_digits();
        if (digits == 0 || (zero && digits > 1)) {
            fail("expected a value");
        }
        if (take('.') && skip_digits() == 0) {
            fail("expected a digit");
        }
        if (take('e') || take('E')) {
            take('+') || take('-');
            if (skip_digits() == 0) {
                fail("expected a digit");
            }
        }
        double value = 0;
        const auto read = std::from_chars(text_.data() + start, text_.data() + position_, value);
        if (read.ec != std::errc() || !std::isfinite(value)) {
            fail("the number is out of range");
        }
        return value;
    }

    std::size_t skip_digits() {
        const std::size_t start = position_;
        while (peek() >= '0' && peek() <= '9') {
            ++position_;
        }
        return position_ - start;
    }

    const std::string& text_;
    std::size_t position_ = 0;
};

Json Json::parse(const std::string& text) { return JsonReader(text).document(); }

const std::string& Json::string(const std::string& what) const {
    if (kind_ != Kind::string) {
        throw Error(what + " is not a string");
    }
    return string_;
}

double Json::number(const std::string& what) const {
    if (kind_ != Kind::number) {
        throw Error(what + " is not a number");
    }
    return number_;
}

bool Json::boolean(const std::string& what) const {
    if (kind_ != Kind::boolean) {
        throw Error(what + " is neither true nor false");
    }
    return boolean_;
}

unsigned long long Json::size(const std::string& what) const {
    const double value = number(what);
    if (value < 0 || value > 9007199254740992.0 || value != std::floor(value)) {
        throw Error(what + " is not a whole number");
    }
    return static_cast<unsigned long long>(value);
}

const std::vector<Json>& Json::array(const std::string& what) const {
    if (kind_ != Kind::array) {
        throw Error(what + " is not a list");
    }
    return array_;
}

const std::map<std::string, Json>& Json::object(const std::string& what) const {
    if (kind_ != Kind::object) {
        throw Error(what + " is not an object");
    }
    return object_;
}

const Json& Json::at(const std::string& key) const {
    const auto found = object("the value around \"" + key + "\"").find(key);
    if (found == object_.end()) {
        throw Error("\"" + key + "\" is missing");
    }
    return found->second;
}

}  // namespace ttl
