/* libmha: exact multi-head attention on CPUs.  SPDX-License-Identifier: MIT
 *
 *     head_i    = softmax(Q_i K_i^T * scale) V_i
 *     MultiHead = Concat(head_1 ... head_h) Wo
 *
 * as in "Attention Is All You Need" (Vaswani et al., 2017, section 3.2), with the semantics of ONNX operator
 * Attention (opset 25) where that standard speaks.  docs/numerics.md states error bounds and every special case.
 *
 * Conventions, true for every function here:
 * - Sizes and strides count elements, never bytes, unless a name ends in _bytes.  Strides are signed.
 * - Nothing is global.  A context or layer may be used by any number of threads at once; destroy it when none does.
 * - Arguments are checked before a byte of output is written.
 * - The caller owns all it passes in; the library keeps no pointer after a call returns, except where said.
 * - Structs named _options, _args, _desc and _cache open with struct_size, so that they can grow; all others stay as
 *   they are.  Fill those with their _init function, then set fields.
 *   A smaller struct than the library knows gets defaults for the rest; of a larger one the unknown tail must be zero,
 *   otherwise it asks for something this version cannot do (MHA_UNSUPPORTED).
 */
#ifndef MHA_MHA_H
#define MHA_MHA_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(MHA_BUILDING_SHARED)
#define MHA_API __declspec(dllexport)
#elif defined(__GNUC__)
#define MHA_API __attribute__((visibility("default")))
#else
#define MHA_API
#endif

#define MHA_VERSION_MAJOR 0 /* of this header; mha_version tells the library's */
#define MHA_VERSION_MINOR 1 /* likewise */
#define MHA_VERSION_PATCH 0 /* likewise */

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status --------------------------------------------------------------------------------------------------- */

/* What functions return; outputs are written only with MHA_OK. */
typedef enum mha_status {
    MHA_OK = 0,                  /* done */
    MHA_INVALID_ARGUMENT = 1,    /* a field contradicts itself or another; the check functions say which */
    MHA_UNSUPPORTED = 2,         /* well formed, but this version, build or CPU cannot do it */
    MHA_WORKSPACE_TOO_SMALL = 3, /* fewer bytes than the function that tells them asked for */
    MHA_OUT_OF_MEMORY = 4        /* only from functions that create a context or a layer */
} mha_status;

/* A constant English phrase for a status. */
MHA_API const char *mha_status_string(mha_status status);

/* "major.minor.patch" of the library that is linked, by semantic versioning. */
MHA_API const char *mha_version(void);

/* ---- instruction sets ----------------------------------------------------------------------------------------- */

/* An instruction set that this build has kernels for. */
typedef struct mha_isa {
    const char *name; /* "scalar", "avx2", "avx512", "avx512bf16", "amx", "neon", "neonbf16": what MHA_ISA and
                         mha_context_options.isa take */
    bool supported;   /* this CPU and operating system can run it */
} mha_isa;

/* Writes up to `capacity` of the instruction sets this build has kernels for, slowest first; returns how many exist. */
MHA_API size_t mha_isa_list(mha_isa *isas, size_t capacity);

/* Writes the CPU features that were detected (and that the operating system saves), separated by blanks, into
 * text[0..text_bytes), always terminated.  Returns the length that the whole text has. */
MHA_API size_t mha_cpu_features(char *text, size_t text_bytes);

/* ---- context: which kernels to use ------------------------------------------------------------------------------ */

/* A choice of kernels, never changed after its creation.  Opaque. */
typedef struct mha_context mha_context;

/* How exp is computed; docs/numerics.md has the bounds, and what AMX does where weights become bf16. */
typedef enum mha_exp {
    MHA_EXP_AUTO = 0,  /* the faster one where its bound holds: fused */
    MHA_EXP_SLEEF = 1, /* SLEEF's exp, a call per vector, at most 1.0 ULP */
    MHA_EXP_FUSED = 2  /* evaluated inside the softmax loop, at most 1.1 ULP */
} mha_exp;

/* How exactly products of operands that are no bf16 are computed, named as PyTorch's float32 matmul precision.  Where
 * the CPU multiplies bf16 no faster, the more exact one runs; mha_attention_describe and mha_layer_describe say what does. */
typedef enum mha_precision {
    MHA_PRECISION_HIGHEST = 0, /* as f32 computes them */
    MHA_PRECISION_HIGH = 1,    /* of f32 operands 16 bits count, or more */
    MHA_PRECISION_MEDIUM = 2   /* operands, f16 ones too, are rounded to bf16 */
} mha_precision;

