/* For tests on CPUs without AMX (-Demulate=true): its tiles in C. */

static _Thread_local struct {
    bool open;
    float tile[8][16][16];
} emulated;

static inline void tiles_open(void) { emulated.open = true; }
static inline void tiles_close(void) { emulated.open = false; }

/* What hardware does without a configuration. */
static inline void expect_open(void) {
    if (!emulated.open) __builtin_trap();
}

static void tile_zero(int t) {
    expect_open();
    memset(emulated.tile[t], 0, sizeof emulated.tile[t]);
}
static void tile_load(int t, const void *p, int64_t stride) {
    expect_open();
    for (int i = 0; i < 16; i++) memcpy(emulated.tile[t][i], (const char *)p + i * stride, 64);
}
static void tile_store(int t, void *p, int64_t stride) {
    expect_open();
    for (int i = 0; i < 16; i++) memcpy((char *)p + i * stride, emulated.tile[t][i], 64);
}
static void tile_dot(int c, int a, int b) {
    expect_open();
    for (int i = 0; i < 16; i++) {
        vf sum = v_load(emulated.tile[c][i]);
        for (int k = 0; k < 16; k++) sum = v_dot(v_set1(emulated.tile[a][i][k]), v_load(emulated.tile[b][k]), sum);
        v_store(emulated.tile[c][i], sum);
    }
}
