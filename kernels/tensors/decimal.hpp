// Decimal text to numbers: the quick way for what nearly every tensor holds.
//
// Contract: a quick reader returns where the number ends, with the value that the specification gives it, or nullptr
// when it leaves the judgement to the plain reader (text that is no number, long digits, results near the middle of
// two floats, at the ends of the range). It may read kMargin bytes from its start; the caller has made sure of those.

#ifndef TIDEGATE_DECIMAL_HPP
#define TIDEGATE_DECIMAL_HPP

#include <cfloat>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <system_error>

#include "lanes.hpp"
#include "powers.hpp"
#include "swar.hpp"

static_assert(FLT_EVAL_METHOD == 0, "one multiplication must round once");

namespace tidegate {

// Sign, four words of digits, point, four more, exponent; and a word beyond.
constexpr std::ptrdiff_t kMargin = 96;
constexpr int kWords = 4;

// Bits of the mantissa that a double has and a float has not.
constexpr std::uint64_t kBeyondSingle = (std::uint64_t{1} << 29) - 1;

constexpr double kExactTens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
constexpr int kMostExactTens = 22;
constexpr std::uint64_t kMostExactInteger = std::uint64_t{1} << 53;

constexpr int kLeastNearTens = -64, kGreatestNearTens = 38;
// 10^k as a double, from 10^-64 on.
static double near_tens[kGreatestNearTens - kLeastNearTens + 1];

// Once, when the module is imported; after set_powers with powers rounded down.
inline void set_near_tens() {
    for (int k = kLeastNearTens; k <= kGreatestNearTens; ++k) {
        const Power& power = powers[k - kLeastPower];
        // Off by half a unit and the 2^-63 of what was cut off before.
        near_tens[k - kLeastNearTens] = std::ldexp(static_cast<double>(power.high), log2_of_power(k) - 63);
    }
}

// w * 10^q as the nearest float; false: undecided.
//
// In double: w, the power and their product are each off by 2^-53 of their size at most (the power by a hair more), so
// the product by less than four units in its last place. Unless it lies that near to the middle of two floats, it rounds to the float that the
// exact value rounds to.
inline bool nearest(std::uint64_t w, int q, float* out) {
    if (static_cast<std::int64_t>(w) <= 0) {
        *out = 0;
        return w == 0;
    }
    if (q < kLeastNearTens || q > kGreatestNearTens) return false;
    const double value = static_cast<double>(static_cast<std::int64_t>(w)) * near_tens[q - kLeastNearTens];
    std::uint64_t bits;
    std::memcpy(&bits, &value, 8);
    // Within four units of the middle; subnormals have other middles, and the largest floats one of their own.
    if (((bits + 4) & kBeyondSingle) - (kBeyondSingle / 2 + 1) <= 8) return false;
    if (!(value > 2 * static_cast<double>(FLT_MIN) && value < static_cast<double>(FLT_MAX) / 2)) return false;
    *out = static_cast<float>(value);
    return true;
}

// w * 10^q as the nearest double; false: undecided.
//
// Clinger (PLDI 1990) where w and the power are exact doubles; else the 64 bits of w times the 128 of the power, as in
// Lemire, Number Parsing at a Gigabyte per Second (2021), but for ties and subnormals, which are left undecided.
inline bool nearest(std::uint64_t w, int q, double* out) {
    if (w <= kMostExactInteger && -kMostExactTens <= q && q <= kMostExactTens) {
        const double exact = static_cast<double>(static_cast<std::int64_t>(w));
        *out = q < 0 ? exact / kExactTens[-q] : exact * kExactTens[q];
        return true;
    }
    if (w == 0) {
        *out = 0;
        return true;
    }
    if (q < kLeastPower || q > 308) return false;
    const Power& power = powers[q - kLeastPower];
    const int shift = __builtin_clzll(w);
    w <<= shift;
    const Wide product = static_cast<Wide>(w) * power.high;
    std::uint64_t high = static_cast<std::uint64_t>(product >> 64);
    // 54 bits count: 53 of the mantissa and one that says how to round.
    const int beyond = 9 + static_cast<int>(high >> 63);
    const std::uint64_t mask = (std::uint64_t{1} << beyond) - 1;
    if ((high & mask) == mask) {
        // What the rest of the power adds may carry into the bits that count.
        const std::uint64_t low = static_cast<std::uint64_t>(product);
        const std::uint64_t more = static_cast<std::uint64_t>(static_cast<Wide>(w) * power.low >> 64);
        if (low > ~std::uint64_t{1} - more) return false;  // it does, or nearly
    } else if ((high & mask) == 0) {
        return false;  // it may be a tie
    }
    std::uint64_t mantissa = ((high >> beyond) + 1) >> 1;
    int exponent = log2_of_power(q) + 64 - shift - (beyond == 9) + 1023;
    if (mantissa >> 53) {
        mantissa >>= 1;
        ++exponent;
    }
    if (exponent <= 0 || exponent >= 0x7FF) return false;
    const std::uint64_t bits = static_cast<std::uint64_t>(exponent) << 52 | (mantissa & ((std::uint64_t{1} << 52) - 1));
    std::memcpy(out, &bits, 8);
    return true;
}

// Digits from p on, appended to w; where they end, at most eight times kWords further.
//
// Whole words are a matter of branches, which are foreseen, so that only the last one has to be waited for before the
// next number can be looked at.
inline Text take_digits(Text p, std::uint64_t* w) {
    std::uint64_t word = load_digits(p);
    for (int words = 1; words < kWords && is_all_digits(word); ++words) {
        *w = *w * kTens[8] + digits_value(word, 8);
        p += 8;
        word = load_digits(p);
    }
    const unsigned count = digit_count(word);
    *w = *w * kTens[static_cast<int>(count)] + digits_value(word, count);
    return p + count;
}

template <class T>
inline Text quick_float(Text p, T* out) {
    const bool minus = *p == '-';
    p += minus;
    std::uint64_t w = 0;
    const Text whole = p;
    if (p[1] == '.' && static_cast<unsigned>(*p - '0') < 10) {
        w = *p++ - '0';  // one digit, as of most numbers with a fraction
    } else {
        p = take_digits(p, &w);
    }
    std::ptrdiff_t digits = p - whole;
    if (digits == 0 || (digits > 1 && *whole == '0')) return nullptr;
    int q = 0;
    if (*p == '.') {
        const Text fraction = ++p;
        p = take_digits(p, &w);
        if (p == fraction) return nullptr;
        q = static_cast<int>(fraction - p);
        digits -= q;
    }
    if (digits > 19) {
        // Zeros in front do not count; w is right modulo 2^64, so right when what counts fits.
        for (Text zero = whole; zero < p && (*zero == '0' || *zero == '.'); ++zero) digits -= *zero == '0';
        if (digits > 19) return nullptr;
    }
    if ((*p | 0x20) == 'e') {
        ++p;
        const bool below = *p == '-';
        p += below || *p == '+';
        const std::uint64_t word = load_digits(p);
        const unsigned count = digit_count(word);
        if (count == 0 || count == 8) return nullptr;
        const int exponent = static_cast<int>(digits_value(word, count));
        q += below ? -exponent : exponent;
        p += count;
    }
    if (*p == '.' || static_cast<unsigned>(*p - '0') < 10) return nullptr;
    if (!nearest(w, q, out)) return nullptr;
    if (minus) *out = -*out;
    return p;
}

// An integer of at most 19 digits; `least` and `greatest` are those of its datatype.
inline Text quick_integer(Text p, std::int64_t least, std::uint64_t greatest, std::uint64_t* out) {
    const bool minus = *p == '-';
    p += minus;
    std::uint64_t w = 0;
    const Text from = p;
    p = take_digits(p, &w);
    const std::ptrdiff_t digits = p - from;
    if (digits == 0 || digits > 19 || (digits > 1 && *from == '0')) return nullptr;
    if (*p == '.' || (*p | 0x20) == 'e') return nullptr;
    if (minus ? w > -static_cast<std::uint64_t>(least) : w > greatest) return nullptr;
    *out = minus ? -w : w;
    return p;
}

// Reads elements with `quick` for as long as it takes them and each is followed by a comma and at most one blank.
//
// Up to `room` elements go to `out`; `count` counts them. Returns where it stopped: right behind an element that no such
// comma follows (`behind`), else where the next element starts.
template <class T, class Quick>
inline Text quick_run(Text p, Text end, T* out, std::ptrdiff_t room, std::ptrdiff_t* count, bool* behind, Quick quick) {
    std::ptrdiff_t read = 0;
    *behind = false;
    while (read < room && end - p >= kMargin) {
        T value;
        const Text after = quick(p, &value);
        if (!after) break;
        std::memcpy(out + read++, &value, sizeof value);
        p = after;
        if (*p != ',') {
            *behind = true;
            break;
        }
        p += 1 + (p[1] == ' ');
    }
    *count = read;
    return p;
}

// The last argument only says the type, here and below.
template <class T>
inline Text quick_floats(Text p, Text end, char* out, std::ptrdiff_t room, std::ptrdiff_t* count, bool* behind, T) {
    return quick_run(p, end, reinterpret_cast<T*>(out), room, count, behind, quick_float<T>);
}

// T is unsigned: of a negative number the low bits are stored.
template <class T>
inline Text quick_integers(Text p, Text end, char* out, std::ptrdiff_t room, std::ptrdiff_t* count, bool* behind,
                           std::int64_t least, std::uint64_t greatest, T) {
    return quick_run(p, end, reinterpret_cast<T*>(out), room, count, behind, [=](Text at, T* value) {
        std::uint64_t wide;
        const Text after = quick_integer(at, least, greatest, &wide);
        if (after) *value = static_cast<T>(wide);
        return after;
    });
}

// Whether a number that from_chars calls out of range is too large; else it is too small.
inline bool is_large(Text p, Text end) {
    std::int64_t power = 0;  // of ten, of the first digit that is not 0; one more than usual
    bool counts = false, fraction = false;
    for (; p < end && (*p | 0x20) != 'e'; ++p) {
        counts |= '1' <= *p && *p <= '9';
        if (*p == '.') fraction = true;
        else if (*p != '-') power += fraction ? -!counts : counts;
    }
    std::int64_t exponent = 0;
    const bool below = end - p > 1 && p[1] == '-';
    for (; p < end; ++p)
        if ('0' <= *p && *p <= '9' && exponent < std::int64_t{1} << 48) exponent = exponent * 10 + (*p - '0');
    return power + (below ? -exponent : exponent) > 0;
}

// The plain reader of one token. 0: read; 1: not a number of this type; 2: overflows or underflows.
template <class T>
inline int read_number(Text from, Text to, T* out) {
    const char* const end = reinterpret_cast<const char*>(to);
    const auto result = std::from_chars(reinterpret_cast<const char*>(from), end, *out);
    if (result.ec == std::errc::result_out_of_range) return 2;
    return result.ec == std::errc() && result.ptr == end ? 0 : 1;
}

}  // namespace tidegate

#endif
