/* Pieces of a step, recorded once and replayed. The first time a piece only runs: the tape's tables grow, and libraries
 * load their kernels, which no recording may contain. The second time it is recorded; addresses are those of every
 * later step, since the arena is empty where a piece begins. What the host keeps in mind of a piece is which gradients
 * are written: a replay restores it. */
#include "core/engine/engine_internal.h"

#include "core/base/alloc.h"

static bool records(const rw_engine *e) {
    return e->device->record && e->plan->engine.graph == RW_GRAPH_ON;
}

rw_status rw_engine_open_capture(rw_engine *e, rw_error *err) {
    size_t n = e->model->params->layout.n_segments;
    if (!records(e)) return RW_OK;
    for (int i = 0; i < RW_N_PIECES; i++) {
        e->recordings[i].grad_written = rw_alloc_array(n, sizeof(bool));
        if (!e->recordings[i].grad_written) return rw_fail_memory(err, n);
    }
    return RW_OK;
}

void rw_engine_close_capture(rw_engine *e) {
    for (int i = 0; i < RW_N_PIECES; i++) {
        if (e->recordings[i].graph) e->device->record->free(e->device, e->recordings[i].graph);
        rw_free(e->recordings[i].grad_written);
    }
}

static void remember(const rw_params *p, bool *written) {
    for (size_t i = 0; i < p->layout.n_segments; i++) written[i] = p->tensors[i].grad_written;
}

static void restore(rw_params *p, const bool *written) {
    for (size_t i = 0; i < p->layout.n_segments; i++) p->tensors[i].grad_written = written[i];
}

/* What fails in between is the error; the recording is ended all the same, and dropped. */
static rw_status record(rw_engine *e, rw_engine_piece piece, rw_error *err) {
    rw_engine_recording *r = &e->recordings[piece];
    RW_TRY(e->device->record->begin(e->device, err));
    rw_status status = rw_engine_launch(e, piece, err);
    if (status != RW_OK) {
        e->device->record->end(e->device, NULL, NULL);
        return status;
    }
    RW_TRY(e->device->record->end(e->device, &r->graph, err));
    remember(e->model->params, r->grad_written);
    return RW_OK;
}

rw_status rw_engine_play(rw_engine *e, rw_engine_piece piece, rw_error *err) {
    rw_engine_recording *r = &e->recordings[piece];
    bool ran = r->ran;
    r->ran = true;
    if (!records(e) || !ran) return rw_engine_launch(e, piece, err);
    if (!r->graph) RW_TRY(record(e, piece, err));
    restore(e->model->params, r->grad_written);
    return e->device->record->replay(e->device, r->graph, err);
}
