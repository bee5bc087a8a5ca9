/* The optional output of scores or attention weights (ONNX's qk_matmul_output). */
#ifndef MHA_SCORES_H
#define MHA_SCORES_H

#include "mask.h"

/* Once a tile has seen all keys: turns its rows of biased scores into weights, if weights were asked for, and rounds
 * them to half precision, if that was. */
void mha_scores_finish(const mha_tile_place *place, const mha_tile *tile);

#endif
