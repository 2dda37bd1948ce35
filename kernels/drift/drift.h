/* The drift shard's loops: one value to its cell and its moments, and one loop for each datatype. `_drift_c.pyx` is the
   only file that includes this; `_drift_py.py` says what it must do. */

#ifndef TG_DRIFT_H
#define TG_DRIFT_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#define TG_BINS 16
enum { TG_NUMBERS, TG_NAMES, TG_TIMES };
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define TG_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define TG_CLONES
#endif
#define TG_INLINE static inline __attribute__((always_inline))

typedef struct {
    uint64_t hash;
    const char *text;
    uint32_t size;
    int32_t cell;  /* -1: the place is free */
} tg_name;
typedef struct {
    Py_ssize_t count;
    double *numbers;
    int32_t *cells;
} tg_table;
typedef struct {
    tg_name *slots;
    uint64_t mask;
    tg_table tables[4];
    int32_t truth[2];
    int fold;
} tg_names;
typedef struct tg_rule tg_rule;
typedef struct {
    uint64_t *cells;
    double centre, scale;
    tg_names *names;
    const tg_rule *rule;  /* NULL: it may be anything */
    int32_t kind, count;
} tg_column;
struct tg_rule {
    uint64_t *words;
    uint8_t *sketch;  /* NULL: different values are not counted */
    double low[4], high[4];
    tg_column among;  /* `names` is NULL: any value */
    int32_t required, typed;
};
enum { TG_HOLDS = -1, TG_MISSING, TG_SCHEMA, TG_RANGE, TG_AMONG };
typedef struct {
    tg_column *columns;
    double *edges[4];
} tg_shard;

/* As vectors: a plain loop of sixteen turns is unrolled into as many scalars, three times slower. */
typedef double tg_doubles __attribute__((vector_size(32)));
typedef int64_t tg_words __attribute__((vector_size(32)));

TG_INLINE uint64_t tg_bits(double v) {
    double plain = v + 0.0;
    uint64_t bits;
    memcpy(&bits, &plain, 8);
    return bits;
}

TG_INLINE void tg_moments(const tg_column *c, double v) {
    uint64_t *m = c->cells + TG_BINS + 1;
    double scaled = rint((v - c->centre) * c->scale);
    if (fabs(scaled) <= 2147483647.0) {
        int64_t k = (int64_t)scaled;
        uint64_t square = (uint64_t)(k * k), low = m[2] + square;
        m[1] += (uint64_t)k;
        m[3] += low < square;
        m[2] = low;
    } else {
        m[0]++;
        if (isinf(v)) return;
    }
    uint64_t key = tg_bits(v);
    key ^= key >> 63 ? ~(uint64_t)0 : (uint64_t)1 << 63;
    if (key + 1 > m[4]) m[4] = key + 1;
    if (0 - key > m[5]) m[5] = 0 - key;
}

static int32_t tg_named_number(const tg_column *c, double v, int rounding) {
    const tg_table *t = &c->names->tables[rounding];
    Py_ssize_t low = 0, high = t->count;
    while (low < high) {
        Py_ssize_t middle = (low + high) / 2;
        if (t->numbers[middle] < v) low = middle + 1;
        else high = middle;
    }
    return low < t->count && t->numbers[low] == v ? t->cells[low] : c->count - 1;
}

