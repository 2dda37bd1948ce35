// Numbers to decimal text.
//
// Contract: a writer returns where its text ends, and may write kWidest bytes from its start.

#ifndef TIDEGATE_SHORTEST_HPP
#define TIDEGATE_SHORTEST_HPP

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "powers.hpp"
#include "swar.hpp"

namespace tidegate {

// The longest text has 24 characters; whole words are stored, and digits moved apart for the point.
constexpr std::size_t kWidest = 48;

// digits * 10^exponent, and how many digits there are.
struct Decimal {
    std::uint64_t digits;
    int exponent;
};

// Four times the float and the two ends of the interval that rounds to it, times 10^k: whole numbers, the last bit of
// which is 1 when there is more (the paper's round to odd).
template <class Bits>
struct Interval {
    Bits lower, middle, upper;
};

template <class T>
struct Format;

template <>
struct Format<float> {
    using Bits = std::uint32_t;
    static constexpr int kMantissa = 23, kBias = 150;

    static Bits to_odd(Wide product) {
        return static_cast<Bits>(product >> 64) | (static_cast<Bits>(product >> 32) > 1);
    }

    static Interval<Bits> scaled(int k, Bits c, int h, bool narrow) {
        const Power& power = powers[k - kLeastPower];
        const std::uint64_t g = power.high + (power.low != 0);  // rounded up to 64 bits
        const Wide middle = static_cast<Wide>(g) * (4 * c << h), half = static_cast<Wide>(g) << (h + 1);
        return {to_odd(middle - (half >> narrow)), to_odd(middle), to_odd(middle + half)};
    }
};

template <>
struct Format<double> {
    using Bits = std::uint64_t;
    static constexpr int kMantissa = 52, kBias = 1075;

    static Bits to_odd(const Power& power, Bits c) {
        const Wide low = static_cast<Wide>(power.low) * c;
        const Wide product = static_cast<Wide>(power.high) * c + static_cast<std::uint64_t>(low >> 64);
        return static_cast<Bits>(product >> 64) | (static_cast<Bits>(product) > 1);
    }

