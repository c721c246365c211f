// IQ4_NL: 32 nibbles for 16 values, one half scale.
#include "iq4_values.glsl"

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    k.d = paired_half(scale_word(group, block / 2u, (nb + 1u) / 2u, 1u, 0u, lane), block);
    return k;
}