/* fmix64 of MurmurHash3: https://github.com/aappleby/smhasher/blob/master/src/MurmurHash3.cpp */
static uint64_t tg_mixed(uint64_t bits) {
    bits = (bits ^ bits >> 33) * 0xff51afd7ed558ccdu;
    bits = (bits ^ bits >> 33) * 0xc4ceb9fe1a85ec53u;
    return bits ^ bits >> 33;
}
static void tg_sketch(const tg_rule *r, uint64_t hash) {
    uint8_t *place = r->sketch + (hash >> 53), least = (uint8_t)(__builtin_clzll(hash << 11 | 1024) + 1);
    if (*place < least) *place = least;
}
static int tg_number_breaks(const tg_column *c, double v, int rounding, int truth) {
    const tg_rule *r = c->rule;
    if (v != v) return TG_MISSING;
    if (c->kind == TG_TIMES) return r->typed ? TG_SCHEMA : TG_MISSING;
    if (c->kind == TG_NUMBERS && !(r->low[rounding] <= v && v <= r->high[rounding])) return TG_RANGE;
    if (!r->among.names) return TG_HOLDS;
    int32_t cell = c->kind == TG_NAMES && truth >= 0 ? r->among.names->truth[truth]
                                                     : tg_named_number(&r->among, v, rounding);
    return cell == r->among.count - 1 ? TG_AMONG : TG_HOLDS;
}
/* Whether the value is one of the column's kind. */
static int tg_hold(const tg_rule *r, int broken) {
    if (broken > TG_MISSING) r->words[broken]++;
    if (broken == TG_MISSING || broken == TG_SCHEMA) return 0;
    r->words[0]++;
    return 1;
}
static __attribute__((noinline)) void tg_hold_number(const tg_column *c, double v, int rounding, int truth) {
    if (tg_hold(c->rule, tg_number_breaks(c, v, rounding, truth)) && c->rule->sketch)
        tg_sketch(c->rule, tg_mixed(tg_bits(v)));
}

TG_INLINE void tg_count(const tg_shard *s, int32_t index, double v, int rounding, int truth) {
    const tg_column *c = s->columns + index;
    if (c->rule) tg_hold_number(c, v, rounding, truth);
    if (v != v || c->kind == TG_TIMES) { c->cells[c->count]++; return; }
    if (c->kind == TG_NAMES) {
        c->cells[truth >= 0 ? c->names->truth[truth] : tg_named_number(c, v, rounding)]++;
        return;
    }
    const double *e = s->edges[rounding] + (Py_ssize_t)index * TG_BINS;
    tg_doubles all = {v, v, v, v}, four;
    tg_words below = {0, 0, 0, 0};
    for (int i = 0; i < TG_BINS; i += 4) {
        memcpy(&four, e + i, sizeof four);
        below -= four < all;  /* true is -1 */
    }
    c->cells[below[0] + below[1] + below[2] + below[3]]++;
    tg_moments(c, v);
}

static inline double tg_half(uint16_t h) {
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
static inline double tg_brain(uint16_t h) {
    uint32_t bits = (uint32_t)h << 16;
    float found;
    memcpy(&found, &bits, 4);
    return found;
}
#define TG_DOUBLE(x) ((double)(x))
#define TG_BOOL(x) ((x) ? 1.0 : 0.0)
#define TG_NO(x) (-1)
#define TG_TRUTH(x) ((x) != 0)
#define TG_LOOP(name, type, convert, rounding, truth)                                             \
    TG_CLONES static void name(const tg_shard *s, const int32_t *columns, Py_ssize_t width,       \
                               Py_ssize_t rows, const char *data) {                               \
        for (Py_ssize_t row = 0; row < rows; row++)                                               \
            for (Py_ssize_t f = 0; f < width; f++, data += sizeof(type)) {                        \
                type x;                                                                           \
                memcpy(&x, data, sizeof x);                                                       \
                tg_count(s, columns[f], convert(x), rounding, truth(x));                          \
            }                                                                                     \
    }
TG_LOOP(tg_bool, uint8_t, TG_BOOL, 0, TG_TRUTH)
TG_LOOP(tg_uint8, uint8_t, TG_DOUBLE, 0, TG_NO)
TG_LOOP(tg_uint16, uint16_t, TG_DOUBLE, 0, TG_NO)
TG_LOOP(tg_uint32, uint32_t, TG_DOUBLE, 0, TG_NO)
TG_LOOP(tg_uint64, uint64_t, TG_DOUBLE, 0, TG_NO)
TG_LOOP(tg_int8, int8_t, TG_DOUBLE, 0, TG_NO)
TG_LOOP(tg_int16, int16_t, TG_DOUBLE, 0, TG_NO)
TG_LOOP(tg_int32, int32_t, TG_DOUBLE, 0, TG_NO)
TG_LOOP(tg_int64, int64_t, TG_DOUBLE, 0, TG_NO)
TG_LOOP(tg_fp16, uint16_t, tg_half, 2, TG_NO)
TG_LOOP(tg_fp32, float, TG_DOUBLE, 1, TG_NO)
TG_LOOP(tg_fp64, double, TG_DOUBLE, 0, TG_NO)
TG_LOOP(tg_bf16, uint16_t, tg_brain, 3, TG_NO)

/* FNV-1a, 64 bits: http://www.isthe.com/chongo/tech/comp/fnv/ */
static uint64_t tg_hash(const char *text, size_t size) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3u;
    return hash;
}
static void tg_learn(tg_names *n, const char *text, size_t size, int32_t cell) {
    uint64_t hash = tg_hash(text, size), at = hash & n->mask;
    while (n->slots[at].cell >= 0) at = (at + 1) & n->mask;
    tg_name found = {hash, text, (uint32_t)size, cell};
    n->slots[at] = found;
}
static int32_t tg_look(const tg_names *n, const char *text, size_t size) {
    uint64_t hash = tg_hash(text, size);
    for (uint64_t at = hash & n->mask; n->slots[at].cell >= 0; at = (at + 1) & n->mask) {
        const tg_name *slot = &n->slots[at];
        if (slot->hash == hash && slot->size == size && !memcmp(slot->text, text, size)) return slot->cell;
    }
    return -1;
}