/* Memory for contexts and layers.  allocate returns at least `bytes` bytes aligned for any type, or NULL. */
typedef struct mha_allocator {
    void *(*allocate)(void *user, size_t bytes); /* called in _create and _borrow functions only */
    void (*release)(void *user, void *memory);   /* called in _destroy functions only */
    void *user;                                  /* passed to both */
} mha_allocator;

/* What mha_context_create takes. */
typedef struct mha_context_options {
    size_t struct_size;      /* set by mha_context_options_init */
    const char *isa;         /* NULL: the environment variable MHA_ISA if set and not empty, else the best there is.
                                A name caps the choice; one that is unknown or that the CPU lacks is an error. */
    mha_exp exp;             /* MHA_EXP_AUTO */
    mha_allocator allocator; /* all NULL: malloc and free */
    mha_precision precision; /* MHA_PRECISION_HIGHEST */
    uint32_t reserved;       /* 0 */
} mha_context_options;

/* Sets struct_size, and everything else to its default.  struct_size: sizeof *options. */
MHA_API void mha_context_options_init(mha_context_options *options, size_t struct_size);

/* Creates a context; options may be NULL.  On error *context is NULL and, if message is not NULL, message[0..
 * message_bytes) receives one sentence. */
MHA_API mha_status mha_context_create(const mha_context_options *options, mha_context **context, char *message,
                                      size_t message_bytes);

/* Releases a context, or does nothing for NULL.  No call that uses it, and no layer of it, may be left. */
MHA_API void mha_context_destroy(mha_context *context);

/* The instruction set in use, as in mha_isa.name. */
MHA_API const char *mha_context_isa(const mha_context *context);

/* ---- executor: whose threads ------------------------------------------------------------------------------------ */

/* One task of a parallel_for.  `worker` picks the part of the workspace it uses. */
typedef void mha_task(void *closure, size_t worker, size_t index);

/* The caller's threads.  parallel_for runs task(closure, worker, i) once for every i in [0, n_tasks), in any order, and
 * returns when all are done.  Tasks that run at the same time have different workers, all below n_workers.  Fewer
 * threads than workers are right but slower.  mha/threads.h has adapters for OpenMP and pthreadpool.
 * A NULL executor stands for the calling thread.  The library itself starts no thread. */
typedef struct mha_executor {
    size_t n_workers;                                                                /* at least 1 */
    void (*parallel_for)(void *user, size_t n_tasks, mha_task *task, void *closure); /* as above */
    void *user;                                                                      /* passed to it */
} mha_executor;

/* ---- attention -------------------------------------------------------------------------------------------------- */

/* The type of an operand's elements. */
typedef enum mha_dtype {
    MHA_F32 = 1,  /* IEEE 754 binary32 */
    MHA_F16 = 2,  /* IEEE 754 binary16 */
    MHA_BF16 = 3, /* bfloat16: the upper half of an f32 */
    MHA_BOOL = 4  /* one byte, 0 is false: masks only */
} mha_dtype;

/* Operands need not have the same dtype.  Half precision is converted to f32 on load and rounded to nearest, ties to
 * even, on store; everything between is f32, but where bf16 is multiplied (mha_precision).
 *
 * An operand [batch, heads, tokens, dim].  dim is contiguous; every other stride is free, so that [B,H,T,D], [B,T,H,D],
 * slices of a packed QKV buffer and of a KV cache need no copy.  A zero stride broadcasts an input.  data needs the
 * alignment of its element only and may be NULL where the operand has no element. */
typedef struct mha_tensor {
    void *data;        /* inputs are only read */
    mha_dtype dtype;   /* MHA_F32, MHA_F16 or MHA_BF16 */
    int64_t stride[3]; /* batch, head, token */
} mha_tensor;

/* [batch, q_heads, q_len, kv_len], as mask or as output.  data NULL: none.  A mask's dtype must be set. */
typedef struct mha_score_tensor {
    void *data;        /* NULL: none */
    mha_dtype dtype;   /* as a mask any, otherwise MHA_F32, MHA_F16 or MHA_BF16 */
    int64_t stride[4]; /* batch, head, query, key; masks broadcast through zeros; an output's key stride is 1 */
} mha_score_tensor;

/* [batch, q_heads, q_len], f32.  data NULL: none. */
typedef struct mha_row_tensor {
    float *data;       /* NULL: none */
    int64_t stride[3]; /* batch, head, token */
} mha_row_tensor;

