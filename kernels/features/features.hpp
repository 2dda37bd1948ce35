// The steps of a feature program, over a block of rows. `_features_py.py` is the specification, `_features_c.pyx` the
// caller. Nothing here allocates or calls Python.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "ngrams.hpp"
#include "numbers.hpp"
#include "splines.hpp"
#include "times.hpp"

enum { TG_BLOCK = 256 };  // rows: 60 registers of it are 120 KB, within the second-level cache

// The order of OPS in _program.py.
enum {
    OP_FILL, OP_FILL_VALUE, OP_IS_MISSING, OP_EQUALS, OP_CHECK, OP_SUBTRACT_DIVIDE, OP_MULTIPLY_ADD, OP_CLIP,
    OP_FUNCTION, OP_BUCKET, OP_YEO_JOHNSON, OP_BOX_COX, OP_QUANTILE, OP_LOOKUP_NUMBER, OP_LOOKUP_TEXT, OP_ADD,
    OP_SUBTRACT, OP_MULTIPLY, OP_DIVIDE, OP_POWER, OP_CONSTANT, OP_PHASE, OP_TEXT_FILL, OP_TEXT_FILL_VALUE,
    OP_TEXT_IS_MISSING, OP_TEXT_EQUALS, OP_BUCKET_OF_TEXT, OP_SIGN_OF_TEXT, OP_STORE, OP_SCATTER, OP_TEXT_CHECK,
    OP_ADD_SCALED, OP_MAXIMUM, OP_REPLACE_BELOW, OP_CHECK_RANGE, OP_TEXT_LENGTH,
    OP_NGRAMS, OP_SPLINE
};
// The order of REASONS.
enum { TG_INFINITE, TG_MISSING, TG_NOT_POSITIVE, TG_UNKNOWN, TG_TIME, TG_NUMBER, TG_TEXT, TG_BOOLEAN, TG_RANGE, TG_COLUMN, TG_OUTSIDE };

typedef struct {
    const char *at;
    Py_ssize_t size;  // -1: missing
} tg_text;

typedef struct {
    uint64_t key;
    Py_ssize_t size;  // -1: nothing is here
    const char *at;
    int place;
} tg_slot;

typedef struct {
    int op, dst, a, b, column;
    int count;           // of numbers
    int integers_count;
    int *integers;
    double *numbers;
    int texts_count;
    tg_text *texts;
    tg_slot *slots;  // of lookup_text, and stop words
    uint32_t mask;
} tg_step;

typedef struct {
    int datatype;
    Py_ssize_t width;
} tg_tensor;

typedef struct {
    int datatype, kind, dst;
    const char *data;  // NULL: all missing
    Py_ssize_t size, at;
} tg_column;

typedef struct {
    double *numbers;
    tg_text *texts;
    char **tensors;
    const tg_tensor *shapes;
    Py_ssize_t first, rows, block;
    Py_ssize_t refused_row;  // -1: none
    int refused_column, refused_reason;
    tg_scratch *scratch;  // of ngrams; NULL: there are none
} tg_call;

// Notes a refusal; of two the one whose row comes first stays, of one row the earlier one.
static inline void tg_refuse(tg_call *call, Py_ssize_t at, int column, int reason) {
    Py_ssize_t row = call->first + at;
    if (call->refused_row < 0 || row < call->refused_row) {
        call->refused_row = row;
        call->refused_column = column;
        call->refused_reason = reason;
    }
}

static inline uint64_t tg_word(const char *at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
}

// What tells texts apart: those of at most 8 bytes entirely, together with their size; longer ones nearly. Only ever
// compared within this process.
static inline uint64_t tg_key(const char *at, Py_ssize_t size) {
    if (size > 8) {
        uint64_t h = (uint64_t)size;
        for (; size > 8; at += 8, size -= 8) h = (h ^ tg_word(at)) * 0xFF51AFD7ED558CCDu, h ^= h >> 32;
        return (h ^ tg_word(at + size - 8)) * 0xC4CEB9FE1A85EC53u;  // the last 8 bytes, some of them twice
    }
    if (size >= 4) {
        uint32_t first, last;
        memcpy(&first, at, 4);
        memcpy(&last, at + size - 4, 4);
        return (uint64_t)first << 32 | last;
    }
    if (size <= 0) return 0;
    return (uint64_t)(uint8_t)at[0] << 16 | (uint64_t)(uint8_t)at[size >> 1] << 8 | (uint8_t)at[size - 1];
}

