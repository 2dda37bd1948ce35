// B-spline basis functions of feature programs; `_splines_py.py` is the specification.
#pragma once

#include <cmath>

#include "numbers.hpp"

enum { TG_MOST_DEGREE = 8 };  // MOST_DEGREE in _judge.py
enum { TG_LINEAR, TG_CONTINUE, TG_PERIODIC };

static inline double tg_spline(double x, const double *knots, int count, const int *integers) {
    if (x != x) return x;
    const int degree = integers[0], column = integers[1], columns = integers[2], outside = integers[3];
    const double first = knots[degree], last = knots[count - degree - 1];
    if (outside == TG_PERIODIC) {
        double over = x - first;
        if (std::isinf(over)) return NAN;
        over = std::fmod(over, last - first);
        x = first + (over < 0 ? over + (last - first) : over);
    } else if (outside == TG_LINEAR && !(first <= x && x <= last)) {
        const double *end = knots + count + (x < first ? 0 : 2);
        return end[1] != 0 ? end[0] + (x - (x < first ? first : last)) * end[1] : end[0];
    }
    int at = tg_at_or_below(knots, count, x) - 1;
    if (at > count - degree - 2) at = count - degree - 2;
    if (at < degree) at = degree;
    double h[TG_MOST_DEGREE + 1] = {1.0}, before[TG_MOST_DEGREE + 1];
    for (int j = 1; j <= degree; j++) {
        for (int n = 0; n < j; n++) before[n] = h[n];
        h[0] = 0.0;
        for (int n = 1; n <= j; n++) {
            double right = knots[at + n], left = knots[at + n - j];
            if (right == left) {
                h[n] = 0.0;
                continue;
            }
            double w = before[n - 1] / (right - left);
            h[n - 1] += w * (right - x);
            h[n] = w * (x - left);
        }
    }
    double total = 0.0;
    for (int n = 0; n <= degree; n++)
        if ((at - degree + n) % columns == column) total += h[n];
    return total;
}