/* Which scores the optional output takes: ONNX's qk_matmul_output_mode. */
typedef enum mha_scores_mode {
    MHA_SCORES_RAW = 0,        /* Q K^T * scale */
    MHA_SCORES_SOFTCAPPED = 1, /* after softcap; without one the same as raw */
    MHA_SCORES_BIASED = 2,     /* after masks: -inf where a key is excluded */
    MHA_SCORES_SOFTMAX = 3     /* the attention weights; rows sum to 1, or are 0 without a visible key */
} mha_scores_mode;

#define MHA_SCALE_DEFAULT (-INFINITY) /* stands for 1 / sqrt(head_dim) */

/* Keys and values of earlier calls.  mha_attention writes the new ones, args.k and args.v, behind them and then attends
 * to all.  Of batch item b, past = past_lens[b] or past_len, and
 *
 *     k, v [past, past + args.kv_len) = args.k, args.v               converted, if their dtypes differ
 *     k, v [0, past)                  = past_k, past_v [0, past)     only if past_k has data: otherwise it is there
 *
 * so a cache with room for more tokens is appended to in place, and ONNX's past and present are past_k, past_v and k,
 * v.  Keys are counted from the begin of the cache: by kv_lens, windows, causality, masks and scores. */
typedef struct mha_kv_cache {
    size_t struct_size; /* set by mha_kv_cache_init */
    mha_tensor k;       /* [batch, kv_heads, longest past + kv_len, head_dim]; written: an output, as `out` is */
    mha_tensor v;       /* [batch, kv_heads, longest past + kv_len, v_head_dim] */
    mha_tensor past_k;  /* [batch, kv_heads, longest past, head_dim]; may be k itself, as past_v v: the past is there */
    mha_tensor past_v;  /* [batch, kv_heads, longest past, v_head_dim]; both or neither have data */
    int64_t past_len;   /* keys that are there before the call; at least 0 */
    const int64_t *past_lens; /* NULL, or [batch]: replaces past_len for each batch item */
} mha_kv_cache;

/* Sets struct_size, and everything else to zero but dtypes, which are MHA_F32.  struct_size: sizeof *cache. */
MHA_API void mha_kv_cache_init(mha_kv_cache *cache, size_t struct_size);

/* Key j is visible to query i of batch item b, at position p = i + q_offset, iff
 *     j < kv_lens[b]   and   (not is_causal or j <= p)
 *     and (window_left  == -1 or j >= p - window_left)
 *     and (window_right == -1 or j <= p + window_right)
 *     and the mask is not false (MHA_BOOL) or -inf (additive) there.
 * An excluded key and its value never reach the result, NaN and infinity included.  A row without a visible key, or
 * whose scores are all -inf, yields zeros and LSE = -inf. */
typedef struct mha_attention_args {
    size_t struct_size; /* set by mha_attention_args_init */

    int64_t batch;      /* 0 is legal: nothing is written */
    int64_t q_heads;    /* a multiple of kv_heads; query head h reads KV head h / (q_heads / kv_heads) */
    int64_t kv_heads;   /* at least 1 */
    int64_t q_len;      /* 0 is legal: nothing is written, but to a cache */
    int64_t kv_len;     /* 0 is legal: rows of zeros, unless a cache has keys */
    int64_t head_dim;   /* of Q and K, at least 1 */
    int64_t v_head_dim; /* of V and out, at least 1; 0: head_dim */

    mha_tensor q;   /* [batch, q_heads,  q_len,  head_dim] */
    mha_tensor k;   /* [batch, kv_heads, kv_len, head_dim] */
    mha_tensor v;   /* [batch, kv_heads, kv_len, v_head_dim] */
    mha_tensor out; /* [batch, q_heads,  q_len,  v_head_dim]; must not intersect an input, except that it may be rows of
                       a buffer that also holds inputs, if each keeps to its own part of every token's stride */

    float scale;    /* MHA_SCALE_DEFAULT, or any finite value */
    float softcap;  /* 0: none.  2^-60 to 2^60: scores become softcap * tanh(scaled score / softcap), before masks */
    bool is_causal; /* excludes keys behind the query's position */
    int64_t window_left;      /* inclusive distance in keys; -1: unbounded */
    int64_t window_right;     /* likewise */
    int64_t q_offset;         /* the key position of query 0; may be negative.  0 aligns causality top-left,
                               kv_len - q_len bottom-right */
    const int64_t *q_offsets; /* NULL, or [batch]: replaces q_offset for each batch item */
    const int64_t *kv_lens;   /* NULL, or [batch]: how many keys of each batch item exist, 0 to kv_len (with a cache: to
                                 past + kv_len) */

    mha_score_tensor mask; /* MHA_BOOL: false excludes.  Other dtypes are added to the scores; -inf excludes.  Of kv_len
                              keys; with a cache of the longest past and kv_len. */

    mha_row_tensor lse; /* optional output: log of the sum of exp over a row's visible scores (natural logarithm) */
    mha_score_tensor scores;     /* optional output for as many keys as a mask has */
    mha_scores_mode scores_mode; /* what scores takes */
    uint32_t reserved;           /* 0 */
    const mha_kv_cache *cache;   /* NULL: k and v are all there is */
} mha_attention_args;