static inline uint32_t tg_slot_of(uint64_t key, Py_ssize_t size) {
    uint64_t h = (key ^ (uint64_t)size) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32 ^ h >> 48);
}

static inline bool tg_equal(const tg_slot *slot, uint64_t key, const char *at, Py_ssize_t size) {
    return slot->key == key && slot->size == size && (size <= 8 || !memcmp(slot->at, at, (size_t)size));
}

// Puts a text into a table that has room.
static inline void tg_enter(tg_slot *slots, uint32_t mask, const char *at, Py_ssize_t size, int place) {
    uint64_t key = tg_key(at, size);
    uint32_t slot = tg_slot_of(key, size) & mask;
    while (slots[slot].size >= 0) slot = (slot + 1) & mask;
    slots[slot].key = key, slots[slot].size = size, slots[slot].at = at, slots[slot].place = place;
}

// ---- in and out

static inline float tg_half(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023, bits;
    float found;
    if (exponent == 31) bits = sign | 0x7F800000u | (mantissa << 13);
    else if (exponent) bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    else {
        found = (float)mantissa * 0x1p-24f;
        return sign ? -found : found;
    }
    memcpy(&found, &bits, 4);
    return found;
}

template <typename T>
static inline void tg_widen(double *into, const char *data, Py_ssize_t rows) {
    for (Py_ssize_t i = 0; i < rows; i++) {
        T value;
        memcpy(&value, data + i * (Py_ssize_t)sizeof(T), sizeof(T));
        into[i] = (double)value;
    }
}

// The block's values of one column to its register; -1: the bytes end before their texts do.
static int tg_load(tg_call *call, tg_column *column, int number) {
    Py_ssize_t rows = call->rows, first = call->first;
    const char *data = column->data;
    if (column->kind == 2) {  // string
        tg_text *into = call->texts + column->dst * call->block;
        for (Py_ssize_t i = 0; i < rows; i++) {
            into[i].size = -1;
            if (!data) continue;
            uint32_t size;
            if (column->size - column->at < 4) return -1;
            memcpy(&size, data + column->at, 4);
            if (column->size - column->at - 4 < (Py_ssize_t)size) return -1;
            into[i].at = data + column->at + 4;
            if (size) into[i].size = size;
            column->at += 4 + (Py_ssize_t)size;
        }
        return 0;
    }
    double *into = call->numbers + column->dst * call->block;
    if (!data) {
        for (Py_ssize_t i = 0; i < rows; i++) into[i] = NAN;
        return 0;
    }
    if (column->kind == 3) {  // timestamp
        for (Py_ssize_t i = 0; i < rows; i++) {
            uint32_t size;
            into[i] = NAN;
            if (column->size - column->at < 4) return -1;
            memcpy(&size, data + column->at, 4);
            if (column->size - column->at - 4 < (Py_ssize_t)size) return -1;
            if (size && !tg_seconds(data + column->at + 4, size, into + i)) tg_refuse(call, i, number, TG_TIME);
            column->at += 4 + (Py_ssize_t)size;
        }
        return 0;
    }
    switch (column->datatype) {  // the order of COLUMN_DATATYPES
        case 0: tg_widen<double>(into, data + first * 8, rows); break;
        case 1: tg_widen<float>(into, data + first * 4, rows); break;
        case 2: tg_widen<int64_t>(into, data + first * 8, rows); break;
        case 3: tg_widen<int32_t>(into, data + first * 4, rows); break;
        case 4: tg_widen<int16_t>(into, data + first * 2, rows); break;
        case 5: tg_widen<int8_t>(into, data + first, rows); break;
        case 6: tg_widen<uint64_t>(into, data + first * 8, rows); break;
        case 7: tg_widen<uint32_t>(into, data + first * 4, rows); break;
        case 8: tg_widen<uint16_t>(into, data + first * 2, rows); break;
        case 9: tg_widen<uint8_t>(into, data + first, rows); break;
        case 10:
            for (Py_ssize_t i = 0; i < rows; i++) into[i] = data[first + i] ? 1.0 : 0.0;
            break;
        default:  // FP16
            for (Py_ssize_t i = 0; i < rows; i++) {
                uint16_t h;
                memcpy(&h, data + (first + i) * 2, 2);
                into[i] = tg_half(h);
            }
    }
    return 0;
}

