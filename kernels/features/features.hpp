// The steps of a feature program, over a block of rows. `_features_py.py` is the specification, `_features_c.pyx` the
// caller. Nothing here allocates or calls Python.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

enum { TG_BLOCK = 256 };  // rows: 60 registers of it are 120 KB, within the second-level cache

// The order of OPS in _program.py.
enum {
    OP_FILL, OP_FILL_VALUE, OP_IS_MISSING, OP_EQUALS, OP_CHECK, OP_SUBTRACT_DIVIDE, OP_MULTIPLY_ADD, OP_CLIP,
    OP_FUNCTION, OP_BUCKET, OP_YEO_JOHNSON, OP_BOX_COX, OP_QUANTILE, OP_LOOKUP_NUMBER, OP_LOOKUP_TEXT, OP_ADD,
    OP_SUBTRACT, OP_MULTIPLY, OP_DIVIDE, OP_POWER, OP_CONSTANT, OP_PHASE, OP_TEXT_FILL, OP_TEXT_FILL_VALUE,
    OP_TEXT_IS_MISSING, OP_TEXT_EQUALS, OP_BUCKET_OF_TEXT, OP_SIGN_OF_TEXT, OP_STORE, OP_SCATTER, OP_TEXT_CHECK
};
// The order of REASONS.
enum { TG_INFINITE, TG_MISSING, TG_NOT_POSITIVE, TG_UNKNOWN, TG_TIME, TG_NUMBER, TG_TEXT, TG_BOOLEAN, TG_RANGE, TG_COLUMN };
// The order of FUNCTIONS.
enum {
    F_LOG, F_LOG1P, F_LOG2, F_LOG10, F_EXP, F_EXPM1, F_SQRT, F_SQUARE, F_ABS, F_SIN, F_COS, F_SIN_TURN, F_COS_TURN,
    F_RECIPROCAL, F_NEGATIVE, F_SIGN, F_FLOOR, F_CBRT, F_TANH
};

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
    tg_slot *slots;  // of lookup_text
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

static inline uint32_t tg_turned(uint32_t x, int by) { return x << by | x >> (32 - by); }

static inline int32_t tg_murmur3(const char *at, Py_ssize_t size) {
    uint32_t h = 0, k;
    Py_ssize_t left = size;
    for (; left >= 4; at += 4, left -= 4) {
        memcpy(&k, at, 4);
        h ^= tg_turned(k * 0xCC9E2D51u, 15) * 0x1B873593u;
        h = tg_turned(h, 13) * 5 + 0xE6546B64u;
    }
    if (left) {
        k = 0;
        for (Py_ssize_t i = 0; i < left; i++) k |= (uint32_t)(uint8_t)at[i] << (8 * i);
        h ^= tg_turned(k * 0xCC9E2D51u, 15) * 0x1B873593u;
    }
    h ^= (uint32_t)size;
    h = (h ^ h >> 16) * 0x85EBCA6Bu;
    h = (h ^ h >> 13) * 0xC2B2AE35u;
    return (int32_t)(h ^ h >> 16);
}

// ---- time

static inline int64_t tg_days(int64_t year, int64_t month) {
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
    int64_t of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static inline int tg_digits(const char *at, int count) {
    int found = 0;
    for (int i = 0; i < count; i++) {
        if (at[i] < '0' || at[i] > '9') return -1;
        found = found * 10 + (at[i] - '0');
    }
    return found;
}

// Seconds since 1970 of a time in ISO 8601; 0: it is none.
static inline int tg_seconds(const char *at, Py_ssize_t size, double *found) {
    if (size < 10 || at[4] != '-' || at[7] != '-') return 0;
    int year = tg_digits(at, 4), month = tg_digits(at + 5, 2), day = tg_digits(at + 8, 2);
    if (year < 1 || month < 1 || month > 12 || day < 1) return 0;
    int64_t first = tg_days(year, month), next = month == 12 ? tg_days(year + 1, 1) : tg_days(year, month + 1);
    if (day > next - first) return 0;
    int64_t seconds = (first + day - 1) * 86400;
    double fraction = 0;
    if (size > 10) {
        if (size < 16 || (at[10] != 'T' && at[10] != ' ') || at[13] != ':') return 0;
        int hour = tg_digits(at + 11, 2), minute = tg_digits(at + 14, 2), second = 0;
        if (hour < 0 || hour > 23 || minute < 0 || minute > 59) return 0;
        Py_ssize_t i = 16;
        if (i < size && at[i] == ':') {
            if (size < 19) return 0;
            second = tg_digits(at + 17, 2);
            if (second < 0 || second > 59) return 0;
            i = 19;
            if (i < size && at[i] == '.') {
                static const double tens[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9};
                int digits = 0;
                while (i + 1 + digits < size && at[i + 1 + digits] >= '0' && at[i + 1 + digits] <= '9') digits++;
                if (digits < 1 || digits > 9) return 0;
                fraction = tg_digits(at + i + 1, digits) / tens[digits];
                i += 1 + digits;
            }
        }
        seconds += hour * 3600 + minute * 60 + second;
        if (i < size && at[i] == 'Z') i++;
        else if (i < size) {
            if (size - i != 6 || (at[i] != '+' && at[i] != '-') || at[i + 3] != ':') return 0;
            int hours = tg_digits(at + i + 1, 2), minutes = tg_digits(at + i + 4, 2);
            if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59) return 0;
            int shift = hours * 3600 + minutes * 60;
            seconds += at[i] == '-' ? shift : -shift;
            i += 6;
        }
        if (i != size) return 0;
    }
    *found = (double)seconds + fraction;
    return 1;
}

