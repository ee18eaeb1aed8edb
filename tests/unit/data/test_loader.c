/* Batches: a function of plan and cursor, whatever the thread does; held as long as promised; errors in their turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/base/thread.h"
#include "core/data/binidx.h"
#include "core/data/cursor.h"
#include "core/data/loader.h"
#include "core/data/sampler.h"
#include "tests/unit/data/fixture.h"

#include <dirent.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define T    8
#define ROWS 3
#define ACC  4

/* A binidx whose token i is i % 251 + 1, so that a row shows where it began. */
static const char *count_up(const char *name, int64_t n) {
    rw_error err = {0};
    rw_binidx_writer *w;
    uint16_t *ids = rw_alloc_array((size_t)n, sizeof *ids);
    for (int64_t i = 0; i < n; i++) ids[i] = (uint16_t)(i % 251 + 1);
    assert_int_equal(rw_binidx_create(&w, rw_test_path(name), RW_BINIDX_U16, &err), RW_OK);
    assert_int_equal(rw_binidx_write(w, ids, n, &err), RW_OK);
    assert_int_equal(rw_binidx_commit(w, &err), RW_OK);
    rw_free(ids);
    return rw_test_path(name);
}

static rw_plan_data plan_for(const char *file) {
    return (rw_plan_data){.data_type = RW_FORMAT_BINIDX,
                          .data_file = file,
                          .tokenizer = RW_TOKENIZER_NONE,
                          .sampler = RW_SAMPLER_RANDOM,
                          .ctx_len = T,
                          .vocab_size = 252,
                          .rows_per_batch = ROWS,
                          .max_seq = ROWS,
                          .accumulate = ACC,
                          .seed = 99};
}

static rw_loader *open_loader(const rw_plan_data *plan, const rw_cursor *cursor) {
    rw_error err = {0};
    rw_loader *l;
    if (rw_loader_open(&l, plan, plan->data_file, cursor, NULL, &err) != RW_OK) fail_msg("%s", err.msg);
    return l;
}

static const rw_batch *next(rw_loader *l) {
    rw_error err = {0};
    const rw_batch *b;
    if (rw_loader_next(l, &b, &err) != RW_OK) fail_msg("%s", err.msg);
    return b;
}

static void check_batch(const rw_batch *b, uint64_t step, int64_t n_tokens) {
    assert_int_equal(b->n_rows, ROWS * T);
    assert_int_equal(b->n_seq, ROWS);
    assert_true(b->mask_sum == ROWS * T);
    assert_int_equal(b->next.step, step + 1);
    assert_int_equal(b->next.seed, 99);
    for (int r = 0; r <= ROWS; r++) assert_int_equal(b->cu_seqlens[r], r * T);
    for (int r = 0; r < ROWS; r++) {
        int64_t start = rw_sampler_random(99, step, ROWS, r, n_tokens, T);
        for (int i = 0; i < T; i++) {
            assert_int_equal(b->tokens[r * T + i], (start + i) % 251 + 1);
            assert_int_equal(b->targets[r * T + i], (start + i + 1) % 251 + 1);
            assert_true(b->mask[r * T + i] == 1);
        }
    }
}

/* Whole passes visit each window once, in the order of the official trainer, which counts samples from 1. */
static void test_cubic(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 251)); /* 31 windows of 8, so the prime is 29 */
    plan.sampler = RW_SAMPLER_CUBIC;
    rw_loader *l = open_loader(&plan, NULL);
    int seen[29] = {0};
    for (int step = 0; step < 29; step++) {
        const rw_batch *b = next(l);
        for (int r = 0; r < ROWS; r++) {
            int64_t start = rw_sampler_cubic(29, T, (uint64_t)(step * ROWS + r + 1));
            assert_int_equal(start % T, 0);
            seen[start / T]++;
            for (int i = 0; i < T; i++) assert_int_equal(b->tokens[r * T + i], start + i + 1);
            assert_int_equal(b->targets[r * T + T - 1], start + T + 1);
        }
    }
    for (int i = 0; i < 29; i++) assert_int_equal(seen[i], ROWS);
    rw_loader_close(l);
}

