#pragma once
// One pool of threads for the whole program. Work is split the same way whatever the number of threads, so results do
// not depend on it.
#include <cstdint>
#include <functional>

namespace qg {

int num_threads();            // threads that parallel_for uses; at first the processors this process may run on
void set_num_threads(int n);  // n >= 1; call before work starts

// Calls fn(begin, end) over [0, count) in pieces of at most `grain`, in any order, from several threads, and waits.
// The first exception thrown by a piece is rethrown here. Nested calls run serially.
void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& fn);

}  // namespace qg
