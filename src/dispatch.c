/* Kernel rows and CPU features in, the kernels of a context out. */
#include "context.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One of the two kinds of rows. */
typedef struct kernel_row {
    const char *isa;
    const mha_kernels *kernels;
    const mha_bf16_kernels *bf16;
    uint32_t features, pays; /* that it needs; with which it is chosen unasked */
} kernel_row;

static const kernel_row rows[] = {
#define MHA_KERNEL_ROW(isa, features)     {#isa, &mha_kernels_f32_##isa, NULL, (features), 0},
#define MHA_BF16_ROW(isa, features, pays) {#isa, NULL, &mha_kernels_bf16_##isa, (features), (pays)},
#include "kernels.inc"
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

static bool runs_on(const kernel_row *row, uint32_t cpu) { return (row->features & ~cpu) == 0; }

static bool pays_on(const kernel_row *row, uint32_t cpu) { return ((row->features | row->pays) & ~cpu) == 0; }

size_t mha_isa_list(mha_isa *isas, size_t capacity) {
    const uint32_t cpu = mha_cpu_detect();
    for (size_t i = 0; i < N_ROWS && i < capacity; i++)
        isas[i] = (mha_isa){.name = rows[i].isa, .supported = runs_on(&rows[i], cpu)};
    return N_ROWS;
}

size_t mha_cpu_features(char *text, size_t text_bytes) {
    static const struct {
        uint32_t feature;
        const char *name;
    } names[] = {
#define MHA_CPU_NAME(name, bit, text) {MHA_CPU_##name, text},
        MHA_CPU_FEATURES(MHA_CPU_NAME)
#undef MHA_CPU_NAME
    };
    const uint32_t cpu = mha_cpu_detect();
    size_t length = 0;
    if (text_bytes > 0) text[0] = '\0';
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if ((cpu & names[i].feature) == 0) continue;
        const size_t room = length < text_bytes ? text_bytes - length : 0;
        length += (size_t)snprintf(room > 0 ? text + length : NULL, room, "%s%s", length > 0 ? " " : "", names[i].name);
    }
    return length;
}

/* The row's kernels, and what it lacks of those before it. */
static mha_choice choice_of(const kernel_row *row, uint32_t cpu) {
    mha_choice choice = {.isa = row->isa, .bf16 = row->bf16};
    for (const kernel_row *r = rows; r <= row; r++)
        if (r->kernels != NULL && runs_on(r, cpu)) choice.kernels = r->kernels;
    return choice;
}

static mha_status choose_named(const char *source, const char *name, mha_choice *choice, mha_message message) {
    const uint32_t cpu = mha_cpu_detect();
    for (const kernel_row *row = rows; row < rows + N_ROWS; row++) {
        if (strcmp(row->isa, name) != 0) continue;
        if (!runs_on(row, cpu))
            return mha_say(message, MHA_UNSUPPORTED,
                           "%s is \"%s\", which this CPU or operating system cannot run, expected one that "
                           "mha_isa_list reports as supported",
                           source, name);
        *choice = choice_of(row, cpu);
        return MHA_OK;
    }
    char known[256] = "";
    for (int i = 0; i < N_ROWS; i++) {
        const size_t length = strlen(known);
        snprintf(known + length, sizeof known - length, "%s%s", i > 0 ? ", " : "", rows[i].isa);
    }
    return mha_say(message, MHA_INVALID_ARGUMENT, "%s is \"%s\", expected one of %s", source, name, known);
}

mha_status mha_choose_kernels(const char *isa, mha_choice *choice, mha_message message) {
    if (isa != NULL) return choose_named("isa", isa, choice, message);
    const char *environment = getenv("MHA_ISA");
    if (environment != NULL && environment[0] != '\0') return choose_named("MHA_ISA", environment, choice, message);
    const uint32_t cpu = mha_cpu_detect();
    const kernel_row *best = rows;
    for (const kernel_row *row = rows; row < rows + N_ROWS; row++)
        if (pays_on(row, cpu)) best = row;
    *choice = choice_of(best, cpu);
    return MHA_OK;
}
