/* The pickle reader over any bytes. */
#include "core/base/arena.h"
#include "core/checkpoint/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    rw_arena a = {0};
    const rw_pickle_value *root;
    rw_pickle_tensor *tensors;
    const char **strings;
    rw_error err = {0};
    int64_t n, used;
    if (rw_pickle_read(data, (int64_t)size, RW_AT_NONE, &a, &root, &used, &err) == RW_OK) {
        rw_pickle_tensors(root, RW_AT_NONE, &a, &tensors, &n, &err);
        rw_pickle_strings(root, RW_AT_NONE, &a, &strings, &n, &err);
    }
    rw_arena_done(&a);
    return 0;
}
