/* .pth files (zip and the stream before it), and files that are something else: any bytes. */
#include "tests/fuzz/fuzz_tensor_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    open_bytes(data, size);
    return 0;
}
