/* Batches ahead of time.
 *
 * One thread fills a ring of accumulate + 2 batches; the consumer may hold the last `accumulate` of them, so two
 * are always free for the thread. Batch number s lies in slot s % n_slots and depends on (plan, cursor) alone,
 * whatever the thread does meanwhile. All memory is one block taken when the loader is opened.
 *
 * The thread takes no signals: SIGINT and SIGTERM belong to the main thread. An error in it is kept and given out
 * when its batch would be due, so batches before it are not lost. */
#include "core/data/loader.h"

#include "core/base/alloc.h"
#include "core/base/fs.h"
#include "core/base/rng.h"
#include "core/data/cursor.h"
#include "core/data/id_scan.h"
#include "core/data/sampler.h"
#include "core/data/source.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

/* A batch and the memory behind it; target and token ids are read as one piece per row. */
typedef struct {
    rw_batch batch;
    int32_t *tokens, *targets, *cu_seqlens, *source;
    float *mask;
    int32_t *row;  /* [ctx_len + 1] ids of one row     */
    char *scratch; /* [4 (ctx_len + 1)] as in the file */
} slot;

struct rw_loader {
    rw_plan_data plan; /* its strings are borrowed      */
    bool eval_only;
    int64_t rows, ctx_len, n_held, n_slots;
    int64_t magic_prime; /* of sampler: cubic             */
    int64_t host_bytes;
    rw_cursor first; /* of batch `first.step`         */
    rw_source source;
    char *memory; /* owned: all slots and their arrays */
    slot *slots;  /* [n_slots]                     */
    slot *eval;

    pthread_t thread, checker; /* makes batches; reads all ids of a large file */
    bool has_thread, has_checker;
    pthread_mutex_t mutex; /* guards what follows           */
    pthread_cond_t changed;
    bool stop, failed, bad_id;
    uint64_t made, used; /* batches finished, and asked for, since the loader was opened */
    rw_error error;      /* of batch number `made`        */
    rw_error id_error;   /* with bad_id: what the checker found */
};

/* -- sizes ---------------------------------------------------------------------------------------- */

static int64_t align64(int64_t n) {
    return (n + 63) / 64 * 64;
}

static bool is_eval_only(const rw_plan_data *plan, const char *file) {
    return plan->valid_file && !strcmp(file, plan->valid_file) && !(plan->data_file && !strcmp(file, plan->data_file));
}

static int64_t slot_bytes(const rw_plan_data *p) {
    int64_t R = p->rows_per_batch * p->ctx_len;
    return 3 * align64(4 * R) + align64(4 * (p->max_seq + 1)) + align64(4 * p->max_seq) +
           2 * align64(4 * (p->ctx_len + 1));
}

/* One slot more than the ring has: validation uses its own. */
static int64_t count_slots(const rw_plan_data *p, const char *file) {
    return is_eval_only(p, file) ? 1 : p->accumulate + 3;
}

static int64_t memory_bytes(const rw_plan_data *p, const char *file) {
    int64_t n = count_slots(p, file);
    return align64(n * (int64_t)sizeof(slot)) + n * slot_bytes(p);
}

int64_t rw_loader_bytes_for(const rw_plan_data *plan, const char *file) {
    return (int64_t)sizeof(rw_loader) + memory_bytes(plan, file);
}

static rw_status check_plan(const rw_plan_data *p, rw_error *err) {
    const int64_t most = INT64_C(1) << 31;
    if (p->ctx_len < 1 || p->rows_per_batch < 1 || p->accumulate < 1 || p->ctx_len >= most ||
        p->rows_per_batch >= most / p->ctx_len || p->accumulate >= 1 << 20)
        return rw_fail(err, RW_E_RECIPE, (rw_where){.key = "data.ctx_len"},
                       "ctx_len %lld x micro_bsz %lld x accumulate %lld is not a usable size", (long long)p->ctx_len,
                       (long long)p->rows_per_batch, (long long)p->accumulate);
    if (p->max_seq < p->rows_per_batch || p->max_seq > p->rows_per_batch * p->ctx_len)
        return rw_fail(err, RW_E_INTERNAL, RW_AT_NONE, "a batch has %lld sequences, and room for %lld",
                       (long long)p->rows_per_batch, (long long)p->max_seq);
    if (p->vocab_size < 1 || p->vocab_size >= most)
        return rw_fail(err, RW_E_RECIPE, (rw_where){.key = "model.vocab_size"}, "%lld is not a usable size",
                       (long long)p->vocab_size);
    return RW_OK;
}