/* Three marks, one with a 0 right after it, and long stretches with none. */
static const char *questions(const char *name, int64_t n) {
    static const uint16_t mark[] = {187, 187, 34, 27};
    static const int64_t at[] = {9, 40, 80};
    rw_error err = {0};
    rw_binidx_writer *w;
    uint16_t *ids = rw_alloc_array((size_t)n, sizeof *ids);
    for (int64_t i = 0; i < n; i++) ids[i] = 1;
    for (int k = 0; k < 3; k++) memcpy(ids + at[k], mark, sizeof mark);
    ids[22] = ids[44] = ids[90] = 0;
    assert_int_equal(rw_binidx_create(&w, rw_test_path(name), RW_BINIDX_U16, &err), RW_OK);
    assert_int_equal(rw_binidx_write(w, ids, n, &err), RW_OK);
    assert_int_equal(rw_binidx_commit(w, &err), RW_OK);
    rw_free(ids);
    return rw_test_path(name);
}

/* The mark's last id, and all after it up to a 0; a window sees only a mark that is whole inside of it. */
static float answer_at(const int32_t *row, int64_t i) {
    for (int64_t k = i; k >= 3 && row[k] != 0; k--)
        if (row[k] == 27 && row[k - 1] == 34 && row[k - 2] == 187 && row[k - 3] == 187) return 1;
    return 0;
}

static void test_answers(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(questions("qa", 130));
    plan.qa_mask = true;
    rw_loader *l = open_loader(&plan, NULL);
    int n_whole = 0, n_part = 0;
    for (int step = 0; step < 60; step++) {
        const rw_batch *b = next(l);
        double sum = 0;
        for (int r = 0; r < ROWS; r++) {
            const int32_t *row = b->tokens + r * T;
            bool any = false;
            for (int i = 0; i < T; i++) any |= answer_at(row, i) > 0;
            for (int i = 0; i < T; i++) assert_true(b->mask[r * T + i] == (any ? answer_at(row, i) : 1));
            for (int i = 0; i < T; i++) sum += b->mask[r * T + i];
            n_whole += !any;
            n_part += any;
        }
        assert_true(b->mask_sum == sum);
    }
    assert_true(n_whole > 20 && n_part > 20);
    rw_loader_close(l);
}

/* A loader that begins at the cursor of a batch gives what would have followed. */
static void test_cubic_resumes(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 251));
    plan.sampler = RW_SAMPLER_CUBIC;
    rw_loader *l = open_loader(&plan, NULL);
    rw_cursor cursor = {0};
    for (int step = 0; step < 17; step++) cursor = next(l)->next;
    rw_loader *resumed = open_loader(&plan, &cursor);
    for (int step = 17; step < 40; step++)
        assert_memory_equal(next(l)->tokens, next(resumed)->tokens, ROWS * T * sizeof(int32_t));
    rw_loader_close(resumed);
    rw_loader_close(l);
}

static void test_batches(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 1000));
    rw_loader *l = open_loader(&plan, NULL);
    for (uint64_t step = 0; step < 200; step++) check_batch(next(l), step, 1000);
    rw_loader_close(l);
}

/* More room than sequences: the rest are empty ones at the end. */
static void test_borders_have_a_fixed_length(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 1000));
    plan.max_seq = ROWS + 3;
    rw_loader *l = open_loader(&plan, NULL);
    for (uint64_t step = 0; step < 7; step++) {
        const rw_batch *b = next(l);
        check_batch(b, step, 1000);
        for (int i = ROWS; i <= ROWS + 3; i++) assert_int_equal(b->cu_seqlens[i], ROWS * T);
        for (int i = 0; i < ROWS + 3; i++) assert_int_equal(b->source[i], 0);
    }
    assert_int_equal(rw_loader_host_bytes(l), rw_loader_bytes_for(&plan, plan.data_file));
    rw_loader_close(l);
}

/* The last `accumulate` batches stay as they were, however far the thread has run ahead. */
static void test_held(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 1000));
    rw_loader *l = open_loader(&plan, NULL);
    const rw_batch *held[ACC];
    for (uint64_t step = 0; step < 60; step++) {
        held[step % ACC] = next(l);
        if (step % 7 == 0) usleep(2000);
        for (uint64_t k = 0; k < ACC && k <= step; k++) check_batch(held[(step - k) % ACC], step - k, 1000);
    }
    rw_loader_close(l);
}

