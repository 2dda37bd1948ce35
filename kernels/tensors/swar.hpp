// Eight decimal digits in a 64-bit word, one a byte, the first in the lowest byte ("SIMD within a register").

#ifndef TIDEGATE_SWAR_HPP
#define TIDEGATE_SWAR_HPP

#include <cstdint>
#include <cstring>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "digits are taken apart with the first in the lowest byte");

namespace tidegate {

constexpr int kMostTens = 19;

struct Tens {
    std::uint64_t of[kMostTens + 1];
    constexpr Tens() : of{1} {
        for (int k = 0; k < kMostTens; ++k) of[k + 1] = of[k] * 10;
    }
    constexpr std::uint64_t operator[](int k) const { return of[k]; }
};

// Every power of ten below 2^64.
constexpr Tens kTens;

constexpr std::uint64_t kZeros = 0x3030303030303030;  // "00000000"

// Eight characters less '0': bytes of 0 to 9 are digits.
inline std::uint64_t load_digits(const unsigned char* p) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    return word ^ kZeros;
}

// A byte that is no digit has its high bit set; what the addition carries further only reaches later bytes.
inline std::uint64_t other_bytes(std::uint64_t word) {
    return ((word + 0x7676767676767676) | word) & 0x8080808080808080;
}

inline bool is_all_digits(std::uint64_t word) { return other_bytes(word) == 0; }

// How many of the eight, from the first, are digits.
inline unsigned digit_count(std::uint64_t word) {
    const std::uint64_t other = other_bytes(word);
    return other ? static_cast<unsigned>(__builtin_ctzll(other)) >> 3 : 8;
}

// The number that the first `count` digits make.
inline std::uint64_t digits_value(std::uint64_t word, unsigned count) {
    // Zeros in front of the digits, which move to the end; in two steps, for 64 bits at once are no shift.
    word = word << (32 - 4 * count) << (32 - 4 * count);
    word = (word * 10 + (word >> 8)) & 0x00FF00FF00FF00FF;
    word = (word * 100 + (word >> 16)) & 0x0000FFFF0000FFFF;
    return (word * 10'000 + (word >> 32)) & 0xFFFFFFFF;
}

// The eight digits of a number below 10^8, one a byte.
inline std::uint64_t to_digits(std::uint32_t value) {
    // Quotients by multiplication: exact for values below 10^4 and 10^2. Each lane's neighbours are masked away.
    std::uint64_t word = value / 10'000 | static_cast<std::uint64_t>(value % 10'000) << 32;
    std::uint64_t tens = (word * 10'486 >> 20) & 0x0000007F0000007F;
    word = tens | (word - 100 * tens) << 16;
    tens = (word * 103 >> 10) & 0x000F000F000F000F;
    return tens | (word - 10 * tens) << 8;
}

// Writes eight characters.
inline void store_digits(char* at, std::uint64_t word) {
    word |= kZeros;
    std::memcpy(at, &word, 8);
}

}  // namespace tidegate

#endif