// One value to a tensor; `at` counts elements.
static inline void tg_put(tg_call *call, const tg_step *s, Py_ssize_t i, Py_ssize_t at, double value) {
    char *base = call->tensors[s->integers[0]];
    switch (call->shapes[s->integers[0]].datatype) {
        case 0: ((float *)base)[at] = (float)value; break;
        case 1: ((double *)base)[at] = value; break;
        default: {
            bool wide = call->shapes[s->integers[0]].datatype == 3;
            double limit = wide ? 9223372036854775808.0 : 2147483648.0;
            if (!(value >= -limit && value < limit && value == std::floor(value))) {
                tg_refuse(call, i, s->column, TG_RANGE);
                return;
            }
            if (wide) ((int64_t *)base)[at] = (int64_t)value;
            else ((int32_t *)base)[at] = (int32_t)value;
        }
    }
}

// The slot of a text, or the empty one where it would be.
static inline const tg_slot *tg_find(const tg_step *s, const char *at, Py_ssize_t size) {
    uint64_t key = tg_key(at, size);
    uint32_t slot = tg_slot_of(key, size) & s->mask;
    while (s->slots[slot].size >= 0 && !tg_equal(s->slots + slot, key, at, size)) slot = (slot + 1) & s->mask;
    return s->slots + slot;
}

static inline void tg_lookup_text(tg_call *call, const tg_step *s, double *d) {
    const tg_text *t = call->texts + s->a * call->block;
    double missing = s->numbers[s->texts_count], rest = s->numbers[s->texts_count + 1];
    for (Py_ssize_t i = 0; i < call->rows; i++) {
        if (t[i].size < 0) {
            d[i] = missing;
            if (s->integers[0]) tg_refuse(call, i, s->column, TG_MISSING);
            continue;
        }
        const tg_slot *have = tg_find(s, t[i].at, t[i].size);
        bool found = have->size >= 0;
        d[i] = found ? s->numbers[have->place] : rest;
        if (!found && s->integers[1]) tg_refuse(call, i, s->column, TG_UNKNOWN);
    }
}

static inline void tg_each_ngrams(tg_call *call, const tg_step *s) {
    tg_scratch *scratch = call->scratch;
    const tg_text *t = call->texts + s->a * call->block;
    const Py_ssize_t width = call->shapes[s->integers[0]].width;
    const int bits = s->integers[5], *columns = s->integers + 7;
    auto stopped = [s](const char *at, Py_ssize_t size) { return s->texts_count && tg_find(s, at, size)->size >= 0; };
    for (Py_ssize_t i = 0; i < call->rows; i++) {
        if (t[i].size < 0) continue;
        if (!tg_ngrams(scratch, t[i].at, t[i].size, s->integers + 1, stopped)) {
            tg_refuse(call, i, s->column, TG_TEXT);
            continue;
        }
        double norm = tg_norm(scratch, bits, s->integers[6]);
        for (int32_t bucket : scratch->touched)
            if (columns[bucket] >= 0) {
                double value = bits & TG_BINARY ? 1.0 : (double)scratch->counts[(size_t)bucket];
                tg_put(call, s, i, (call->first + i) * width + columns[bucket], value / norm);
            }
        tg_forget(scratch);
    }
}

static inline double tg_length(const tg_text *text) {
    if (text->size < 0) return NAN;
    Py_ssize_t found = 0;
    for (Py_ssize_t i = 0; i < text->size; i++) found += ((uint8_t)text->at[i] & 0xC0) != 0x80;
    return (double)found;
}