/* -- one batch ------------------------------------------------------------------------------------ */

static void *take(char **p, int64_t n_bytes) {
    char *here = *p;
    *p += align64(n_bytes);
    return here;
}

/* What does not change from batch to batch: equal rows, each its own sequence, every position counted. */
static void init_slot(const rw_loader *l, slot *s, char **memory) {
    int64_t R = l->rows * l->ctx_len;
    s->tokens = take(memory, 4 * R);
    s->targets = take(memory, 4 * R);
    s->mask = take(memory, 4 * R);
    s->cu_seqlens = take(memory, 4 * (l->plan.max_seq + 1));
    s->source = take(memory, 4 * l->plan.max_seq);
    s->row = take(memory, 4 * (l->ctx_len + 1));
    s->scratch = take(memory, 4 * (l->ctx_len + 1));
    for (int64_t i = 0; i < R; i++) s->mask[i] = 1;
    for (int64_t i = 0; i <= l->plan.max_seq; i++) s->cu_seqlens[i] = (int32_t)(i < l->rows ? i * l->ctx_len : R);
    for (int64_t i = 0; i < l->plan.max_seq; i++) s->source[i] = 0;
    s->batch = (rw_batch){.n_rows = R,
                          .n_seq = l->rows,
                          .tokens = s->tokens,
                          .targets = s->targets,
                          .mask = s->mask,
                          .cu_seqlens = s->cu_seqlens,
                          .source = s->source,
                          .mask_sum = (double)R,
                          .next = l->first};
}

/* What follows these ids, "\n\nA:" of the 20B vocabulary, is an answer, up to the end of the document. */
static const int32_t answer_mark[] = {187, 187, 34, 27};
enum { MARK = sizeof answer_mark / sizeof *answer_mark };

/* The official my_qa_mask: a position counts from the last id of the mark on. A row without an answer counts whole.
 * Returns how many count. */
static int64_t mask_answers(const int32_t *ids, int64_t n, float *mask) {
    int64_t total = 0;
    bool answer = false;
    for (int64_t i = 0; i < n; i++) {
        if (i >= MARK - 1 && memcmp(ids + i - (MARK - 1), answer_mark, sizeof answer_mark) == 0) answer = true;
        if (ids[i] == 0) answer = false;
        mask[i] = answer;
        total += answer;
    }
    for (int64_t i = 0; total == 0 && i < n; i++) mask[i] = 1;
    return total ? total : n;
}

/* Fills row `row` from n + 1 ids at `start`, n <= ctx_len. */
static rw_status fill_row(const rw_loader *l, slot *s, int64_t row, int64_t start, int64_t n, rw_error *err) {
    RW_TRY(rw_source_read(&l->source, start, n + 1, s->row, s->scratch, err));
    memcpy(s->tokens + row * l->ctx_len, s->row, (size_t)n * 4);
    memcpy(s->targets + row * l->ctx_len, s->row + 1, (size_t)n * 4);
    return RW_OK;
}

/* The cubic sampler counts from 1, as officially: samples 1 .. magic_prime are one pass. */
static int64_t row_start(const rw_loader *l, uint64_t step, int64_t row) {
    if (l->plan.sampler == RW_SAMPLER_CUBIC)
        return rw_sampler_cubic(l->magic_prime, l->ctx_len, step * (uint64_t)l->rows + (uint64_t)row + 1);
    return rw_sampler_random(l->first.seed, step, l->rows, row, l->source.n_tokens, l->ctx_len);
}

static rw_status make_batch(const rw_loader *l, slot *s, uint64_t step, rw_error *err) {
    const int64_t T = l->ctx_len;
    int64_t total = 0;
    for (int64_t row = 0; row < l->rows; row++) {
        RW_TRY(fill_row(l, s, row, row_start(l, step, row), T, err));
        total += l->plan.qa_mask ? mask_answers(s->row, T, s->mask + row * T) : T;
    }
    s->batch.mask_sum = (double)total;
    s->batch.next.step = step + 1;
    return RW_OK;
}

