/* A table of bad input: one field of a struct set to some bits, and how it must be refused. */
#ifndef TESTS_MISTAKE_H
#define TESTS_MISTAKE_H

#include "mha/mha.h"

typedef struct mistake {
    const char *what;
    size_t offset, bytes;
    int64_t bits;
    mha_status status;
    const char *words[3]; /* the sentence has them all: the field, its value, something of what was expected */
} mistake;

/* clang-format off */
#define MISTAKE(struct_, field, value, wanted, ...)                                                                    \
    {.what = #field " = " #value, .offset = offsetof(struct_, field), .bytes = sizeof(((struct_ *)0)->field),          \
     .bits = (value), .status = (wanted), .words = {__VA_ARGS__}}
/* clang-format on */

enum { F32_NAN = 0x7fc00000, F32_INF = 0x7f800000, F32_TINY = 1, F32_HUGE = 0x7149f2ca /* 1e30 */ }; /* as bits */

void mistake_make(const mistake *m, void *fields);

/* Fails the test unless this is the status, and the words are in the message. */
void mistake_check(const mistake *m, mha_status status, const char *message);

#endif