/* Bytes of the blank character (str.isspace) that a text begins with; 0: it begins with none. */
static size_t tg_blank(const unsigned char *t, size_t size) {
    if (size && ((t[0] >= 0x09 && t[0] <= 0x0D) || (t[0] >= 0x1C && t[0] <= 0x20))) return 1;
    if (size > 1 && t[0] == 0xC2 && (t[1] == 0x85 || t[1] == 0xA0)) return 2;
    if (size < 3) return 0;
    if (t[0] == 0xE1 && t[1] == 0x9A && t[2] == 0x80) return 3;
    if (t[0] == 0xE3 && t[1] == 0x80 && t[2] == 0x80) return 3;
    if (t[0] != 0xE2) return 0;
    if (t[1] == 0x80 && ((t[2] >= 0x80 && t[2] <= 0x8A) || t[2] == 0xA8 || t[2] == 0xA9 || t[2] == 0xAF)) return 3;
    return t[1] == 0x81 && t[2] == 0x9F ? 3 : 0;
}
static void tg_strip(const char **text, size_t *size) {
    const unsigned char *t = (const unsigned char *)*text;
    size_t left = *size, n;
    while ((n = tg_blank(t, left)) > 0) t += n, left -= n;
    for (n = 1; n <= 3; n++)
        if (left >= n && tg_blank(t + left - n, n) == n) left -= n, n = 0;
    *text = (const char *)t;
    *size = left;
}
static int tg_is(const char *text, size_t size, const char *lower) {
    if (size != strlen(lower)) return 0;
    for (size_t i = 0; i < size; i++) {
        char c = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] + 32) : text[i];
        if (c != lower[i]) return 0;
    }
    return 1;
}
static int32_t tg_cell(const tg_column *c, const char *text, size_t size) {
    if (c->kind == TG_NUMBERS) return c->count;
    if (c->kind == TG_NAMES) {
        int32_t found = tg_look(c->names, text, size);
        if (found >= 0) return found;
    }
    tg_strip(&text, &size);
    if (!size || tg_is(text, size, "nan")) return c->count;
    if (c->kind == TG_TIMES) return 0;
    if (c->names->fold && tg_is(text, size, "true")) return c->names->truth[1];
    if (c->names->fold && tg_is(text, size, "false")) return c->names->truth[0];
    return c->count - 1;
}
static int tg_text_breaks(const tg_column *c, const char *text, size_t size) {
    const tg_rule *r = c->rule;
    if (tg_cell(c, text, size) == c->count) {
        if (c->kind != TG_NUMBERS || !r->typed) return TG_MISSING;
        tg_strip(&text, &size);
        return !size || tg_is(text, size, "nan") ? TG_MISSING : TG_SCHEMA;
    }
    if (c->kind == TG_TIMES || !r->among.names) return TG_HOLDS;
    return tg_cell(&r->among, text, size) == r->among.count - 1 ? TG_AMONG : TG_HOLDS;
}
static void tg_hold_text(const tg_column *c, const char *text, size_t size) {
    if (tg_hold(c->rule, tg_text_breaks(c, text, size)) && c->rule->sketch)
        tg_sketch(c->rule, tg_mixed(tg_hash(text, size)));
}
static uint32_t tg_size(const char *at) {
    const unsigned char *b = (const unsigned char *)at;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}
