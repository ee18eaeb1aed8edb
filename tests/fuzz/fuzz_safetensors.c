/* safetensors: the input is the header and the data; the length field before them is put in, taken from a first byte
 * that says where the header ends (in 1/256 of the rest; 255: all but the last bytes after the last brace). */
#include "core/checkpoint/little_endian.h"
#include "tests/fuzz/fuzz_tensor_file.h"

#include <string.h>

static size_t header_length(const uint8_t *data, size_t n, uint8_t where) {
    if (where != 255) return n * where / 255;
    while (n && data[n - 1] != '}') n--;
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    open_bytes(data, size);
    if (size < 1) return 0;
    uint8_t *file = malloc(size + 8);
    rw_put_le64(file, header_length(data + 1, size - 1, data[0]));
    memcpy(file + 8, data + 1, size - 1);
    open_bytes(file, size + 7);
    free(file);
    return 0;
}