/* -- the thread ----------------------------------------------------------------------------------- */

/* The number of the next batch to make, once there is room for it; false when the loader closes. */
static bool wait_for_room(rw_loader *l, uint64_t *number) {
    pthread_mutex_lock(&l->mutex);
    while (!l->stop && l->made >= l->used + (uint64_t)(l->n_slots - l->n_held))
        pthread_cond_wait(&l->changed, &l->mutex);
    *number = l->made;
    bool go = !l->stop;
    pthread_mutex_unlock(&l->mutex);
    return go;
}

static void *run(void *arg) {
    rw_loader *l = arg;
    rw_status status = RW_OK;
    for (uint64_t i; status == RW_OK && wait_for_room(l, &i);) {
        rw_error err = {0};
        status = make_batch(l, &l->slots[i % (uint64_t)l->n_slots], l->first.step + i, &err);
        pthread_mutex_lock(&l->mutex);
        l->made += status == RW_OK;
        l->failed = status != RW_OK;
        l->error = err;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->mutex);
    }
    return NULL;
}

/* -- ids of a large file --------------------------------------------------------------------------- */

static bool has_time(void *ctx, int64_t done, int64_t total) {
    rw_loader *l = ctx;
    (void)done;
    (void)total;
    pthread_mutex_lock(&l->mutex);
    bool go = !l->stop;
    pthread_mutex_unlock(&l->mutex);
    return go;
}

static void *check_ids(void *arg) {
    rw_loader *l = arg;
    int64_t largest;
    rw_error err = {0};
    rw_status status = rw_id_scan(&l->source, &largest, has_time, l, &err);
    pthread_mutex_lock(&l->mutex);
    l->bad_id = status != RW_OK && status != RW_E_STOPPED;
    l->id_error = err;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

static bool checked_later(const rw_plan_data *plan, const rw_source *s) {
    int64_t largest;
    bool large = plan->tokenizer == RW_TOKENIZER_NONE && s->n_bytes > RW_ID_SCAN_BACKGROUND;
    return large && !(rw_id_scan_recall(s, &largest) && largest < s->vocab_size);
}

/* -- starting and stopping them --------------------------------------------------------------------- */

/* Signals are for the main thread, faults aside. */
static rw_status start_thread(rw_loader *l, pthread_t *thread, void *(*work)(void *), bool *started, rw_error *err) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    sigset_t most, before;
    sigfillset(&most);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&most, faults[i]);
    pthread_sigmask(SIG_SETMASK, &most, &before);
    int code = pthread_create(thread, NULL, work, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    *started = code == 0;
    if (code != 0) return rw_fail(err, RW_E_MEMORY, RW_AT_NONE, "cannot start the data thread: %s", strerror(code));
    return RW_OK;
}

static rw_status start_threads(rw_loader *l, rw_error *err) {
    if (checked_later(&l->plan, &l->source)) RW_TRY(start_thread(l, &l->checker, check_ids, &l->has_checker, err));
    return l->eval_only ? RW_OK : start_thread(l, &l->thread, run, &l->has_thread, err);
}

static void stop_threads(rw_loader *l) {
    pthread_mutex_lock(&l->mutex);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
    if (l->has_thread) pthread_join(l->thread, NULL);
    if (l->has_checker) pthread_join(l->checker, NULL);
}

/* -- opening -------------------------------------------------------------------------------------- */

/* The same data under the same name gives the same number; the folder may change. */
static uint64_t data_hash(const rw_source *s) {
    const char *base = rw_path_base(s->file);
    int64_t sizes[3] = {s->n_bytes, s->n_documents, s->n_tokens};
    return rw_hash64(base, strlen(base), rw_hash64(sizes, sizeof sizes, s->hash));
}

/* Cubic needs a prime of the form 3k + 2 below the number of windows; the least, 2, needs 3 windows. */
static int64_t least_tokens(const rw_plan_data *plan, bool eval_only) {
    if (eval_only) return 2;
    return plan->sampler == RW_SAMPLER_CUBIC ? 3 * plan->ctx_len : plan->ctx_len + 2;
}

