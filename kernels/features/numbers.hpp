// Arithmetic of feature programs; `_numbers_py.py` is the specification.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// The order of FUNCTIONS.
enum {
    F_LOG, F_LOG1P, F_LOG2, F_LOG10, F_EXP, F_EXPM1, F_SQRT, F_SQUARE, F_ABS, F_SIN, F_COS, F_SIN_TURN, F_COS_TURN,
    F_RECIPROCAL, F_NEGATIVE, F_SIGN, F_FLOOR, F_CBRT, F_TANH
};

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
