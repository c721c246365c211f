// IQ2_*, IQ3_* and IQ1_*: superblocks of 8 blocks; four or eight weights share an index into a table of the
// format, which begins the plane of scales. Codes are 64 + the value; GRID says which format it is.
#define SCALES_PER_BLOCK 2
#define HAS_OFFSET 1
#define CODE_SCALE(j) BYTE_SCALE
#define CODE_CENTER 64.0
layout(constant_id = 20) const uint GRID = 16;  // one of those below: ggml's number
const uint IQ2_XXS = 16u, IQ2_XS = 17u, IQ3_XXS = 18u, IQ1_S = 19u, IQ3_S = 21u, IQ2_S = 22u, IQ1_M = 29u;
const bool IS_IQ1 = GRID == IQ1_S || GRID == IQ1_M, IS_IQ3 = GRID == IQ3_XXS || GRID == IQ3_S;
const uint ENTRIES = IS_IQ1           ? 2048u
                     : GRID == IQ2_S  ? 1024u
                     : GRID == IQ3_S  ? 512u
                     : GRID == IQ2_XS ? 512u
                                      : 256u;
const uint RECORD_WORDS = GRID == IQ2_XXS   ? 1u
                          : GRID == IQ2_XS  ? 3u
                          : GRID == IQ3_XXS ? 9u
                          : GRID == IQ3_S   ? 12u
                          : GRID == IQ1_M   ? 6u
                                            : 5u;
// signs: bit i is set if element i is negative; of IQ1, if group i of eight is moved down.
// high: the upper bits of the indices.
struct Block {
    uvec2 q;
    uint high, signs;
    vec2 d;
};

// Four bytes of seven bits, with an eighth that makes the number of bits even.
uint even_bytes(uint v) {
    uint parity = v ^ (v >> 4u);
    parity ^= parity >> 2u;
    parity ^= parity >> 1u;
    return v | (parity & 0x01010101u) << 7u;
}
// Four times seven bits -> four bytes.
uint sevens(uint v) {
    return (v & 0x7fu) | (v & 0x3f80u) << 1u | (v & 0x1fc000u) << 2u | (v & 0xfe00000u) << 3u;
}
uint byte_at(uint v, uint i) { return (v >> (8u * i)) & 0xffu; }
uint short_at(uint v, uint i) { return (v >> (16u * i)) & 0xffffu; }

