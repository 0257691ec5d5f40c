// The one kind of error a user meets: a line that says what is wrong, with which file, and what to do.
#pragma once

#include <stdexcept>

namespace ttl {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace ttl
