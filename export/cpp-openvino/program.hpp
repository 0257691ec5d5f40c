// The command line that the programs of `export/` have in common.
#pragma once

#include <string>
#include <vector>

namespace ttl {

// Runs `work` with the artifact's folder and the images that were named. Gives the exit code: 0 done, 2 bad input, of
// which one line on stderr says what is wrong.
int program(int count, char** arguments, void (*work)(const std::string&, const std::vector<std::string>&));

}  // namespace ttl
