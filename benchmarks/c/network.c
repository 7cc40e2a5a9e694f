/* Loss and gradients of a network of two layers, 64 -> 128 -> 16, on 64 examples: rectified units, squared error. */
enum { B = 64, I = 64, H = 128, O = 16 };

void network(const float *restrict x, const float *restrict target, const float *restrict w1, const float *restrict w2,
             float *restrict loss, float *restrict d1, float *restrict d2) {
    static float h[B][H], y[B][O], g[B][H];
    float total = 0.0f;
    for (int b = 0; b < B; b++) {
        for (int j = 0; j < H; j++) h[b][j] = 0.0f;
        for (int i = 0; i < I; i++)
            for (int j = 0; j < H; j++) h[b][j] += x[b * I + i] * w1[i * H + j];
        for (int j = 0; j < H; j++) h[b][j] = h[b][j] > 0.0f ? h[b][j] : 0.0f;
        for (int k = 0; k < O; k++) y[b][k] = 0.0f;
        for (int j = 0; j < H; j++)
            for (int k = 0; k < O; k++) y[b][k] += h[b][j] * w2[j * O + k];
        for (int k = 0; k < O; k++) {
            float e = y[b][k] - target[b * O + k];
            total += e * e;
            y[b][k] = 2.0f * e / (B * O);
        }
    }
    *loss = total / (B * O);
    for (int k = 0; k < H * O; k++) d2[k] = 0.0f;
    for (int k = 0; k < I * H; k++) d1[k] = 0.0f;
    for (int b = 0; b < B; b++) {
        for (int j = 0; j < H; j++)
            for (int k = 0; k < O; k++) d2[j * O + k] += h[b][j] * y[b][k];
        for (int j = 0; j < H; j++) {
            float t = 0.0f;
            for (int k = 0; k < O; k++) t += y[b][k] * w2[j * O + k];
            g[b][j] = h[b][j] > 0.0f ? t : 0.0f;
        }
        for (int i = 0; i < I; i++)
            for (int j = 0; j < H; j++) d1[i * H + j] += x[b * I + i] * g[b][j];
    }
}
