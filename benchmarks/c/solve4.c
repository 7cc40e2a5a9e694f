/* 20,000 linear systems of four unknowns by elimination with partial pivoting. */
#include <math.h>

enum { COUNT = 20000, N = 4 };

void solve4(const float *matrices, const float *rights, float *out) {
    for (long s = 0; s < COUNT; s++) {
        float a[N][N], b[N];
        for (int i = 0; i < N; i++) {
            b[i] = rights[s * N + i];
            for (int j = 0; j < N; j++) a[i][j] = matrices[(s * N + i) * N + j];
        }
        for (int k = 0; k < N; k++) {
            int p = k;
            for (int i = k + 1; i < N; i++)
                if (fabsf(a[i][k]) > fabsf(a[p][k])) p = i;
            for (int j = 0; j < N; j++) {
                float t = a[k][j];
                a[k][j] = a[p][j];
                a[p][j] = t;
            }
            float t = b[k];
            b[k] = b[p];
            b[p] = t;
            float inverse = 1.0f / a[k][k];
            for (int i = k + 1; i < N; i++) {
                float f = a[i][k] * inverse;
                for (int j = k + 1; j < N; j++) a[i][j] -= f * a[k][j];
                b[i] -= f * b[k];
            }
        }
        for (int i = N - 1; i >= 0; i--) {
            float t = b[i];
            for (int j = i + 1; j < N; j++) t -= a[i][j] * out[s * N + j];
            out[s * N + i] = t / a[i][i];
        }
    }
}