static inline void tg_lookup_number(tg_call *call, const tg_step *s, const double *a, double *d) {
    int count = s->integers[2];
    for (Py_ssize_t i = 0; i < call->rows; i++) {
        if (a[i] != a[i]) {
            d[i] = s->numbers[2 * count];
            if (s->integers[0]) tg_refuse(call, i, s->column, TG_MISSING);
            continue;
        }
        int place = tg_at_or_below(s->numbers, count, a[i]) - 1;
        bool found = place >= 0 && s->numbers[place] == a[i];
        d[i] = s->numbers[found ? count + place : 2 * count + 1];
        if (!found && s->integers[1]) tg_refuse(call, i, s->column, TG_UNKNOWN);
    }
}

static inline void tg_check(tg_call *call, const tg_step *s, const double *a) {
    int bits = s->integers[0];
    int64_t odd = 0;  // a loop without branches first: nearly always nothing is refused
    for (Py_ssize_t i = 0; i < call->rows; i++) odd += !(std::fabs(a[i]) <= std::numeric_limits<double>::max());
    if (!odd && !(bits & 4)) return;
    for (Py_ssize_t i = 0; i < call->rows; i++) {
        if (bits & 1 && std::isinf(a[i])) tg_refuse(call, i, s->column, TG_INFINITE);
        else if (bits & 2 && a[i] != a[i]) tg_refuse(call, i, s->column, TG_MISSING);
        else if (bits & 4 && a[i] <= 0) tg_refuse(call, i, s->column, TG_NOT_POSITIVE);
    }
}

static inline bool tg_same(const tg_text *a, const tg_text *b) {
    return a->size == b->size && !memcmp(a->at, b->at, (size_t)a->size);
}

#define TG_EACH(value) \
    for (Py_ssize_t i = 0; i < n; i++) d[i] = (value); \
    break

