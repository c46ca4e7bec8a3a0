/* One gzip member through ISA-L, with its trailer checked. */
#include <stddef.h>
#include <stdint.h>
#include <isa-l/igzip_lib.h>

/* Returns the inflated length, or -1 where the body is damaged or larger than the room. */
long bench_gunzip(const uint8_t *body, size_t body_bytes, uint8_t *room, size_t room_bytes) {
    static __thread struct inflate_state state;
    isal_inflate_init(&state);
    state.crc_flag = ISAL_GZIP;
    state.next_in = (uint8_t *)body;
    state.avail_in = (uint32_t)body_bytes;
    state.next_out = room;
    state.avail_out = (uint32_t)room_bytes;
    if (isal_inflate(&state) != ISAL_DECOMP_OK || state.block_state != ISAL_BLOCK_FINISH || state.avail_in != 0)
        return -1;
    return (long)state.total_out;
}
