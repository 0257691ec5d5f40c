#include "program.hpp"

#include <algorithm>
#include <exception>
#include <iostream>

#include "csv.hpp"
#include "decode.hpp"

namespace ttl {

int program(int count, char** arguments, void (*work)(const std::string&, const std::vector<std::string>&)) {
    if (count < 3) {
        std::cerr << "usage: ttl_predict ARTIFACT IMAGE...   (reads " << formats() << ")\n";
        return 2;
    }
    try {
        work(arguments[1], std::vector<std::string>(arguments + 2, arguments + count));
    } catch (const std::exception& error) {
        std::string line = error.what();
        std::replace(line.begin(), line.end(), '\n', ' ');
        std::cerr << "error: " << printable(line) << '\n';
        return 2;
    }
    return 0;
}

}  // namespace ttl