static rw_status check_length(const rw_plan_data *plan, const rw_source *s, bool eval_only, rw_error *err) {
    int64_t least = least_tokens(plan, eval_only);
    if (s->n_tokens >= least) return RW_OK;
    return rw_fail(err, RW_E_DATA, RW_AT_FILE(s->file),
                   "%lld tokens are too few for ctx_len %lld: at least %lld are needed; add text or lower data.ctx_len",
                   (long long)s->n_tokens, (long long)plan->ctx_len, (long long)least);
}

/* The source checked and described. */
static rw_status open_source(rw_source *s, const rw_plan_data *plan, const char *file, rw_data_info *info,
                             rw_error *err) {
    RW_TRY(check_plan(plan, err));
    RW_TRY(rw_source_open(s, plan, file, err));
    rw_status status = check_length(plan, s, is_eval_only(plan, file), err);
    if (status != RW_OK) {
        rw_source_close(s);
        return status;
    }
    if (info)
        *info = (rw_data_info){.n_tokens = s->n_tokens,
                               .n_documents = s->n_documents,
                               .n_bytes = s->n_bytes,
                               .hash = data_hash(s),
                               .host_bytes = rw_loader_bytes_for(plan, file)};
    return RW_OK;
}

rw_status rw_data_info_read(const rw_plan_data *plan, const char *file, rw_data_info *info, rw_error *err) {
    rw_source s;
    RW_TRY(open_source(&s, plan, file, info, err));
    rw_source_close(&s);
    return RW_OK;
}

rw_status rw_data_check_ids(const rw_plan_data *plan, const char *file, rw_id_scan_progress progress, void *ctx,
                            rw_error *err) {
    rw_source s;
    int64_t largest;
    if (plan->tokenizer != RW_TOKENIZER_NONE) return RW_OK;
    RW_TRY(open_source(&s, plan, file, NULL, err));
    rw_status status = checked_later(plan, &s) ? RW_OK : rw_id_scan(&s, &largest, progress, ctx, err);
    rw_source_close(&s);
    return status;
}

static rw_status set_cursor(rw_loader *l, const rw_cursor *cursor, rw_error *err) {
    l->first =
        (rw_cursor){.seed = l->plan.seed, .data_hash = data_hash(&l->source), .n_tokens = (uint64_t)l->source.n_tokens};
    if (!cursor) return RW_OK;
    l->first.step = cursor->step;
    if (cursor->n_tokens == 0) return RW_OK;
    if (cursor->data_hash != l->first.data_hash || cursor->n_tokens != l->first.n_tokens)
        return rw_fail(err, RW_E_DATA, RW_AT_FILE(l->source.file),
                       "not the data that the saved run used (%lld tokens now, %llu then): put the old file back, or "
                       "name the state with --resume PATH to go on with this one",
                       (long long)l->source.n_tokens, (unsigned long long)cursor->n_tokens);
    l->first = *cursor;
    return RW_OK;
}

static rw_status allocate(rw_loader *l, const char *file, rw_error *err) {
    int64_t n = count_slots(&l->plan, file), n_bytes = memory_bytes(&l->plan, file);
    l->host_bytes = (int64_t)sizeof *l + n_bytes;
    l->memory = rw_alloc_pages((size_t)n_bytes);
    if (!l->memory) return rw_fail_memory(err, (size_t)n_bytes);
    char *p = l->memory;
    l->slots = take(&p, n * (int64_t)sizeof(slot));
    for (int64_t i = 0; i < n; i++) init_slot(l, &l->slots[i], &p);
    l->n_slots = n - 1;
    l->eval = &l->slots[n - 1];
    return RW_OK;
}

rw_status rw_loader_open(rw_loader **out, const rw_plan_data *plan, const char *file, const rw_cursor *cursor,
                         rw_data_info *info, rw_error *err) {
    *out = NULL;
    rw_loader *l = rw_alloc(sizeof *l);
    if (!l) return rw_fail_memory(err, sizeof *l);
    l->plan = *plan;
    l->rows = plan->rows_per_batch;
    l->ctx_len = plan->ctx_len;
    l->n_held = plan->accumulate;
    l->eval_only = is_eval_only(plan, file);
    pthread_mutex_init(&l->mutex, NULL);
    pthread_cond_init(&l->changed, NULL);
    rw_status s = open_source(&l->source, plan, file, info, err);
    if (s == RW_OK) s = set_cursor(l, cursor, err);
    if (s == RW_OK) l->magic_prime = rw_sampler_magic_prime(l->source.n_tokens, l->ctx_len);
    if (s == RW_OK) s = allocate(l, file, err);
    if (s == RW_OK) s = start_threads(l, err);
    if (s == RW_OK)
        *out = l;
    else
        rw_loader_close(l);
    return s;
}

