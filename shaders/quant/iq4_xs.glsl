// IQ4_XS: superblocks of 8 blocks of nibbles for 16 values, a six-bit scale less 32 per block.
#include "iq4_values.glsl"

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint super_ = block / 8u, num_super = nb / 8u, in_super = block & 7u;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    uint first = scale_word(group, super_, num_super, 2u, 0u, lane);
    uint low = (scale_word(group, super_, num_super, 2u, 1u, lane) >> (4u * in_super)) & 15u;
    uint high = (first >> (16u + 2u * in_super)) & 3u;
    k.d = unpackHalf2x16(first).x * float(int(low | high << 4u) - 32);
    return k;
}