static inline double tg_phase(double t, int period) {
    static const double lengths[] = {60, 3600, 86400, 604800};
    if (!std::isfinite(t)) return NAN;
    if (period < 4) {
        double length = lengths[period], shifted = period == 3 ? t + 259200.0 : t;
        return (shifted - std::floor(shifted / length) * length) / length;
    }
    if (std::fabs(t) > 1e14) return NAN;
    int64_t days = (int64_t)std::floor(t / 86400.0) + 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097, of_era = days - era * 146097;
    int64_t year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t shifted = (5 * of_year + 2) / 153, month = shifted < 10 ? shifted + 3 : shifted - 9;
    int64_t year = year_of_era + era * 400 + (month <= 2);
    int64_t start = period == 5 ? tg_days(year, 1) : tg_days(year, month);
    int64_t end = period == 5 || month == 12 ? tg_days(year + 1, 1) : tg_days(year, month + 1);
    return (t - (double)start * 86400.0) / ((double)(end - start) * 86400.0);
}

// ---- numbers

static inline double tg_function(int name, double a) {
    const double turn = 2 * 3.141592653589793;
    switch (name) {
        case F_LOG: return std::log(a);
        case F_LOG1P: return std::log1p(a);
        case F_LOG2: return std::log2(a);
        case F_LOG10: return std::log10(a);
        case F_EXP: return std::exp(a);
        case F_EXPM1: return std::expm1(a);
        case F_SQRT: return std::sqrt(a);
        case F_SQUARE: return a * a;
        case F_ABS: return std::fabs(a);
        case F_SIN: return std::sin(a);
        case F_COS: return std::cos(a);
        case F_SIN_TURN: return std::sin(turn * a);
        case F_COS_TURN: return std::cos(turn * a);
        case F_RECIPROCAL: return 1.0 / a;
        case F_NEGATIVE: return -a;
        case F_SIGN: return a > 0 ? 1.0 : a < 0 ? -1.0 : a;
        case F_FLOOR: return std::floor(a);
        case F_CBRT: return std::cbrt(a);
        default: return std::tanh(a);
    }
}

static inline double tg_yeo_johnson(double a, double power) {
    const double eps = 2.220446049250313e-16;
    if (a != a) return a;
    if (a >= 0) return std::fabs(power) < eps ? std::log1p(a) : std::expm1(power * std::log1p(a)) / power;
    return std::fabs(power - 2) > eps ? -std::expm1((2 - power) * std::log1p(-a)) / (2 - power) : -std::log1p(-a);
}

static inline double tg_box_cox(double a, double power) {
    if (std::fabs(power) < 1e-19) return std::log(a);
    double scaled = power * std::log(a);
    if (scaled < 709.78) return std::expm1(scaled) / power;
    return std::copysign(1.0, power) * std::exp(scaled - std::log(std::fabs(power))) - 1 / power;
}

// How many of the ascending numbers are at or below x (np.searchsorted, side="right").
static inline int tg_at_or_below(const double *numbers, int count, double x) {
    int low = 0, high = count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (x < numbers[middle]) high = middle;
        else low = middle + 1;
    }
    return low;
}

