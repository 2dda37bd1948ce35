// Hashed n-grams of texts; `_ngrams_py.py` is the specification. No Python but for the lower case of two letters.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "numbers.hpp"

enum { TG_WORD, TG_CHAR, TG_CHAR_WB };
enum { TG_LOWERCASE = 1, TG_SIGNED = 2, TG_BINARY = 4 };
enum { TG_NO_NORM, TG_L1, TG_L2 };

// A text in lower case, appended to a std::string by tg_sink; takes the GIL. -1: no memory.
typedef int (*tg_lower)(const char *, Py_ssize_t, void *);

// What a call keeps from one text to the next, so that memory is taken once.
struct tg_scratch {
    std::vector<int32_t> counts, touched;
    std::vector<char> seen;
    std::string lowered, units;
    std::vector<size_t> starts, ends;  // of units, in bytes
    tg_lower lower = nullptr;
    bool failed = false;  // out of memory
};

static inline tg_scratch *tg_scratch_new(tg_lower lower) {
    tg_scratch *made = new (std::nothrow) tg_scratch;
    if (made) made->lower = lower;
    return made;
}

static inline void tg_scratch_delete(tg_scratch *scratch) { delete scratch; }

static inline int tg_sink(void *sink, const char *at, Py_ssize_t size) {
    try {
        static_cast<std::string *>(sink)->append(at, (size_t)size);
        return 0;
    } catch (...) {
        return -1;
    }
}

// The next code point, strictly as Python decodes; -1: no UTF-8.
static inline int32_t tg_decoded(const char *&at, const char *end) {
    auto byte = [&](int i) { return (uint32_t)(uint8_t)at[i]; };
    uint32_t first = byte(0), point;
    int more;
    if (first < 0x80) return at++, (int32_t)first;
    if (first >= 0xC2 && first < 0xE0) more = 1, point = first & 31;
    else if (first >= 0xE0 && first < 0xF0) more = 2, point = first & 15;
    else if (first >= 0xF0 && first < 0xF5) more = 3, point = first & 7;
    else return -1;
    if (end - at <= more) return -1;
    for (int i = 1; i <= more; i++) {
        if ((byte(i) & 0xC0) != 0x80) return -1;
        point = point << 6 | (byte(i) & 63);
    }
    if ((more == 2 && (point < 0x800 || (point >= 0xD800 && point < 0xE000))) ||
        (more == 3 && (point < 0x10000 || point > 0x10FFFF)))
        return -1;
    at += more + 1;
    return (int32_t)point;
}

static inline void tg_encoded(std::string &into, uint32_t point) {
    if (point < 0x80) {
        into.push_back((char)point);
        return;
    }
    if (point < 0x800) into.push_back((char)(0xC0 | point >> 6));
    else {
        if (point < 0x10000) into.push_back((char)(0xE0 | point >> 12));
        else {
            into.push_back((char)(0xF0 | point >> 18));
            into.push_back((char)(0x80 | (point >> 12 & 63)));
        }
        into.push_back((char)(0x80 | (point >> 6 & 63)));
    }
    into.push_back((char)(0x80 | (point & 63)));
}

static inline bool tg_is_word(int32_t point) {
    if (point < 128) return (point >= 'a' && point <= 'z') || (point >= 'A' && point <= 'Z') || (point >= '0' && point <= '9') || point == '_';
    return Py_UNICODE_ISALNUM((Py_UCS4)point);
}

static inline bool tg_is_space(int32_t point) { return Py_UNICODE_ISSPACE((Py_UCS4)point); }  // a macro: reads twice

// The text into `lowered`, which is then known to be UTF-8. False: it is none.
static inline bool tg_lowered(tg_scratch *s, const char *at, Py_ssize_t size, bool lower) {
    s->lowered.clear();
    for (const char *next = at, *end = at + size; next < end;) {
        int32_t point = tg_decoded(next, end);
        if (point < 0) return false;
        if (!lower) continue;
        if (point < 128) s->lowered.push_back((char)(point >= 'A' && point <= 'Z' ? point + 32 : point));
        else if (point == 0x130 || point == 0x3A3) {
            // The letters whose lower case is more than one, or hangs on what is beside it. The rest is judged first.
            while (next < end)
                if (tg_decoded(next, end) < 0) return false;
            s->lowered.clear();
            if (s->lower(at, size, &s->lowered) < 0) s->failed = true;
            return true;
        } else tg_encoded(s->lowered, (uint32_t)Py_UNICODE_TOLOWER((Py_UCS4)point));
    }
    if (!lower) s->lowered.assign(at, (size_t)size);
    return true;
}