static void test_resume(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 1000));
    rw_loader *l = open_loader(&plan, NULL);
    rw_cursor cursor = {0};
    for (uint64_t step = 0; step < 17; step++) cursor = next(l)->next;
    rw_loader_close(l);
    rw_str json = {0};
    rw_error err = {0};
    rw_cursor back = {0};
    rw_cursor_append_json(&cursor, &json);
    assert_int_equal(rw_cursor_parse_json(&back, json.data, json.len, RW_AT_NONE, &err), RW_OK);
    l = open_loader(&plan, &back);
    for (uint64_t step = 17; step < 40; step++) check_batch(next(l), step, 1000);
    rw_loader_close(l);
    rw_str_done(&json);

    plan = plan_for(count_up("a", 1001)); /* the same name, other data */
    assert_int_equal(rw_loader_open(&l, &plan, plan.data_file, &back, NULL, &err), RW_E_DATA);
    assert_mentions(&err, "not the data that the saved run used (1001 tokens now, 1000 then)");
    assert_null(l);
    plan = plan_for(count_up("b", 1000)); /* as many tokens, another name */
    assert_int_equal(rw_loader_open(&l, &plan, plan.data_file, &back, NULL, &err), RW_E_DATA);
}

/* All tokens but the first are targets once, in order; what is beyond the end has mask 0. */
static void check_eval(int64_t n_tokens) {
    const char *file = count_up("v", n_tokens);
    rw_plan_data plan = plan_for("elsewhere");
    plan.valid_file = file;
    rw_error err = {0};
    rw_data_info info;
    rw_loader *l;
    assert_int_equal(rw_loader_open(&l, &plan, file, NULL, &info, &err), RW_OK);
    int64_t n = rw_loader_n_eval_batches(l), at = 0;
    assert_int_equal(n, (n_tokens - 1 + ROWS * T - 1) / (ROWS * T));
    for (int64_t i = 0; i < n; i++) {
        const rw_batch *b;
        double sum = 0;
        assert_int_equal(rw_loader_eval_batch(l, i, &b, &err), RW_OK);
        for (int64_t k = 0; k < ROWS * T; k++) {
            sum += (double)b->mask[k];
            bool counts = at < n_tokens - 1;
            assert_true(b->mask[k] == (counts ? 1 : 0));
            assert_int_equal(b->tokens[k], counts ? at % 251 + 1 : 0);
            assert_int_equal(b->targets[k], counts ? (at + 1) % 251 + 1 : 0);
            if (counts) at++;
        }
        assert_true(b->mask_sum == sum && sum > 0);
    }
    assert_int_equal(at, n_tokens - 1);
    const rw_batch *b;
    assert_int_equal(rw_loader_eval_batch(l, n, &b, &err), RW_E_INTERNAL);
    assert_int_equal(rw_loader_eval_batch(l, -1, &b, &err), RW_E_INTERNAL);
    assert_int_equal(rw_loader_next(l, &b, &err), RW_E_INTERNAL); /* for validation only */
    assert_int_equal(info.host_bytes, rw_loader_host_bytes(l));
    rw_loader_close(l);
}

static void test_eval(void **state) {
    (void)state;
    static const int64_t sizes[] = {2, 5, 8, 9, 10, 24, 25, 26, 100, 1000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) check_eval(sizes[i]);
}

static void test_eval_beside_training(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 1000));
    rw_loader *l = open_loader(&plan, NULL);
    rw_error err = {0};
    const rw_batch *b, *e;
    for (uint64_t step = 0; step < 20; step++) {
        b = next(l);
        assert_int_equal(rw_loader_eval_batch(l, (int64_t)step % 10, &e, &err), RW_OK);
        assert_int_equal(e->tokens[0], ((int64_t)step % 10 * ROWS * T) % 251 + 1);
        check_batch(b, step, 1000);
    }
    rw_loader_close(l);
}

