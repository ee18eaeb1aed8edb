/* What a training state says about its run: which state, its pairs, and files that are none. */
#include "tests/unit/checkpoint/checkpoint_test.h"

#include "core/checkpoint/saved_run.h"

/* A state with one number in it and these two entries of metadata (NULL: left out). */
static const char *put_state(const char *name, const char *recipe, const char *choices) {
    static const float zero = 0;
    const char *path = rw_test_path(name);
    const rw_save_tensor tensor = {.name = "param.x",
                                   .ndim = 1,
                                   .shape = {1},
                                   .src_dtype = RW_F32,
                                   .dtype = RW_F32,
                                   .fetch = rw_save_fetch_contiguous,
                                   .data = &zero};
    const char *metadata[4][2] = {{"format", RW_STATE_FORMAT}, {"version", RW_STATE_VERSION}};
    int n = 2;
    rw_error err = {0};
    if (recipe) {
        metadata[n][0] = "recipe";
        metadata[n++][1] = recipe;
    }
    if (choices) {
        metadata[n][0] = "choices";
        metadata[n++][1] = choices;
    }
    assert_int_equal(rw_safetensors_write(path, &tensor, 1, (const char *const(*)[2])metadata, n, &err), RW_OK);
    return path;
}

static void finds_the_newest(void **state) {
    (void)state;
    rw_error err = {0};
    rw_saved_run run;
    assert_int_equal(rw_saved_run_find(&run, "auto", rw_test_path("nowhere"), &err), RW_OK);
    assert_null(run.path);
    assert_null(rw_saved_run_choice(&run, "threads"));
    assert_int_equal(rw_saved_run_number(NULL, "threads"), 0);
    put_state("state-2.safetensors", "{}", "{}");
    put_state("state-10.safetensors", "{\"train.lr_init\":\"1e-5\",\"model.arch\":\"x060\"}",
              "{\"threads\":\"7\",\"list\":[1],\"device\":\"cpu\"}");
    assert_int_equal(rw_saved_run_find(&run, "auto", rw_test_folder(), &err), RW_OK);
    assert_non_null(strstr(run.path, "/state-10.safetensors"));
    assert_false(run.named);
    assert_int_equal(run.keys.n, 2);
    assert_string_equal(run.keys.at[0].name, "train.lr_init");
    assert_string_equal(run.keys.at[0].value, "1e-5");
    assert_int_equal(run.choices.n, 2); /* what is no string is left out */
    assert_int_equal(rw_saved_run_number(&run, "threads"), 7);
    assert_int_equal(rw_saved_run_number(&run, "device"), 0);
    assert_string_equal(rw_saved_run_choice(&run, "device"), "cpu");
    rw_saved_run_done(&run);
    assert_int_equal(rw_saved_run_find(&run, "never", rw_test_folder(), &err), RW_OK);
    assert_null(run.path);
    rw_saved_run_done(&run);
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *recipe, *choices, *message;
    } rows[] = {{NULL, "{}", "metadata 'recipe' is missing; is this a training state?"},
                {"{}", NULL, "metadata 'choices' is missing"},
                {"[]", "{}", "metadata 'recipe' is not a JSON object"},
                {"{", "{}", "state.safetensors"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rw_error err = {0};
        rw_saved_run run;
        char text[2048];
        int64_t live = rw_alloc_live();
        const char *path = put_state("state.safetensors", rows[i].recipe, rows[i].choices);
        assert_int_equal(rw_saved_run_find(&run, path, "unused", &err), RW_E_FORMAT);
        assert_true(run.named);
        rw_error_format(&err, text, sizeof text);
        if (!strstr(text, rows[i].message)) fail_msg("'%s' is not in '%s'", rows[i].message, text);
        rw_saved_run_done(&run);
        rw_error_clear(&err);
        assert_int_equal(rw_alloc_live(), live);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(finds_the_newest), cmocka_unit_test(refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
