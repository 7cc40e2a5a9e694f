/* The Lorenz system by an adaptive Bogacki-Shampine 3(2) method, up to t = 10. */
#include <math.h>

static void slope(const float y[3], float k[3]) {
    k[0] = 10.0f * (y[1] - y[0]);
    k[1] = y[0] * (28.0f - y[2]) - y[1];
    k[2] = y[0] * y[1] - 8.0f / 3.0f * y[2];
}

void lorenz(const float *start, float *out) {
    float y[3] = {start[0], start[1], start[2]}, t = 0.0f, h = 0.01f;
    while (t < 10.0f) {
        float k1[3], k2[3], k3[3], k4[3], z[3], y3[3], error = 0.0f;
        slope(y, k1);
        for (int i = 0; i < 3; i++) z[i] = y[i] + h / 2 * k1[i];
        slope(z, k2);
        for (int i = 0; i < 3; i++) z[i] = y[i] + 3 * h / 4 * k2[i];
        slope(z, k3);
        for (int i = 0; i < 3; i++) y3[i] = y[i] + h * (2.0f / 9 * k1[i] + 1.0f / 3 * k2[i] + 4.0f / 9 * k3[i]);
        slope(y3, k4);
        for (int i = 0; i < 3; i++) {
            float e = fabsf(h * (-5.0f / 72 * k1[i] + 1.0f / 12 * k2[i] + 1.0f / 9 * k3[i] - 1.0f / 8 * k4[i])) / 1e-4f;
            error = e > error ? e : error;
        }
        if (error < 1.0f) {
            t += h;
            for (int i = 0; i < 3; i++) y[i] = y3[i];
        }
        float factor = 0.9f * powf(error + 1e-10f, -1.0f / 3);
        h *= factor < 0.2f ? 0.2f : factor > 5.0f ? 5.0f : factor;
    }
    for (int i = 0; i < 3; i++) out[i] = y[i];
}
