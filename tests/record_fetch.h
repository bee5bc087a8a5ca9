/* Included before all else where kernels are compiled once more for test_fetch.c: what they fetch is recorded. */
#ifndef TESTS_RECORD_FETCH_H
#define TESTS_RECORD_FETCH_H

void mha_record_fetch(const void *address);

#define __builtin_prefetch(address, ...) mha_record_fetch(address)

#endif
