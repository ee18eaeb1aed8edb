/* Metadata of a file of tensors whose value is a JSON object. */
#ifndef RW_CHECKPOINT_METADATA_JSON_H
#define RW_CHECKPOINT_METADATA_JSON_H

#include "core/base/json.h"
#include "core/checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The object under `key`, for json_decref(). E_FORMAT when there is none, or it is no object. */
rw_status rw_metadata_json(const rw_tensor_file *f, const char *path, const char *key, json_t **out, rw_error *err);

#ifdef __cplusplus
}
#endif
#endif
