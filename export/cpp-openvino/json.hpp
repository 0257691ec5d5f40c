// A strict reader of JSON (RFC 8259), because a device should need nothing but this folder and the engine.
//
// It refuses what the standard leaves open: duplicate keys, text after the value, nesting deeper than 64.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace ttl {

class Json {
public:
    enum class Kind { null, boolean, number, string, array, object };

    // Reads a document. Throws Error with the position of the first mistake.
    static Json parse(const std::string& text);

    Kind kind() const { return kind_; }

    // Each throws Error, naming `what`, if the value is of another kind.
    const std::string& string(const std::string& what) const;
    double number(const std::string& what) const;
    bool boolean(const std::string& what) const;
    // A whole number from 0 to 2^53.
    unsigned long long size(const std::string& what) const;
    const std::vector<Json>& array(const std::string& what) const;
    const std::map<std::string, Json>& object(const std::string& what) const;

    // The member of an object. Throws Error if it is missing.
    const Json& at(const std::string& key) const;

private:
    friend class JsonReader;

    Kind kind_ = Kind::null;
    bool boolean_ = false;
    double number_ = 0;
    std::string string_;
    std::vector<Json> array_;
    std::map<std::string, Json> object_;
};

}  // namespace ttl
