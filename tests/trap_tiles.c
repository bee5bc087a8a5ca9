/* After "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 2: VEX.128.0F38.W0 49, 4B and 5C. */
#define _GNU_SOURCE
#include "trap_tiles.h"

#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

static struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} config;
static uint8_t tile[TILES][ROWS][ROW_BYTES];

bool trapped_tiles_open(void) { return config.palette != 0; }

static void refuse(const char *why) {
    (void)!write(STDERR_FILENO, why, strlen(why));
    _exit(1);
}

static void expect(bool condition, const char *why) {
    if (!condition) refuse(why);
}

typedef struct instruction {
    int opcode, prefix; /* 0: none, 1: 66, 2: F3, 3: F2 */
    int reg, rm, vvvv;  /* rm -1: memory, */
    uintptr_t address, stride;
    const uint8_t *end;
} instruction;

static const int register_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* What follows ModRM of a memory operand.  The stride is the scaled index, which LDTILECFG has none of. */
static void decode_address(instruction *i, const greg_t *r, int mod, int rm, int high_base, int high_index) {
    int base = rm | high_base;
    bool has_base = !(mod == 0 && rm == 5), relative = !has_base;
    if (rm == 4) {
        const int sib = *i->end++, index = (sib >> 3 & 7) | high_index;
        base = (sib & 7) | high_base;
        has_base = !(mod == 0 && (sib & 7) == 5);
        if (index != 4) i->stride = (uintptr_t)r[register_of[index]] << (sib >> 6);
    }
    int32_t displacement = 0;
    if (mod == 1) displacement = (int8_t)*i->end++;
    if (mod == 2 || !has_base) memcpy(&displacement, i->end, 4), i->end += 4;
    i->address = (uintptr_t)(int64_t)displacement;
    if (has_base) i->address += (uintptr_t)r[register_of[base]];
    if (relative) i->address += (uintptr_t)i->end; /* nothing follows a displacement */
}

static instruction decode(const greg_t *r) {
    const uint8_t *code = (const uint8_t *)(uintptr_t)r[REG_RIP];
    expect(code[0] == 0xc4 && (code[1] & 0x1f) == 2 && (code[2] & 0x84) == 0, "not an instruction of AMX\n");
    const int modrm = code[4];
    instruction i = {.opcode = code[3],
                     .prefix = code[2] & 3,
                     .reg = modrm >> 3 & 7,
                     .rm = modrm & 7,
                     .vvvv = ~code[2] >> 3 & 15,
                     .end = code + 5};
    if (modrm >> 6 == 3) return i;
    decode_address(&i, r, modrm >> 6, modrm & 7, (code[1] & 0x20) != 0 ? 0 : 8, (code[1] & 0x40) != 0 ? 0 : 8);
    i.rm = -1;
    return i;
}

static void configure(uintptr_t from) {
    memcpy(&config, (const void *)from, sizeof config);
    memset(tile, 0, sizeof tile);
    expect(config.palette == 1, "LDTILECFG: not palette 1\n");
    expect(config.start_row == 0, "LDTILECFG: a start row\n");
    for (int i = 0; i < 14; i++) expect(config.reserved[i] == 0, "LDTILECFG: a reserved byte is set\n");
    for (int t = 0; t < 16; t++) {
        expect(config.rows[t] <= (t < TILES ? ROWS : 0), "LDTILECFG: too many rows\n");
        expect(config.row_bytes[t] <= (t < TILES ? ROW_BYTES : 0), "LDTILECFG: rows too long\n");
        expect((config.rows[t] == 0) == (config.row_bytes[t] == 0), "LDTILECFG: rows or bytes, but not both\n");
    }
}

static int rows_of(int t) {
    expect(config.palette != 0, "tiles are not configured\n");
    expect(config.rows[t] != 0, "this tile is not configured\n");
    return config.rows[t];
}

static float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

/* An element of a pair of bf16. */
static float half_of(const uint8_t *pair, int which) {
    uint32_t bits = (uint32_t)pair[2 * which] << 16 | (uint32_t)pair[2 * which + 1] << 24;
    float x;
    memcpy(&x, &bits, sizeof x);
    return flushed(x);
}

/* C += A B.  Products of two bf16 are exact, so they need no FMA. */
static void dot(int c, int a, int b) {
    expect(rows_of(c) == rows_of(a) && config.row_bytes[a] == 4 * rows_of(b), "TDPBF16PS: sizes do not fit\n");
    expect(config.row_bytes[c] == config.row_bytes[b], "TDPBF16PS: sizes do not fit\n");
    expect(c != a && c != b && a != b, "TDPBF16PS: the same tile twice\n");
    for (int i = 0; i < rows_of(c); i++)
        for (int j = 0; j < config.row_bytes[c] / 4; j++) {
            float sum[2] = {0, 0}, total;
            for (int k = 0; k < rows_of(b); k++)
                for (int which = 0; which < 2; which++) {
                    const float x = half_of(&tile[a][i][4 * k], which), y = half_of(&tile[b][k][4 * j], which);
                    sum[which] = flushed(sum[which] + x * y);
                }
            memcpy(&total, &tile[c][i][4 * j], sizeof total);
            total = flushed(flushed(total) + flushed(sum[0] + sum[1]));
            memcpy(&tile[c][i][4 * j], &total, sizeof total);
        }
}

static void move(const instruction *i, bool load) {
    for (int row = 0; row < rows_of(i->reg); row++) {
        void *memory = (void *)(i->address + (uintptr_t)row * i->stride);
        if (load) memcpy(tile[i->reg][row], memory, config.row_bytes[i->reg]);
        else memcpy(memory, tile[i->reg][row], config.row_bytes[i->reg]);
    }
}

static void on_illegal(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const instruction i = decode(registers);
    (void)signal, (void)info;
    const int what = i.opcode << 8 | i.prefix << 4 | (i.rm == -1);
    switch (what) {
    case 0x4901: configure(i.address); break;              /* LDTILECFG */
    case 0x4900: memset(&config, 0, sizeof config); break; /* TILERELEASE */
    case 0x4930:                                           /* TILEZERO */
        (void)rows_of(i.reg);
        memset(tile[i.reg], 0, sizeof tile[i.reg]);
        break;
    case 0x4b11:                                  /* TILELOADDT1 */
    case 0x4b31: move(&i, true); break;           /* TILELOADD */
    case 0x4b21: move(&i, false); break;          /* TILESTORED */
    case 0x5c20: dot(i.reg, i.rm, i.vvvv); break; /* TDPBF16PS */
    default: refuse("another instruction of AMX\n");
    }
    registers[REG_RIP] = (greg_t)(uintptr_t)i.end;
}

void trap_tiles(void) {
    struct sigaction action = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGILL, &action, NULL);
}
