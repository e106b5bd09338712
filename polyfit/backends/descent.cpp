// Descent on the squared loss of S series, update by update, in one loop for each series. It computes what
// polyfit.training.quadratic and polyfit.optimizers compute. Compiled for one number of coefficients P and one rule RULE;
// see polyfit.backends.native.
//
//     e = c - reference,    gradient = H e + gradient at the reference,    c, memory = rule(c, gradient, memory)
//
// All arrays are dense and row-major; memory of the rule is (S, MEMORY, P).

#include <cmath>
#include <cstdint>

enum Rule {
    sgd, momentum, nesterov, adam, adamw, rmsprop, rmsprop_momentum, rmsprop_centered, rmsprop_centered_momentum
};
constexpr Rule rule = RULE;
constexpr bool is_adam = rule == adam || rule == adamw;
constexpr bool has_momentum = rule == momentum || rule == nesterov || rule == rmsprop_momentum
    || rule == rmsprop_centered_momentum;
constexpr bool is_centered = rule == rmsprop_centered || rule == rmsprop_centered_momentum;
constexpr bool is_rmsprop = rule >= rmsprop;
constexpr int MEMORY = is_adam ? 2 : int(is_rmsprop) + int(is_centered) + int(has_momentum);

// One update; constants are those of Rule.kernel, lr, a and b a row of its table.
static inline void update(double *c, const double *gradient, double *memory, const double *constants, double lr,
                          double a, double b) {
    const double decay = constants[0];
    for (int k = 0; k < P; ++k) {
        double g = gradient[k];
        if constexpr (rule == adamw) c[k] *= 1.0 - lr * decay;
        else g += decay * c[k];
        if constexpr (is_adam) {
            double &mean = memory[k], &square = memory[P + k];
            mean += (1.0 - constants[1]) * (g - mean);
            square = constants[2] * square + (1.0 - constants[2]) * (g * g);
            c[k] -= (lr * a) * (mean / (std::sqrt(square) * b + constants[3]));
        } else if constexpr (is_rmsprop) {
            double &square = memory[k];
            square = constants[1] * square + (1.0 - constants[1]) * (g * g);
            double size = square;
            if constexpr (is_centered) {
                double &mean = memory[P + k];
                mean += (1.0 - constants[1]) * (g - mean);
                size -= mean * mean;
            }
            double step = g / (std::sqrt(size) + constants[3]);
            if constexpr (has_momentum) {
                double &kept = memory[(MEMORY - 1) * P + k];
                step = kept = constants[2] * kept + step;
            }
            c[k] -= lr * step;
        } else if constexpr (has_momentum) {
            double &kept = memory[k];
            kept = a * kept + b * g;
            c[k] -= lr * (rule == nesterov ? g + constants[1] * kept : kept);
        } else {
            c[k] -= lr * g;
        }
    }
}

extern "C" void descend(
    int64_t first_series, int64_t stop_series, int64_t n_series,
    const double *hessian,      // (S, P, P)
    const double *reference,    // (S, P)
    const double *slope,        // (S, P), the gradient at the reference
    const double *base,         // (S,), the loss at the center
    const double *to_internal,       // (S or 1, P, P), to the internal basis,
    const double *internal_hessian,  // (S, P, P), where the Hessian is well conditioned
    const double *offset,            // (S, P), internal coefficients of the reference less those of the center
    const double *internal_slope,    // (S, P), the gradient at the center in the internal basis
    const double *constants,    // (4,)
    int64_t stride_internal,    // from series to series of to_internal, 0 for (1, P, P)
    const double *table,        // (epochs, 3)
    const double *lr_scale,     // (S,), or null
    int64_t first, const int64_t *last, int64_t every,
    double *coef, double *memory,                 // changed
    double *losses, double *norms, double *path   // out (R, S), (R, S), (R, S, P) or null
) {
    const int64_t first_record = (first + every - 1) / every * every;
    for (int64_t s = first_series; s < stop_series; ++s) {
        double h[P][P], r[P], q[P], c[P], m[(MEMORY ? MEMORY : 1) * P];
        for (int j = 0; j < P; ++j) {
            r[j] = reference[s * P + j], q[j] = slope[s * P + j], c[j] = coef[s * P + j];
            for (int k = 0; k < P; ++k) h[j][k] = hessian[(s * P + j) * P + k];
        }
        for (int j = 0; j < MEMORY * P; ++j) m[j] = memory[s * MEMORY * P + j];
        const double scale = lr_scale ? lr_scale[s] : 1.0;
        int64_t record = first_record;
        for (int64_t epoch = first; epoch < last[s]; ++epoch) {
            double e[P], g[P];
            for (int k = 0; k < P; ++k) e[k] = c[k] - r[k];
            for (int j = 0; j < P; ++j) g[j] = q[j];
            for (int k = 0; k < P; ++k)  // by columns: P independent sums
                for (int j = 0; j < P; ++j) g[j] += h[k][j] * e[k];
            if (epoch == record) {
                const int64_t row = (record - first_record) / every * n_series + s;
                double internal[P], loss = base[s], square = 0.0;
                for (int j = 0; j < P; ++j) {
                    internal[j] = offset[s * P + j];
                    for (int k = 0; k < P; ++k) internal[j] += to_internal[s * stride_internal + j * P + k] * e[k];
                }
                for (int j = 0; j < P; ++j) {
                    double part = 0.0;
                    for (int k = 0; k < P; ++k) part += internal_hessian[(s * P + j) * P + k] * internal[k];
                    loss += internal[j] * (internal_slope[s * P + j] + 0.5 * part);
                    square += g[j] * g[j];
                    if (path) path[row * P + j] = c[j];
                }
                losses[row] = loss;
                norms[row] = std::sqrt(square);
                record += every;
            }
            const double *now = table + 3 * (epoch - first);
            update(c, g, m, constants, now[0] * scale, now[1], now[2]);
        }
        for (int j = 0; j < P; ++j) coef[s * P + j] = c[j];
        for (int j = 0; j < MEMORY * P; ++j) memory[s * MEMORY * P + j] = m[j];
    }
}