Block load_block(uint group, uint block, uint lane, uint nb) {
    Block k;
    uint record = group * (nb / 8u) + block / 8u, b = block & 7u;
#define WORD(t) SCALES(ENTRIES + (record * RECORD_WORDS + (t)) * GROUP_ROWS + lane)
    if (IS_IQ1)
        k.q = uvec2(QUANTS((group * (nb / 4u) + block / 4u) * GROUP_ROWS + lane)[block & 3u], 0u);
    else
        k.q = half_vector(QUANTS((group * (nb / 2u) + block / 2u) * GROUP_ROWS + lane), block);
    k.high = 0u;
    uint first = WORD(0u);
    float d = unpackHalf2x16(first).x;
    if (GRID == IQ2_XXS) {
        k.signs = even_bytes(sevens(k.q.y));
        k.d = vec2(d * (0.5 + float(k.q.y >> 28u)) * 0.25);
    } else if (GRID == IQ2_XS) {
        uint scale = byte_at(WORD(1u + b / 4u), b & 3u);
        k.signs = even_bytes(((k.q.x >> 9u) & 0x7fu) | (k.q.x >> 25u) << 8u | ((k.q.y >> 9u) & 0x7fu) << 16u |
                             (k.q.y >> 25u) << 24u);
        k.d = d * (0.5 + vec2(scale & 15u, scale >> 4u)) * 0.25;
    } else if (GRID == IQ2_S) {
        uint scale = byte_at(WORD(3u + b / 4u), b & 3u);
        k.high = byte_at(WORD(1u + b / 4u), b & 3u);
        k.signs = k.q.y;
        k.d = d * (0.5 + vec2(scale & 15u, scale >> 4u)) * 0.25;
    } else if (GRID == IQ3_XXS) {
        uint word = WORD(1u + b);
        k.signs = even_bytes(sevens(word));
        k.d = vec2(d * (0.5 + float(word >> 28u)) * 0.5);
    } else if (GRID == IQ3_S) {
        k.high = byte_at(WORD(2u + b / 4u), b & 3u);
        k.signs = WORD(4u + b);
        k.d = vec2(d * float(1u + 2u * ((WORD(1u) >> (4u * b)) & 15u)));
    } else if (GRID == IQ1_S) {
        k.high = short_at(WORD(1u + b / 2u), b & 1u);
        k.signs = k.high >= 0x8000u ? 15u : 0u;
        k.d = vec2(d * float(1u + 2u * ((k.high >> 12u) & 7u)) * 0.125);
    } else {  // IQ1_M
        uint second = WORD(1u), threes = short_at(b < 4u ? first : second, (b / 2u) & 1u) >> (6u * (b & 1u));
        d = unpackHalf2x16(((first >> 12u) & 0xfu) | ((first >> 24u) & 0xf0u) | ((second >> 4u) & 0xf00u) |
                           ((second >> 16u) & 0xf000u))
                .x;
        uint four = short_at(WORD(2u + b / 2u), b & 1u);  // three bits of each index, then its sign
        k.high = (four & 7u) | (four & 0x70u) >> 1u | (four & 0x700u) >> 2u | (four & 0x7000u) >> 3u;
        k.signs = ((four >> 3u) & 1u) | ((four >> 6u) & 2u) | ((four >> 9u) & 4u) | ((four >> 12u) & 8u);
        k.d = d * vec2(1u + 2u * (threes & 7u), 1u + 2u * ((threes >> 3u) & 7u)) * 0.125;
    }
    return k;
}
float block_scale(Block k, uint half_) { return k.d[half_]; }
float block_offset(Block k, uint half_) { return -64.0 * k.d[half_]; }

// 64 plus or minus each byte's magnitude, below 64. 127 - m - 63 is 64 - m.
uint with_signs(uint magnitudes, uint signs) {
    uint flip = ((signs * 0x00204081u) & 0x01010101u) * 127u;  // bit i of four to byte i
    return (magnitudes ^ flip) + 0x40404040u - flip;
}

uint code_bytes(Block k, uint j) {
    if (IS_IQ3) {
        uint index = byte_at(k.q[j >> 2u], j & 3u) | ((k.high >> j) & 1u) << 8u;
        return with_signs(SCALES(index), (k.signs >> (4u * j)) & 15u);
    }
    // A word of the table has eight digits 0, 1 and 2: elements 0-3 in its low nibbles, 4-7 in the high
    // ones.
    uint g = j >> 1u, index = byte_at(k.q.x, g);
    if (GRID == IQ2_XS) index = short_at(k.q[g >> 1u], g & 1u) & 511u;
    if (GRID == IQ2_S) index |= ((k.high >> (2u * g)) & 3u) << 8u;
    if (IS_IQ1) index |= ((k.high >> (3u * g)) & 7u) << 8u;
    uint digits = (SCALES(index) >> (4u * (j & 1u))) & 0x0f0f0f0fu;
    if (IS_IQ1) {  // 8 (digit - 1), plus or minus 1
        uint moved = 8u * digits + 0x39393939u;
        return ((k.signs >> g) & 1u) == 0u ? moved : moved - 0x02020202u;
    }
    uint magnitudes = 17u * digits + 0x08080808u + ((digits >> 1u) & 0x01010101u);  // 8, 25, 43
    return with_signs(magnitudes, (k.signs >> (4u * j)) & 15u);
}
vec4 codes(Block k, uint j) { return bytes_of(code_bytes(k, j)); }
