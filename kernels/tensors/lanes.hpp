// Runs of like bytes, sixteen at a time where the processor has SSE2 (every x86-64), one at a time elsewhere.
//
// Contract: nothing at or after `end` is read.

#ifndef TIDEGATE_LANES_HPP
#define TIDEGATE_LANES_HPP

#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace tidegate {

using Text = const unsigned char*;

#if defined(__SSE2__)
inline __m128i load16(Text p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline unsigned lanes(__m128i mask) { return static_cast<unsigned>(_mm_movemask_epi8(mask)); }
#endif

// Where the decimal digits that start at p end.
inline Text digits_end(Text p, Text end) {
#if defined(__SSE2__)
    const __m128i zero = _mm_set1_epi8('0'), nine = _mm_set1_epi8(9);
    while (end - p >= 16) {
        const __m128i value = _mm_sub_epi8(load16(p), zero);
        const unsigned digits = lanes(_mm_cmpeq_epi8(_mm_min_epu8(value, nine), value));
        if (digits != 0xFFFF) return p + __builtin_ctz(~digits);
        p += 16;
    }
#endif
    while (p < end && *p >= '0' && *p <= '9') ++p;
    return p;
}

// Where the characters of a string that stand for themselves end: visible ASCII but for quote and backslash.
inline Text plain_end(Text p, Text end) {
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), blank = _mm_set1_epi8(' ');
    while (end - p >= 16) {
        const __m128i text = load16(p);
        // Signed: what is not ASCII is less than a blank, too.
        const __m128i special =
            _mm_or_si128(_mm_cmplt_epi8(text, blank), _mm_or_si128(_mm_cmpeq_epi8(text, quote), _mm_cmpeq_epi8(text, backslash)));
        if (const unsigned found = lanes(special)) return p + __builtin_ctz(found);
        p += 16;
    }
#endif
    while (p < end && *p >= ' ' && *p < 128 && *p != '"' && *p != '\\') ++p;
    return p;
}

// Where the next quote, bracket or brace stands; `end` when there is none.
inline Text structure(Text p, Text end) {
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), fold = _mm_set1_epi8(0x20);
    const __m128i open = _mm_set1_epi8('{'), close = _mm_set1_epi8('}');
    while (end - p >= 16) {
        const __m128i text = load16(p);
        const __m128i folded = _mm_or_si128(text, fold);  // [ and ] become { and }
        const __m128i found = _mm_or_si128(
            _mm_cmpeq_epi8(text, quote), _mm_or_si128(_mm_cmpeq_epi8(folded, open), _mm_cmpeq_epi8(folded, close)));
        if (const unsigned where = lanes(found)) return p + __builtin_ctz(where);
        p += 16;
    }
#endif
    while (p < end && *p != '"' && (*p | 0x20) != '{' && (*p | 0x20) != '}') ++p;
    return p;
}

// Where the array that starts at p ends, found by its brackets alone; nullptr when it holds a string or an object,
// nests deeper than `depth` arrays, or does not end.
inline Text array_end(Text p, Text end, int depth) {
    int open = 0;
    for (; (p = structure(p, end)) < end; ++p) {
        if (*p == '[') {
            if (++open > depth) return nullptr;
        } else if (*p != ']') {
            return nullptr;
        } else if (--open == 0) {
            return p + 1;
        }
    }
    return nullptr;
}

}  // namespace tidegate

#endif
