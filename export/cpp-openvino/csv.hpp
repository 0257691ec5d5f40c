// Cells of CSV as `ttl-deploy predict` writes them, and names that steer no terminal.
#pragma once

#include <string>

namespace ttl {

// A text in UTF-8 with its control characters spelled out (`\x1b`), and what turns the direction of text.
std::string printable(const std::string& text);

// A cell, quoted where needed; what a spreadsheet would run as a formula gets an apostrophe in front (OWASP).
std::string cell(const std::string& text);

}  // namespace ttl
