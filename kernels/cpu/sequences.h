/* Packed rows, one after the other, with the borders of their sequences. */
#ifndef RW_KERNELS_CPU_SEQUENCES_H
#define RW_KERNELS_CPU_SEQUENCES_H

#include "kernels/cpu/cpu.h"

typedef struct {
    const int32_t *cu_seqlens;
    int64_t n_seq, R;
    int64_t index, first, last; /* the sequence and its rows [first, last) */
} rw_sequence;

/* Moves on to the sequence that holds `row` (rows only grow); empty ones are passed over. */
static inline void rw_sequence_seek(rw_sequence *s, int64_t row) {
    while (row >= s->last && s->index + 1 < s->n_seq) {
        s->index++;
        s->first = s->last;
        s->last = rw_seq_row(s->cu_seqlens, s->n_seq, s->R, s->index + 1);
    }
}

static inline rw_sequence rw_sequence_at(const int32_t *cu_seqlens, int64_t n_seq, int64_t R, int64_t row) {
    rw_sequence s = {.cu_seqlens = cu_seqlens, .n_seq = n_seq, .R = R};
    s.first = rw_seq_row(cu_seqlens, n_seq, R, 0);
    s.last = n_seq > 0 ? rw_seq_row(cu_seqlens, n_seq, R, 1) : s.first;
    rw_sequence_seek(&s, row);
    return s;
}

#endif