    static Interval<Bits> scaled(int k, Bits c, int h, bool narrow) {
        const Power& power = powers[k - kLeastPower];
        return {to_odd(power, (4 * c - 2 + narrow) << h), to_odd(power, 4 * c << h), to_odd(power, (4 * c + 2) << h)};
    }
};

// The shortest decimal that lies nearer to the float than to any other; of several the nearest.
//
// Schubfach: R. Giulietti, The Schubfach way to render doubles (2021); names are the paper's. The float is c * 2^q,
// not 0 and finite. Powers are rounded up. The trailing zeros that the decimal may have are the caller's to drop.
template <class T>
inline Decimal shortest(typename Format<T>::Bits mantissa, int biased) {
    using Bits = typename Format<T>::Bits;
    constexpr Bits kHidden = Bits{1} << Format<T>::kMantissa;
    const Bits c = biased ? kHidden | mantissa : mantissa;
    const int q = (biased ? biased : 1) - Format<T>::kBias;
    if (-Format<T>::kMantissa <= q && q <= 0 && (c & ((Bits{1} << -q) - 1)) == 0) return {c >> -q, 0};  // an integer

    const Bits odd = c & 1;  // the ends of the interval belong to even floats
    // The next smaller float is half as far where the exponent changes.
    const bool narrow = mantissa == 0 && biased > 1;
    // floor(log10(2^q)), or of 3/4 of it.
    const int k = (q * 1'262'611 - (narrow ? 524'031 : 0)) >> 22;
    const int h = q + log2_of_power(-k) + 1;
    const Interval<Bits> v = Format<T>::scaled(-k, c, h, narrow);
    const Bits lower = v.lower + odd, upper = v.upper - odd, s = v.middle / 4;
    // Both answers are computed and one is taken without branches, which nobody could foresee: 11 ns instead of 15. The
    // one with a digit less keeps its place by a zero behind.
    const Bits tens = 10 * (s / 10);
    const Bits ten_below = lower <= 4 * tens, ten_above = 4 * tens + 40 <= upper;
    const Bits below = lower <= 4 * s, above = 4 * s + 4 <= upper;
    const Bits half = 4 * s + 2;
    const Bits nearer = Bits{v.middle > half} | (Bits{v.middle == half} & s);
    const Bits one = s + ((below ^ above) ? above : nearer & 1);
    const Bits ten = tens + 10 * ten_above;
    const Bits shorter = -((ten_below ^ ten_above) & Bits{s >= 10});
    return {one ^ ((one ^ ten) & shorter), k};
}

// How many digits a number has; 0 has none.
inline int decimal_length(std::uint64_t value) {
    // 1233 / 2^12 is near enough to log10(2) for 64 bits.
    const int guess = (64 - __builtin_clzll(value | 1)) * 1233 >> 12;
    return guess + (value >= kTens[guess]);
}

constexpr std::uint32_t kWord = 100'000'000;

// The decimal's digits and zeros behind them: as many as the longest has, the first one apart from the others. They
// stay in registers, for what is stored in pieces cannot be loaded again at once.
template <class T>
struct Digits;

template <>
struct Digits<float> {
    static constexpr int kMost = 9;
    std::uint64_t others;  // characters, the second digit in the lowest byte
    char first;
    int count;  // without the zeros behind

    Digits(std::uint64_t digits, int length) {
        digits *= kTens[kMost - length];
        const std::uint64_t word = to_digits(static_cast<std::uint32_t>(digits % kWord));
        first = static_cast<char>('0' + digits / kWord);
        others = word | kZeros;
        count = word ? 9 - (__builtin_clzll(word) >> 3) : 1;
    }
};

template <>
struct Digits<double> {
    static constexpr int kMost = 17;
    Wide others;
    char first;
    int count;

    Digits(std::uint64_t digits, int length) {
        digits *= kTens[kMost - length];
        const std::uint64_t upper = digits / kWord;
        const std::uint64_t low = to_digits(static_cast<std::uint32_t>(upper % kWord));
        const std::uint64_t high = to_digits(static_cast<std::uint32_t>(digits % kWord));
        first = static_cast<char>('0' + upper / kWord);
        others = static_cast<Wide>(high | kZeros) << 64 | (low | kZeros);
        count = high ? 17 - (__builtin_clzll(high) >> 3) : low ? 9 - (__builtin_clzll(low) >> 3) : 1;
    }
};

inline char* write_exponent(char* at, int exponent) {
    *at++ = 'e';
    *at++ = exponent < 0 ? '-' : '+';
    exponent = exponent < 0 ? -exponent : exponent;
    if (exponent >= 100) {
        *at++ = static_cast<char>('0' + exponent / 100);
        exponent %= 100;
    }
    *at++ = static_cast<char>('0' + exponent / 10);
    *at++ = static_cast<char>('0' + exponent % 10);
    return at;
}

// A finite float that is not 0, without its sign, in the form of Python's repr: plain from 0.0001 to below 10^16,
// else one digit before the point and an exponent of two digits at least.
template <class T>
inline char* write_decimal(char* at, Decimal decimal) {
    const int length = decimal_length(decimal.digits);
    const int point = length + decimal.exponent;  // digits in front of the point
    const Digits<T> digits(decimal.digits, length);
    const auto store = [&digits](char* to, int from) {
        const auto rest = digits.others >> (8 * from);
        std::memcpy(to, &rest, sizeof rest);
    };
    if (-4 < point && point <= 0) {
        std::memcpy(at, "0.000000", 8);
        at += 2 - point;
        *at = digits.first;
        store(at + 1, 0);
        return at + digits.count;
    }
    *at = digits.first;
    if (0 < point && point <= 16) {
        store(at + 1, 0);
        if (digits.count > point) {
            at[point] = '.';
            store(at + point + 1, point - 1);
            return at + digits.count + 1;
        }
        std::memset(at + Digits<T>::kMost, '0', 8);
        at[point] = '.';
        at[point + 1] = '0';
        return at + point + 2;
    }
    at[1] = '.';
    store(at + 2, 0);
    return write_exponent(at + digits.count + (digits.count > 1), point - 1);
}

inline char* write_word(char* at, const char* word, std::size_t size) {
    std::memcpy(at, word, size);
    return at + size;
}

template <class T>
inline char* write_float(char* at, T value) {
    using Bits = typename Format<T>::Bits;
    constexpr int kMantissa = Format<T>::kMantissa, kExponentMask = sizeof(T) == 4 ? 0xFF : 0x7FF;
    Bits bits;
    std::memcpy(&bits, &value, sizeof bits);
    const Bits mantissa = bits & ((Bits{1} << kMantissa) - 1);
    const int biased = static_cast<int>(bits >> kMantissa) & kExponentMask;
    const bool minus = bits >> (8 * sizeof(T) - 1);
    if (biased == kExponentMask && mantissa) return write_word(at, "NaN", 3);
    *at = '-';
    at += minus;
    if (biased == kExponentMask) return write_word(at, "Infinity", 8);
    if (!mantissa && !biased) return write_word(at, "0.0", 3);
    return write_decimal<T>(at, shortest<T>(mantissa, biased));
}

inline char* write_unsigned(char* at, std::uint64_t value) {
    if (value < kWord) {
        const std::uint64_t word = to_digits(static_cast<std::uint32_t>(value));
        // Without the zeros in front, but for the last digit.
        const int zeros = __builtin_ctzll(word | std::uint64_t{1} << 56) >> 3;
        store_digits(at, word >> (8 * zeros));
        return at + 8 - zeros;
    }
    at = write_unsigned(at, value / kWord);
    store_digits(at, to_digits(static_cast<std::uint32_t>(value % kWord)));
    return at + 8;
}

template <class T>
inline char* write_number(char* at, T value) {
    if constexpr (std::is_floating_point_v<T>) return write_float(at, value);
    *at = '-';
    at += value < 0;
    // In 64 bits first, so that the least value of a type has its opposite.
    const std::uint64_t wide = static_cast<std::uint64_t>(value);
    return write_unsigned(at, value < 0 ? -wide : wide);
}

}  // namespace tidegate

#endif