// np.interp; `sign` -1 does it on both arrays negated and turned round.
static inline double tg_interpolate(double x, const double *xs, const double *ys, int count, double sign) {
    int at;
    if (sign > 0) at = tg_at_or_below(xs, count, x) - 1;
    else {  // of -xs[count-1] .. -xs[0], how many are at or below x: of xs, how many are at or above -x
        int low = 0, high = count;
        while (low < high) {
            int middle = (low + high) / 2;
            if (xs[middle] < -x) low = middle + 1;
            else high = middle;
        }
        at = count - low - 1;
    }
    #define TG_X(i) (sign > 0 ? xs[i] : -xs[count - 1 - (i)])
    #define TG_Y(i) (sign > 0 ? ys[i] : -ys[count - 1 - (i)])
    if (at < 0) return TG_Y(0);
    if (at >= count - 1) return TG_Y(count - 1);
    if (TG_X(at) == x) return TG_Y(at);
    double slope = (TG_Y(at + 1) - TG_Y(at)) / (TG_X(at + 1) - TG_X(at));
    return slope * (x - TG_X(at)) + TG_Y(at);
    #undef TG_X
    #undef TG_Y
}

static inline double tg_ratio(const double *over, const double *under, double r) {
    double p = 0, q = 0;
    for (int i = 7; i >= 0; i--) p = p * r + over[i], q = q * r + under[i];
    return p / q;
}

// Wichura's AS 241, PPND16.
static inline double tg_normal_quantile(double p) {
    static const double near[2][8] = {
        {3.3871328727963666080, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
         4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3},
        {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
         3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3}};
    static const double middle[2][8] = {
        {1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550, 3.64784832476320460504,
         1.27045825245236838258, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4},
        {1.0, 2.05319162663775882187, 1.67638483018380384940, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
         1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9}};
    static const double far[2][8] = {
        {6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580, 2.96560571828504891230e-1,
         2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7},
        {1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
         7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15}};
    double q = p - 0.5;
    if (std::fabs(q) <= 0.425) return q * tg_ratio(near[0], near[1], 0.180625 - q * q);
    double r = q < 0 ? p : 1 - p;
    if (r <= 0) return std::copysign(INFINITY, q);
    r = std::sqrt(-std::log(r));
    double found = r <= 5 ? tg_ratio(middle[0], middle[1], r - 1.6) : tg_ratio(far[0], far[1], r - 5);
    return q < 0 ? -found : found;
}

static inline double tg_quantile(double a, const double *numbers, int count, int normal) {
    const double close = 1e-7;  // scikit-learn's BOUNDS_THRESHOLD
    if (a != a) return a;
    const double *xs = numbers, *ys = numbers + count;
    double first = xs[0], last = xs[count - 1];
    bool low = normal ? a - close < first : a == first, high = normal ? a + close > last : a == last;
    double share = low ? 0.0
                   : high ? 1.0
                          : 0.5 * (tg_interpolate(a, xs, ys, count, 1) - tg_interpolate(-a, xs, ys, count, -1));
    if (!normal) return share;
    double found = tg_normal_quantile(share);
    return found < -5.199337582605575 ? -5.199337582605575 : found > 5.19933758270342 ? 5.19933758270342 : found;
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

static inline void tg_lookup_text(tg_call *call, const tg_step *s, double *d) {
    const tg_text *t = call->texts + s->a * call->block;
    double missing = s->numbers[s->texts_count], rest = s->numbers[s->texts_count + 1];
    for (Py_ssize_t i = 0; i < call->rows; i++) {
        if (t[i].size < 0) {
            d[i] = missing;
            if (s->integers[0]) tg_refuse(call, i, s->column, TG_MISSING);
            continue;
        }
        uint64_t key = tg_key(t[i].at, t[i].size);
        uint32_t slot = tg_slot_of(key, t[i].size) & s->mask;
        const tg_slot *have;
        for (; (have = s->slots + slot)->size >= 0; slot = (slot + 1) & s->mask)
            if (tg_equal(have, key, t[i].at, t[i].size)) break;
        bool found = have->size >= 0;
        d[i] = found ? s->numbers[have->place] : rest;
        if (!found && s->integers[1]) tg_refuse(call, i, s->column, TG_UNKNOWN);
    }
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
        }
    }
}
#undef TG_EACH
