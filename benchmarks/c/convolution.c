/* A convolution by 3 x 3 with zeros around: 4 images of 16 channels, 32 by 32, into 32 channels. Rows of four channels of the result are
   summed in registers; the images are copied with a margin first, so that no loop asks where the edge is. */
enum { B = 4, C = 16, K = 32, N = 32, KK = 4 };

void convolution(const float *restrict x, const float *restrict w, float *restrict out) {
    static float padded[C][N + 2][N + 2];
    for (int b = 0; b < B; b++) {
        for (int c = 0; c < C; c++)
            for (int i = 0; i < N; i++)
                for (int j = 0; j < N; j++) padded[c][i + 1][j + 1] = x[((b * C + c) * N + i) * N + j];
        for (int k = 0; k < K; k += KK)
            for (int i = 0; i < N; i++) {
                float sum[KK][N] = {{0.0f}};
                for (int c = 0; c < C; c++)
                    for (int di = 0; di < 3; di++)
                        for (int dj = 0; dj < 3; dj++)
                            for (int m = 0; m < KK; m++) {
                                float f = w[(((k + m) * C + c) * 3 + di) * 3 + dj];
                                for (int j = 0; j < N; j++) sum[m][j] += f * padded[c][i + di][j + dj];
                            }
                for (int m = 0; m < KK; m++)
                    for (int j = 0; j < N; j++) out[((b * K + k + m) * N + i) * N + j] = sum[m][j];
            }
    }
}