static void test_info(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 1000));
    rw_data_info info, again;
    rw_error err = {0};
    rw_loader *l;
    assert_int_equal(rw_data_info_read(&plan, plan.data_file, &info, &err), RW_OK);
    assert_int_equal(rw_loader_open(&l, &plan, plan.data_file, NULL, &again, &err), RW_OK);
    assert_memory_equal(&info, &again, sizeof info);
    assert_int_equal(info.n_tokens, 1000);
    assert_int_equal(info.n_documents, 1);
    assert_int_equal(info.n_bytes, 2000);
    assert_int_equal(info.host_bytes, rw_loader_host_bytes(l));
    assert_int_equal(info.host_bytes, rw_loader_bytes_for(&plan, plan.data_file));
    assert_int_equal(next(l)->next.data_hash, info.hash);
    rw_loader_close(l);
}

/* Two blocks for a running loader and none asked for later. */
static void test_no_allocation(void **state) {
    (void)state;
    int64_t live = rw_alloc_live();
    rw_plan_data plan = plan_for(count_up("a", 1000));
    rw_loader *l = open_loader(&plan, NULL);
    assert_int_equal(rw_alloc_live(), live + 2);
    int64_t calls = rw_alloc_calls();
    for (int i = 0; i < 50; i++) next(l);
    assert_int_equal(rw_alloc_calls(), calls);
    rw_loader_close(l);
    assert_int_equal(rw_alloc_live(), live);
}

static void test_too_short(void **state) {
    (void)state;
    rw_error err = {0};
    rw_loader *l;
    rw_plan_data plan = plan_for(count_up("short", T + 1));
    assert_int_equal(rw_loader_open(&l, &plan, plan.data_file, NULL, NULL, &err), RW_E_DATA);
    assert_mentions(&err, "9 tokens are too few for ctx_len 8: at least 10 are needed");
    plan = plan_for(count_up("short", T + 2));
    l = open_loader(&plan, NULL);
    assert_int_equal(next(l)->tokens[0], 1);
    rw_loader_close(l);
    plan = plan_for(count_up("short", 3 * T - 1));
    plan.sampler = RW_SAMPLER_CUBIC;
    assert_int_equal(rw_loader_open(&l, &plan, plan.data_file, NULL, NULL, &err), RW_E_DATA);
    assert_mentions(&err, "23 tokens are too few for ctx_len 8: at least 24 are needed");
    plan.data_file = count_up("short", 3 * T);
    l = open_loader(&plan, NULL);
    assert_int_equal(next(l)->tokens[0], T + 1);
    rw_loader_close(l);
    plan = plan_for("elsewhere");
    plan.valid_file = count_up("short", 1);
    assert_int_equal(rw_loader_open(&l, &plan, plan.valid_file, NULL, NULL, &err), RW_E_DATA);
}

static void test_bad_plan(void **state) {
    (void)state;
    rw_error err = {0};
    rw_loader *l;
    rw_plan_data good = plan_for(count_up("a", 1000)), plan;
#define BAD(field, value)                                                                                              \
    plan = good, plan.field = (value);                                                                                 \
    assert_int_not_equal(rw_loader_open(&l, &plan, plan.data_file, NULL, NULL, &err), RW_OK)
    BAD(ctx_len, 0);
    BAD(ctx_len, INT64_MAX);
    BAD(rows_per_batch, 0);
    BAD(rows_per_batch, INT64_MAX / 4);
    BAD(max_seq, ROWS - 1);
    assert_mentions(&err, "sequences, and room for");
    BAD(max_seq, INT64_MAX);
    BAD(accumulate, -1);
    BAD(accumulate, INT64_MAX);
    BAD(vocab_size, 0);
    BAD(vocab_size, INT64_MAX);
}

/* An id that the model does not have: the batches before it come, then the error, again and again. */
static void test_bad_id(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 100));
    plan.vocab_size = 98; /* token 97 has the id 98: the last that the starts 0 .. 90 reach is token 98 */
    uint64_t first_bad = 0;
    for (bool bad = false; !bad; first_bad++)
        for (int r = 0; r < ROWS; r++) bad |= rw_sampler_random(99, first_bad, ROWS, r, 100, T) + T >= 97;
    first_bad--;
    rw_error err = {0};
    rw_loader *l = open_loader(&plan, NULL);
    const rw_batch *b;
    for (uint64_t step = 0; step < first_bad; step++) check_batch(next(l), step, 100);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(rw_loader_next(l, &b, &err), RW_E_DATA);
        assert_null(b);
        assert_mentions(&err, "token 97 has the id 98, but the model's vocab_size is 98");
        assert_string_equal(err.at.file, plan.data_file);
    }
    assert_true(first_bad > 0);
    rw_loader_close(l);
}

