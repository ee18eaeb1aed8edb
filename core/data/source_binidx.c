/* binidx: ids that the official tools (or `rwkv-run tokenize`) have made; read in place. */
#include "core/data/binidx.h"
#include "core/data/source.h"

static rw_status open_binidx(rw_source *s, const rw_plan_data *plan, const char *file, rw_error *err) {
    rw_binidx_info info;
    int fd;
    (void)plan;
    RW_TRY(rw_binidx_open(&fd, &info, file, err));
    s->fd = fd;
    s->id_bytes = info.id_bytes;
    s->n_tokens = info.n_tokens;
    s->n_documents = info.n_documents;
    s->n_bytes = info.n_bytes;
    return RW_OK;
}

const rw_source_ops rw_source_binidx = {open_binidx};
