// MXFP4: 32 nibbles (E2M1: sign, two bits of exponent, one of mantissa), a power of two as scale. Codes are
// 16 + twice the value: 0, 1, 2, 3, 4, 6, 8 and 12 with a sign. w = d * q - 16 d.
#define SCALES_PER_BLOCK 1
#define HAS_OFFSET 1
#define CODE_SCALE(j) BYTE_SCALE
#define CODE_CENTER 16.0
struct Block {
    uvec4 q;
    float d;
};

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    k.q = QUANTS((group * nb + block) * GROUP_ROWS + lane);
    uint exponent =
        bitfieldExtract(scale_word(group, block / 4u, (nb + 3u) / 4u, 1u, 0u, lane), int(block & 3u) * 8, 8);
    k.d = uintBitsToFloat(exponent < 2u ? 0x00200000u << exponent : (exponent - 1u) << 23u);
    return k;
}
float block_scale(Block k, uint half_) { return k.d; }
float block_offset(Block k, uint half_) { return -16.0 * k.d; }
// Four bytes at a time. Magnitudes from 4 on are codes 4 to 7 plus 0, 1, 2 and 5.
uint code_bytes(Block k, uint j) {
    uint v = nibble_bytes(k.q, j), code = v & 0x07070707u;
    uint is_large = (code >> 2u) & 0x01010101u, is_three = (code >> 1u) & code & 0x01010101u;
    uint magnitude = code + (((code & 0x03030303u) + 2u * is_three) & (7u * is_large));
    uint flip = 31u * ((v >> 3u) & 0x01010101u);  // 31 - m - 15 is 16 - m
    return (magnitude ^ flip) + 0x10101010u - flip;
}
vec4 codes(Block k, uint j) { return bytes_of(code_bytes(k, j)); }