void rw_loader_close(rw_loader *l) {
    if (!l) return;
    stop_threads(l);
    rw_source_close(&l->source);
    if (l->memory) rw_free_pages(l->memory, (size_t)(l->host_bytes - (int64_t)sizeof *l));
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->mutex);
    rw_error_clear(&l->error);
    rw_error_clear(&l->id_error);
    rw_free(l);
}

int64_t rw_loader_host_bytes(const rw_loader *l) {
    return l->host_bytes;
}

/* What the checker says so far; the mutex is held. */
static rw_status found_bad_id(const rw_loader *l, rw_error *err) {
    return l->bad_id ? rw_fail(err, l->id_error.code, l->id_error.at, "%s", l->id_error.msg) : RW_OK;
}

/* -- training ------------------------------------------------------------------------------------- */

rw_status rw_loader_next(rw_loader *l, const rw_batch **batch, rw_error *err) {
    *batch = NULL;
    if (l->eval_only)
        return rw_fail(err, RW_E_INTERNAL, RW_AT_FILE(l->source.file), "this loader was opened for validation");
    rw_status s = RW_OK;
    pthread_mutex_lock(&l->mutex);
    uint64_t i = l->used;
    while (l->made <= i && !l->failed && !l->bad_id) pthread_cond_wait(&l->changed, &l->mutex);
    s = found_bad_id(l, err);
    if (s == RW_OK && l->made > i) {
        l->used++;
        *batch = &l->slots[i % (uint64_t)l->n_slots].batch;
        pthread_cond_broadcast(&l->changed);
    } else if (s == RW_OK)
        s = rw_fail(err, l->error.code, l->error.at, "%s", l->error.msg);
    pthread_mutex_unlock(&l->mutex);
    return s;
}

/* -- validation ----------------------------------------------------------------------------------- */

static int64_t n_windows(const rw_loader *l) {
    return (l->source.n_tokens - 1 + l->ctx_len - 1) / l->ctx_len;
}

int64_t rw_loader_n_eval_batches(const rw_loader *l) {
    return (n_windows(l) + l->rows - 1) / l->rows;
}

/* Window w of the file into `row`; what is beyond the end has mask 0 and id 0. Returns how many positions count. */
static rw_status fill_window(rw_loader *l, int64_t row, int64_t w, int64_t *n, rw_error *err) {
    slot *s = l->eval;
    int64_t T = l->ctx_len, left = w < n_windows(l) ? l->source.n_tokens - 1 - w * T : 0;
    *n = left < T ? left : T;
    if (*n > 0) RW_TRY(fill_row(l, s, row, w * T, *n, err));
    for (int64_t i = 0; i < T; i++) {
        s->mask[row * T + i] = i < *n ? 1 : 0;
        if (i >= *n) s->tokens[row * T + i] = s->targets[row * T + i] = 0;
    }
    return RW_OK;
}

rw_status rw_loader_eval_batch(rw_loader *l, int64_t i, const rw_batch **batch, rw_error *err) {
    int64_t n, total = 0;
    *batch = NULL;
    if (i < 0 || i >= rw_loader_n_eval_batches(l))
        return rw_fail(err, RW_E_INTERNAL, RW_AT_FILE(l->source.file), "no validation batch %lld", (long long)i);
    pthread_mutex_lock(&l->mutex);
    rw_status checked = found_bad_id(l, err);
    pthread_mutex_unlock(&l->mutex);
    RW_TRY(checked);
    for (int64_t row = 0; row < l->rows; row++) {
        RW_TRY(fill_window(l, row, i * l->rows + row, &n, err));
        total += n;
    }
    l->eval->batch.mask_sum = (double)total;
    *batch = &l->eval->batch;
    return RW_OK;
}
