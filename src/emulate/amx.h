/* For tests on CPUs without AMX (-Demulate=true): its tiles in C. */

static _Thread_local struct {
    bool open;
    float tile[8][16][16];
} emulated;

/* What hardware does without a configuration; and a task that leaves one is an error as well. */
static inline void expect_open(bool open) {
    if (emulated.open != open) __builtin_trap();
}

static inline void tiles_open(void) {
    expect_open(false);
    emulated.open = true;
}
static inline void tiles_close(void) { emulated.open = false; }

static void tile_zero(int t) {
    expect_open(true);
    memset(emulated.tile[t], 0, sizeof emulated.tile[t]);
}
static void tile_load(int t, const void *p, int64_t stride) {
    expect_open(true);
    for (int i = 0; i < 16; i++) memcpy(emulated.tile[t][i], (const char *)p + i * stride, 64);
}
#define tile_load_once(t, p, stride) tile_load(t, p, stride)
static void tile_store(int t, void *p, int64_t stride) {
    expect_open(true);
    for (int i = 0; i < 16; i++) memcpy((char *)p + i * stride, emulated.tile[t][i], 64);
}
static void tile_dot(int c, int a, int b) {
    expect_open(true);
    for (int i = 0; i < 16; i++) {
        vf sum = v_load(emulated.tile[c][i]);
        for (int k = 0; k < 16; k++) sum = v_dot(v_set1(emulated.tile[a][i][k]), v_load(emulated.tile[b][k]), sum);
        v_store(emulated.tile[c][i], sum);
    }
}
