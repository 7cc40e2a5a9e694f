/* A million weights added into a thousand bins. */
enum { COUNT = 1000000, BINS = 1000 };

void histogram(const int *bins, const float *weights, float *out) {
    for (int k = 0; k < BINS; k++) out[k] = 0.0f;
    for (int k = 0; k < COUNT; k++) out[bins[k]] += weights[k];
}
