// Powers of ten in 128 bits; `_powers.py` says how they are scaled and makes the table.

#ifndef TIDEGATE_POWERS_HPP
#define TIDEGATE_POWERS_HPP

#include <cstdint>
#include <cstring>

namespace tidegate {

using Wide = unsigned __int128;

struct Power {
    std::uint64_t low, high;
};

constexpr int kLeastPower = -342, kGreatestPower = 324;

// Static, for each module has its own: an inline variable is one for all modules of a process (STB_GNU_UNIQUE).
static Power powers[kGreatestPower - kLeastPower + 1];

// Once, when the module is imported; `table` is as large as `powers`.
inline void set_powers(const char* table) { std::memcpy(powers, table, sizeof powers); }

// floor(log2(10^k)) for |k| <= 1233, as 1741647 / 2^19 is near enough to log2(10).
inline int log2_of_power(int k) { return k * 1'741'647 >> 19; }

}  // namespace tidegate

#endif