/* Zeros, but dtypes of MHA_F32 (the mask's is none), the default scale, no windows, MHA_SCORES_SOFTMAX. */
MHA_API void mha_attention_args_init(mha_attention_args *args, size_t struct_size);

/* Bytes of workspace that mha_attention needs with n_workers (1 for a NULL executor): at most 1 MiB a worker for
 * head_dim and v_head_dim up to 256, plus, for few queries over long keys, partial results of at most 64 splits a head,
 * and for scores in half precision as many floats for each of up to 64 rows as there are keys.
 * Ask for each shape and number of workers: fewer queries or workers may need more.  Of the operands only their sizes
 * matter, and their dtypes, and whether mask.data and scores.data are NULL; kv_lens, q_offsets and past_lens are read. */
MHA_API mha_status mha_attention_workspace_size(const mha_context *context, const mha_attention_args *args,
                                                size_t n_workers, size_t *workspace_bytes);

/* Computes `out`, and lse and scores where asked for.  workspace: any alignment, any contents, apart from all operands.
 * Allocates nothing.  Results do not depend on the executor. */
MHA_API mha_status mha_attention(const mha_context *context, const mha_attention_args *args,
                                 const mha_executor *executor, void *workspace, size_t workspace_bytes);

/* Returns what mha_attention would return for the same arguments, computes nothing, and writes one sentence that names
 * the field, its value and what was expected (an empty string for MHA_OK) into message[0..message_bytes). */
MHA_API mha_status mha_attention_check(const mha_context *context, const mha_attention_args *args,
                                       const mha_executor *executor, const void *workspace, size_t workspace_bytes,
                                       char *message, size_t message_bytes);

/* Writes which kernels, tiles, splits and tasks a call would use, as lines of text, into text[0..text_bytes), always
 * terminated, cut off where it does not fit; about 500 bytes.  On error the sentence that says why. */
MHA_API mha_status mha_attention_describe(const mha_context *context, const mha_attention_args *args, size_t n_workers,
                                          char *text, size_t text_bytes);

/* ---- layer: projections, attention, output projection --------------------------------------------------------- */

/* y = x W^T + b.  PyTorch's layout: weight [out, in], bias [out] or NULL. */
typedef struct mha_linear {
    const void *weight;    /* [out, in], rows contiguous */
    mha_dtype dtype;       /* of the weight: MHA_F32, MHA_F16 or MHA_BF16 */
    mha_dtype bias_dtype;  /* 0: as the weight's */
    int64_t weight_stride; /* between rows of the weight; 0: in */
    const void *bias;      /* [out]; NULL: none */
} mha_linear;

/* Sizes and weights of a layer. */
typedef struct mha_layer_desc {
    size_t struct_size; /* set by mha_layer_desc_init */
    int64_t q_heads;    /* a multiple of kv_heads */
    int64_t kv_heads;   /* at least 1 */
    int64_t head_dim;   /* of Q and K, at least 1 */
    int64_t v_head_dim; /* 0: head_dim */
    int64_t q_dim;      /* width of the query input */
    int64_t kv_dim;     /* width of the key and value input; 0: q_dim */
    int64_t out_dim;    /* width of the output; 0: q_dim */
    mha_linear wq;      /* [q_heads * head_dim, q_dim] */
    mha_linear wk;      /* [kv_heads * head_dim, kv_dim] */
    mha_linear wv;      /* [kv_heads * v_head_dim, kv_dim] */
    mha_linear wo;      /* [out_dim, q_heads * v_head_dim] */
    mha_linear wqkv;    /* instead of wq, wk, wv: the three stacked in this order, bias too; needs q_dim == kv_dim */
} mha_layer_desc;

/* Sets struct_size, and everything else to zero but dtypes, which are MHA_F32.  struct_size: sizeof *desc. */
MHA_API void mha_layer_desc_init(mha_layer_desc *desc, size_t struct_size);

/* Packed weights and the context whose kernels take them, never changed after creation.  Opaque. */
typedef struct mha_layer mha_layer;

/* Bytes of the packed form of a layer for this context's kernels; desc as for mha_layer_pack, weights included.  Here
 * as below, a message that is not NULL receives one sentence about what is wrong. */
