#pragma once
// Each connection is a file descriptor, and the soft limit of a process is often 1024.
#include <cstdint>

namespace qg {

// Raises the limit so that `wanted` files may be open beside the program's own, as far as the system lets it. Returns
// how many there is room for: `wanted`, or fewer.
int64_t room_for_open_files(int64_t wanted);

}  // namespace qg
