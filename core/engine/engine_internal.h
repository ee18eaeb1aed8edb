/* What the files of the engine share: engine.c the life and the pieces of a step, transfer.c the way in and out,
 * capture.c what was recorded. */
#ifndef RW_ENGINE_ENGINE_INTERNAL_H
#define RW_ENGINE_ENGINE_INTERNAL_H

#include "core/engine/engine.h"

/* engine.c: the kernels of a piece, in order. */
rw_status rw_engine_launch(rw_engine *e, rw_engine_piece piece, rw_error *err);

/* transfer.c */
rw_status rw_engine_open_transfer(rw_engine *e, rw_error *err);
void rw_engine_close_transfer(rw_engine *e);
/* The batch staged first becomes the one that kernels see. */
void rw_engine_take(rw_engine *e);
/* Queues the readback of this step's report. */
void rw_engine_send_report(rw_engine *e);

/* capture.c: launches a piece, or replays it. */
rw_status rw_engine_open_capture(rw_engine *e, rw_error *err);
void rw_engine_close_capture(rw_engine *e);
rw_status rw_engine_play(rw_engine *e, rw_engine_piece piece, rw_error *err);

#endif
