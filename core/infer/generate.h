/* A model that reads tokens and predicts the next one: the training model's own forward pass, with the state carried
 * from call to call. Long prompts go through in pieces, of RW_PREFILL tokens on a CPU. On a device that can record, a
 * single token is a recorded step. */
#ifndef RW_INFER_GENERATE_H
#define RW_INFER_GENERATE_H

#include "core/base/error.h"
#include "core/recipe/plan.h"
#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RW_PREFILL     128
#define RW_PREFILL_GPU 4096
#define RW_LOGIT_ROWS  128 /* that are made at a time; at most RW_PREFILL */

typedef struct rw_generator rw_generator;

/* Reads the weights of a .pth onto the device, which must outlive the generator; `state`: a file of initial states to
 * begin with, or NULL. Free with rw_generator_close(). */
rw_status rw_generator_open(rw_generator **out, const char *path, const char *state, rw_device *device, rw_error *err);
void rw_generator_close(rw_generator *g);
const rw_plan_model *rw_generator_model(const rw_generator *g);

/* Forgets what was read: the state is the model's initial one again, zeros where none was trained. */
rw_status rw_generator_reset(rw_generator *g, rw_error *err);
/* Reads n >= 1 tokens. logits [V]: after the last of them; all_logits [n,V] (or NULL): after each. Errors: E_DATA for
 * an id outside the vocabulary, E_NUMERIC for logits that are not finite. */
rw_status rw_generator_feed(rw_generator *g, const int32_t *tokens, int64_t n, float *logits, float *all_logits,
                            rw_error *err);
/* What the model carries in a block after what was read; `field` counts as in its rw_arch.fields. out: floats, as many
 * as the field's shape says. */
rw_status rw_generator_state(rw_generator *g, int layer, int field, float *out, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
