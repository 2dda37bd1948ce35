// Times of feature programs; `_times.py` is the specification.
#pragma once

#include <cmath>
#include <cstdint>

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