static void test_file_cut(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("cut", 5000));
    rw_error err = {0};
    rw_loader *l = open_loader(&plan, NULL);
    char bin[4200];
    snprintf(bin, sizeof bin, "%s.bin", plan.data_file);
    assert_int_equal(truncate(bin, 100), 0);
    const rw_batch *b;
    rw_status s = RW_OK;
    for (int i = 0; i < 1000 && s == RW_OK; i++) s = rw_loader_next(l, &b, &err);
    assert_int_equal(s, RW_E_IO);
    assert_mentions(&err, "became shorter while in use");
    rw_loader_close(l);
}

/* Opening and closing at any moment of the thread's work; and no waiting. */
static void test_close(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 1000));
    const clock_t start = clock();
    for (int i = 0; i < 200; i++) {
        rw_loader *l = open_loader(&plan, NULL);
        for (int k = 0; k < i % 5; k++) next(l);
        rw_loader_close(l);
    }
    rw_loader_close(NULL);
    assert_true(clock() - start < 20 * CLOCKS_PER_SEC); /* of the processor: others use it too */
}

static volatile sig_atomic_t handled_by_other;
static pthread_t main_thread;

static void on_signal(int number) {
    (void)number;
    if (!pthread_equal(pthread_self(), main_thread)) handled_by_other = 1;
}

/* With the main thread's own mask closed, a SIGINT to the process stays pending: nobody else takes it. */
static void test_signals(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 1000));
    sigset_t set, pending;
    main_thread = pthread_self();
    signal(SIGINT, on_signal);
    rw_loader *l = open_loader(&plan, NULL);
    next(l);
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    kill(getpid(), SIGINT);
    usleep(20000);
    sigpending(&pending);
    assert_true(sigismember(&pending, SIGINT));
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    assert_false(handled_by_other);
    signal(SIGINT, SIG_DFL);
    rw_loader_close(l);
}

/* jsonl goes the same way; each document ends with id 0. */
static void test_jsonl(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(write_text("l.jsonl", "{\"text\": \"abcdefgh\"}\n{\"text\": \"ij\"}\n"));
    plan.data_type = RW_FORMAT_JSONL;
    plan.tokenizer = RW_TOKENIZER_BYTE;
    plan.vocab_size = 257;
    plan.ctx_len = 10;
    rw_data_info info;
    rw_error err = {0};
    rw_loader *l;
    assert_int_equal(rw_loader_open(&l, &plan, plan.data_file, NULL, &info, &err), RW_OK);
    assert_int_equal(info.n_tokens, 12);
    assert_int_equal(info.n_documents, 2);
    static const int32_t want[] = {98, 99, 100, 101, 102, 103, 104, 105, 0, 106};
    assert_memory_equal(next(l)->tokens, want, sizeof want);
    rw_loader_close(l);
}

static int count_open_files(void) {
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static void test_no_memory(void **state) {
    (void)state;
    rw_plan_data plan = plan_for(count_up("a", 1000));
    int64_t live = rw_alloc_live();
    int n = 0, files = count_open_files();
    for (rw_status s = RW_E_MEMORY; s != RW_OK;) {
        rw_error err = {0};
        rw_loader *l;
        rw_alloc_fail_after(++n);
        s = rw_loader_open(&l, &plan, plan.data_file, NULL, NULL, &err);
        rw_alloc_fail_after(0);
        if (s != RW_OK) assert_int_equal(s, RW_E_MEMORY);
        rw_loader_close(l);
        assert_int_equal(rw_alloc_live(), live);
        assert_int_equal(count_open_files(), files);
    }
    assert_true(n > 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_cubic),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_cubic_resumes),
        cmocka_unit_test(test_borders_have_a_fixed_length),
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_eval),
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_eval_beside_training),
        cmocka_unit_test(test_too_short),
        cmocka_unit_test(test_no_allocation),
        cmocka_unit_test(test_bad_plan),
        cmocka_unit_test(test_bad_id),
        cmocka_unit_test(test_file_cut),
        cmocka_unit_test(test_close),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_jsonl),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