// Wider vectors where the machine has them; what is computed is the same, since nothing is fused or reordered.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
__attribute__((target_clones("avx2", "default")))
#endif
static void tg_run(tg_call *call, const tg_step *steps, int count) {
    const Py_ssize_t n = call->rows, block = call->block;
    for (const tg_step *s = steps; s < steps + count; s++) {
        const double *k = s->numbers;
        const double *a = call->numbers + (s->a < 0 ? 0 : s->a) * block, *b = call->numbers + (s->b < 0 ? 0 : s->b) * block;
        double *d = call->numbers + (s->dst < 0 ? 0 : s->dst) * block;
        const tg_text *t = call->texts + (s->a < 0 ? 0 : s->a) * block;
        switch (s->op) {
            case OP_FILL: TG_EACH(a[i] != a[i] ? k[0] : a[i]);
            case OP_FILL_VALUE: TG_EACH(a[i] == k[1] ? k[0] : a[i]);
            case OP_IS_MISSING: TG_EACH(a[i] != a[i] ? 1.0 : 0.0);
            case OP_EQUALS: TG_EACH(a[i] == k[0] ? 1.0 : 0.0);
            case OP_CHECK: tg_check(call, s, a); break;
            case OP_SUBTRACT_DIVIDE: TG_EACH((a[i] - k[0]) / k[1]);
            case OP_MULTIPLY_ADD: TG_EACH(a[i] * k[0] + k[1]);
            case OP_CLIP: TG_EACH(a[i] < k[0] ? k[0] : a[i] > k[1] ? k[1] : a[i]);
            case OP_FUNCTION: TG_EACH(tg_function(s->integers[0], a[i]));
            case OP_BUCKET: TG_EACH(a[i] != a[i] ? a[i] : (double)tg_at_or_below(k, s->count, a[i]));
            case OP_YEO_JOHNSON: TG_EACH(tg_yeo_johnson(a[i], k[0]));
            case OP_BOX_COX: TG_EACH(tg_box_cox(a[i], k[0]));
            case OP_QUANTILE: TG_EACH(tg_quantile(a[i], k, s->integers[0], s->integers[1]));
            case OP_LOOKUP_NUMBER: tg_lookup_number(call, s, a, d); break;
            case OP_LOOKUP_TEXT: tg_lookup_text(call, s, d); break;
            case OP_ADD: TG_EACH(a[i] + b[i]);
            case OP_SUBTRACT: TG_EACH(a[i] - b[i]);
            case OP_MULTIPLY: TG_EACH(a[i] * b[i]);
            case OP_DIVIDE: TG_EACH(a[i] / b[i]);
            case OP_POWER: TG_EACH(std::pow(a[i], b[i]));
            case OP_CONSTANT: TG_EACH(k[0]);
            case OP_PHASE: TG_EACH(tg_phase(a[i], s->integers[0]));
            case OP_TEXT_FILL:
            case OP_TEXT_FILL_VALUE: {
                tg_text *into = call->texts + s->dst * block;
                for (Py_ssize_t i = 0; i < n; i++) {
                    bool hit = s->op == OP_TEXT_FILL ? t[i].size < 0 : tg_same(s->texts + 1, t + i);
                    into[i] = hit ? s->texts[0] : t[i];
                }
                break;
            }
            case OP_TEXT_IS_MISSING: TG_EACH(t[i].size < 0 ? 1.0 : 0.0);
            case OP_TEXT_EQUALS: TG_EACH(tg_same(s->texts, t + i) ? 1.0 : 0.0);
            case OP_BUCKET_OF_TEXT:
                for (Py_ssize_t i = 0; i < n; i++) {
                    if (t[i].size < 0) { d[i] = -1.0; continue; }
                    int64_t h = tg_murmur3(t[i].at, t[i].size), buckets = s->integers[0];
                    if (h == -2147483648LL) h = 2147483647LL - (buckets - 1);
                    d[i] = (double)((h < 0 ? -h : h) % buckets);
                }
                break;
            case OP_SIGN_OF_TEXT: TG_EACH(t[i].size < 0 || tg_murmur3(t[i].at, t[i].size) >= 0 ? 1.0 : -1.0);
            case OP_STORE: {
                const tg_tensor *shape = call->shapes + s->integers[0];
                Py_ssize_t at = call->first * shape->width + s->integers[1];
                if (shape->datatype == 0) {
                    float *out = (float *)call->tensors[s->integers[0]] + at;
                    for (Py_ssize_t i = 0; i < n; i++, out += shape->width) *out = (float)a[i];
                } else
                    for (Py_ssize_t i = 0; i < n; i++) tg_put(call, s, i, at + i * shape->width, a[i]);
                break;
            }
            case OP_SCATTER: {
                const tg_tensor *shape = call->shapes + s->integers[0];
                for (Py_ssize_t i = 0; i < n; i++) {
                    if (!(a[i] >= 0 && a[i] < s->integers_count - 1)) continue;
                    int column = s->integers[1 + (int)a[i]];
                    if (column < 0) continue;
                    Py_ssize_t at = (call->first + i) * shape->width + column;
                    tg_put(call, s, i, at, s->b < 0 ? 1.0 : b[i]);
                }
                break;
            }
            case OP_TEXT_CHECK:
                for (Py_ssize_t i = 0; i < n; i++)
                    if (t[i].size < 0) tg_refuse(call, i, s->column, TG_MISSING);
                break;
            case OP_ADD_SCALED: TG_EACH(b[i] + a[i] * k[0]);
            case OP_MAXIMUM: TG_EACH(a[i] != a[i] || a[i] > b[i] ? a[i] : b[i]);
            case OP_REPLACE_BELOW: TG_EACH(a[i] < k[0] ? k[1] : a[i]);
            case OP_CHECK_RANGE:
                for (Py_ssize_t i = 0; i < n; i++)
                    if (a[i] < k[0] || a[i] > k[1]) tg_refuse(call, i, s->column, TG_OUTSIDE);
                break;
            case OP_TEXT_LENGTH: TG_EACH(tg_length(t + i));
            case OP_NGRAMS: tg_each_ngrams(call, s); break;
            case OP_SPLINE: TG_EACH(tg_spline(a[i], k, s->count - 4, s->integers));
        }
    }
}
#undef TG_EACH
