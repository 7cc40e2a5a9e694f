/* A step of diffusion with a reaction on a grid of 1024 by 1024 whose edges are zero: one pass over memory. */
enum { N = 1024 };

void diffusion(const float *restrict u, float *restrict out) {
    for (int j = 0; j < N; j++) out[j] = out[(N - 1) * N + j] = 0.0f;
    for (int i = 1; i < N - 1; i++) {
        out[i * N] = 0.0f;
        for (int j = 1; j < N - 1; j++) {
            float x = u[i * N + j];
            float around = u[(i - 1) * N + j] + u[(i + 1) * N + j] + u[i * N + j - 1] + u[i * N + j + 1];
            out[i * N + j] = x + 0.1f * (around - 4.0f * x) + 0.01f * x * (1.0f - x);
        }
        out[i * N + N - 1] = 0.0f;
    }
}