MHA_API mha_status mha_layer_packed_size(const mha_context *context, const mha_layer_desc *desc, size_t *packed_bytes,
                                         char *message, size_t message_bytes);

/* Packs the weights into packed[0..packed_bytes), 64-byte aligned, apart from them.  It may be written to a file and
 * mapped later; it is only valid for contexts with the same instruction set, the same library version and, where the
 * instruction set multiplies bf16, the same answer to whether the precision is medium. */
MHA_API mha_status mha_layer_pack(const mha_context *context, const mha_layer_desc *desc, void *packed,
                                  size_t packed_bytes, char *message, size_t message_bytes);

/* A layer that owns a packed copy of the weights.  On error *layer is NULL. */
MHA_API mha_status mha_layer_create(const mha_context *context, const mha_layer_desc *desc, mha_layer **layer,
                                    char *message, size_t message_bytes);

/* A layer that borrows what mha_layer_pack wrote; it must outlive the layer and stay as it is: a call whose outputs or
 * workspace intersect it is refused. */
MHA_API mha_status mha_layer_borrow(const mha_context *context, const void *packed, size_t packed_bytes,
                                    mha_layer **layer, char *message, size_t message_bytes);

/* Releases a layer, or does nothing for NULL.  No call that uses it may be left; its context must still be there. */
MHA_API void mha_layer_destroy(mha_layer *layer);

/* Fills an initialised desc with the layer's sizes; the weights stay NULL. */
MHA_API void mha_layer_sizes(const mha_layer *layer, mha_layer_desc *desc);

/* x [batch, tokens, width]: width is contiguous.  data NULL where it has no element. */
typedef struct mha_activation {
    void *data;        /* inputs are only read */
    mha_dtype dtype;   /* MHA_F32, MHA_F16 or MHA_BF16, whatever that of the weights is */
    int64_t stride[2]; /* batch, token */
} mha_activation;

/* What one call of a layer takes.  Between the projections and attention, Q and the heads' outputs are rounded to q's
 * dtype, K and V to kv's. */
typedef struct mha_layer_args {
    size_t struct_size;          /* set by mha_layer_args_init */
    int64_t batch;               /* 0 is legal: nothing is written */
    int64_t q_len;               /* likewise */
    int64_t kv_len;              /* -1: self-attention, keys and values come from q and kv.data is NULL */
    mha_activation q;            /* [batch, q_len, q_dim] */
    mha_activation kv;           /* [batch, kv_len, kv_dim] */
    mha_activation out;          /* [batch, q_len, out_dim] */
    float scale;                 /* this and the rest as in mha_attention_args */
    float softcap;               /* likewise */
    bool is_causal;              /* likewise */
    int64_t window_left;         /* likewise */
    int64_t window_right;        /* likewise */
    int64_t q_offset;            /* likewise */
    const int64_t *q_offsets;    /* likewise */
    const int64_t *kv_lens;      /* likewise */
    mha_score_tensor mask;       /* likewise */
    mha_score_tensor scores;     /* likewise */
    mha_scores_mode scores_mode; /* likewise */
    uint32_t reserved;           /* likewise */
    const mha_kv_cache *cache;   /* the projected keys and values are appended to it */
} mha_layer_args;

/* As mha_attention_args_init, and self-attention. */
MHA_API void mha_layer_args_init(mha_layer_args *args, size_t struct_size);

/* As for attention; this workspace grows with batch * (q_len + kv_len), for the projected Q, K, V and the heads. */
MHA_API mha_status mha_layer_workspace_size(const mha_layer *layer, const mha_layer_args *args, size_t n_workers,
                                            size_t *workspace_bytes);

/* As mha_attention_describe, after a line for each projection. */
MHA_API mha_status mha_layer_describe(const mha_layer *layer, const mha_layer_args *args, size_t n_workers, char *text,
                                      size_t text_bytes);

/* Computes `out` and, where asked for, scores and the cache; as mha_attention: a workspace apart from all operands, no
 * allocation, results that do not depend on the executor. */
MHA_API mha_status mha_layer_forward(const mha_layer *layer, const mha_layer_args *args, const mha_executor *executor,
                                     void *workspace, size_t workspace_bytes);

/* Returns what mha_layer_forward would return, with a sentence, as mha_attention_check does. */
MHA_API mha_status mha_layer_check(const mha_layer *layer, const mha_layer_args *args, const mha_executor *executor,
                                   const void *workspace, size_t workspace_bytes, char *message, size_t message_bytes);

#ifdef __cplusplus
}
#endif

#endif