/* Elements of BYTES; -1: one is cut off. */
static Py_ssize_t tg_elements(const char *data, Py_ssize_t size) {
    Py_ssize_t found = 0;
    for (; size > 0; found++) {
        if (size < 4 || size - 4 < (Py_ssize_t)tg_size(data)) return -1;
        Py_ssize_t step = 4 + (Py_ssize_t)tg_size(data);
        data += step, size -= step;
    }
    return found;
}
static void tg_bytes(const tg_shard *s, const int32_t *columns, Py_ssize_t width, Py_ssize_t rows,
                     const char *data) {
    for (Py_ssize_t row = 0; row < rows; row++)
        for (Py_ssize_t f = 0; f < width; f++) {
            size_t size = tg_size(data);
            const tg_column *c = s->columns + columns[f];
            if (c->rule) tg_hold_text(c, data + 4, size);
            c->cells[tg_cell(c, data + 4, size)]++;
            data += 4 + size;
        }
}
typedef void (*tg_loop)(const tg_shard *, const int32_t *, Py_ssize_t, Py_ssize_t, const char *);
static const tg_loop tg_loops[] = {
    tg_bool, tg_uint8, tg_uint16, tg_uint32, tg_uint64, tg_int8, tg_int16, tg_int32, tg_int64,
    tg_fp16, tg_fp32, tg_fp64, tg_bf16, tg_bytes,
};

/* By datatype, as `tg_loops`. */
static const uint8_t tg_sizes[] = {1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 2};
static const uint8_t tg_rounding[] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 3};
static double tg_number_at(int code, const char *at) {
    union { uint8_t u8; uint16_t u16; uint32_t u32; uint64_t u64; int8_t i8; int16_t i16; int32_t i32; int64_t i64;
            float f; double d; } x;
    memcpy(&x, at, tg_sizes[code]);
    switch (code) {
        case 0: return x.u8 ? 1.0 : 0.0;
        case 1: return x.u8;
        case 2: return x.u16;
        case 3: return x.u32;
        case 4: return (double)x.u64;
        case 5: return x.i8;
        case 6: return x.i16;
        case 7: return x.i32;
        case 8: return (double)x.i64;
        case 9: return tg_half(x.u16);
        case 10: return x.f;
        case 11: return x.d;
        default: return tg_brain(x.u16);
    }
}
/* The first element that is refused, and the rule that it breaks; -1: none is. */
static Py_ssize_t tg_judge(const tg_shard *s, const int32_t *columns, Py_ssize_t width, Py_ssize_t rows,
                           const char *data, int code, int *broken) {
    for (Py_ssize_t at = 0; at < rows * width; at++) {
        const tg_column *c = s->columns + columns[at % width];
        size_t size = code == 13 ? tg_size(data) : 0;
        if (c->rule) {
            if (code == 13) *broken = tg_text_breaks(c, data + 4, size);
            else *broken = tg_number_breaks(c, tg_number_at(code, data), tg_rounding[code], code ? -1 : *data != 0);
            if (*broken > TG_MISSING || (*broken == TG_MISSING && c->rule->required)) return at;
        }
        data += code == 13 ? 4 + size : tg_sizes[code];
    }
    return -1;
}

/* The version word is odd while a call is counted (a sequence lock); fences as in Boehm 2012, "Can seqlocks get
   along with programming language memory models?". */
static void tg_begin(uint64_t *block) {
    __atomic_store_n(block, *block | 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static void tg_end(uint64_t *block) { __atomic_store_n(block, *block + 1, __ATOMIC_RELEASE); }
static void tg_snapshot(const uint64_t *block, Py_ssize_t size, char *into) {
    struct timespec pause = {0, 50000};
    for (int tries = 0; tries < 200; tries++) {
        uint64_t before = __atomic_load_n(block, __ATOMIC_ACQUIRE);
        memcpy(into, block, (size_t)size);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (!(before & 1) && before == __atomic_load_n(block, __ATOMIC_RELAXED)) {
            memcpy(into, &before, 8);
            return;
        }
        nanosleep(&pause, NULL);
    }
}

#endif