static inline void tg_count(tg_scratch *s, const char *at, size_t size, int64_t buckets, int bits) {
    int64_t h = tg_murmur3(at, (Py_ssize_t)size);
    int32_t sign = bits & TG_SIGNED && h < 0 ? -1 : 1;
    if (h == -2147483648LL) h = 2147483647LL - (buckets - 1);
    int32_t bucket = (int32_t)((h < 0 ? -h : h) % buckets);
    if (!s->seen[(size_t)bucket]) {
        s->seen[(size_t)bucket] = 1;
        s->touched.push_back(bucket);
    }
    s->counts[(size_t)bucket] += sign;
}

// All runs of n units, for each n.
static inline void tg_runs(tg_scratch *s, int least, int most, int64_t buckets, int bits) {
    size_t count = s->starts.size();
    for (size_t n = (size_t)least; n <= (size_t)most && n <= count; n++)
        for (size_t at = 0; at + n <= count; at++)
            tg_count(s, s->units.data() + s->starts[at], s->ends[at + n - 1] - s->starts[at], buckets, bits);
}

static inline void tg_unit(tg_scratch *s, const char *at, size_t size) {
    s->starts.push_back(s->units.size());
    s->units.append(at, size);
    s->ends.push_back(s->units.size());
}

static inline void tg_clear(tg_scratch *s) { s->units.clear(), s->starts.clear(), s->ends.clear(); }

// What `stopped` says of a word leaves it out.
template <typename Stopped>
static inline void tg_words(tg_scratch *s, Stopped stopped) {
    const char *at = s->lowered.data(), *end = at + s->lowered.size();
    while (at < end) {
        const char *begin = at, *next = at;
        int letters = 0;
        while (next < end && tg_is_word(tg_decoded(next, end))) letters++, at = next;
        if (letters >= 2 && !stopped(begin, (Py_ssize_t)(at - begin))) {
            if (!s->starts.empty()) s->units.push_back(' ');
            tg_unit(s, begin, (size_t)(at - begin));
        }
        at = next;  // beyond what ended the word
    }
}

// Characters, in which a run of blanks is one.
static inline void tg_characters(tg_scratch *s) {
    const char *at = s->lowered.data(), *end = at + s->lowered.size();
    while (at < end) {
        const char *begin = at;
        if (!tg_is_space(tg_decoded(at, end))) {
            tg_unit(s, begin, (size_t)(at - begin));
            continue;
        }
        const char *first = at, *next = at;
        while (next < end && tg_is_space(tg_decoded(next, end))) at = next;
        if (at == first) tg_unit(s, begin, (size_t)(at - begin));
        else tg_unit(s, " ", 1);
    }
}

static inline void tg_padded_words(tg_scratch *s, int least, int most, int64_t buckets, int bits) {
    const char *at = s->lowered.data(), *end = at + s->lowered.size();
    while (at < end) {
        tg_clear(s);
        tg_unit(s, " ", 1);
        while (at < end) {
            const char *begin = at;
            if (tg_is_space(tg_decoded(at, end))) break;
            tg_unit(s, begin, (size_t)(at - begin));
        }
        if (s->starts.size() == 1) continue;
        tg_unit(s, " ", 1);
        int length = (int)s->starts.size();
        if (length <= least) tg_count(s, s->units.data(), s->units.size(), buckets, bits);  // counts once
        else tg_runs(s, least, most, buckets, bits);
    }
}

// Counts a text's n-grams. False: it is no UTF-8. Afterwards `touched` has the buckets, until tg_forget.
template <typename Stopped>
static inline bool tg_ngrams(tg_scratch *s, const char *at, Py_ssize_t size, const int *integers, Stopped stopped) {
    const int buckets = integers[0], analyzer = integers[1], least = integers[2], most = integers[3], bits = integers[4];
    try {
        if (s->counts.size() < (size_t)buckets) s->counts.resize((size_t)buckets), s->seen.resize((size_t)buckets);
        if (!tg_lowered(s, at, size, bits & TG_LOWERCASE)) return false;
        tg_clear(s);
        if (analyzer == TG_WORD) tg_words(s, stopped), tg_runs(s, least, most, buckets, bits);
        else if (analyzer == TG_CHAR) tg_characters(s), tg_runs(s, least, most, buckets, bits);
        else tg_padded_words(s, least, most, buckets, bits);
    } catch (...) {
        s->failed = true;
    }
    return true;
}

// What the counts are divided by.
static inline double tg_norm(const tg_scratch *s, int bits, int norm) {
    double sum = 0;
    for (int32_t bucket : s->touched) {
        double one = bits & TG_BINARY ? 1.0 : (double)s->counts[(size_t)bucket];
        sum += norm == TG_L1 ? std::fabs(one) : one * one;
    }
    if (norm == TG_NO_NORM || sum == 0) return 1.0;
    return norm == TG_L1 ? sum : std::sqrt(sum);
}

static inline void tg_forget(tg_scratch *s) {
    for (int32_t bucket : s->touched) s->counts[(size_t)bucket] = 0, s->seen[(size_t)bucket] = 0;
    s->touched.clear();
}
