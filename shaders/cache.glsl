// Keys and values of earlier positions: (pages, kv_heads, page_size, head_dim) of floats, of half floats (two
// in a uint), or of bytes. The includer defines CACHE (one of the types below), HEAD_DIM and PAGE_SIZE. Twin
// of the bytes: vkbackend/ops/q8_cache.py
const uint CACHE_F32 = 0u, CACHE_F16 = 1u, CACHE_Q8 = 2u;  // TYPES in q8_cache.py
const uint Q8_BLOCK = 32u;                                 // elements that share a scale

// Row of a position: rows of one head of a page are neighbors.
uint cache_row(uint page, uint kv_head, uint kv_heads, uint slot) {
    return (page * kv_heads + kv_head) * PAGE_SIZE + slot;
}

// Stores elements at and at + 1 of a cache of floats or half floats.
#define STORE2(NAME, at, pair)                       \
    if (CACHE == CACHE_F16) {                        \
        NAME[(at) / 2u] = packHalf2x16(pair);        \
    } else {                                         \
        NAME[at] = floatBitsToUint((pair).x);        \
        NAME[(at) + 1u] = floatBitsToUint((pair).y); \
    }

// Bytes: for each head of a page the codes of its positions, then their scales, two in a word. In words:
uint q8_scale_words() { return (HEAD_DIM + 2u * Q8_BLOCK - 1u) / (2u * Q8_BLOCK); }  // of a position
uint q8_head(uint row) { return row / PAGE_SIZE * (PAGE_SIZE * (HEAD_DIM / 4u + q8_scale_words())); }
uint q8_codes(uint row) { return q8_head(row) + row % PAGE_SIZE * (HEAD_DIM / 4u); }
uint q8_scales(uint row) {
    return q8_head(row) + PAGE_SIZE * (HEAD_DIM / 4u) + row % PAGE_SIZE * q8_scale_words();
}

vec4 q8_signed(uint codes) {
    int v = int(codes);
    return vec4(bitfieldExtract(v, 0, 8), bitfieldExtract(v, 8, 8), bitfieldExtract(v, 16, 8), v >> 24);
}

// q8_unit: step of a block, its largest magnitude / 127. q8_stored_unit: that step rounded to a half float.
// q8_rounded: four codes in a word, halves away from zero. `precise`: rounding must not depend on the shader
// around it.
float q8_unit(float largest) {
    precise float unit = largest / 127.0;
    return unit;
}
float q8_stored_unit(float unit) { return unpackHalf2x16(packHalf2x16(vec2(unit, 0.0))).x; }
uint q8_rounded(vec4 v, float unit) {
    precise float factor = unit > 0.0 ? 1.0 / unit : 0.0;
    precise vec4 wanted = v * factor;
    vec4 size = abs(wanted), whole = floor(size);
    precise vec4 rest = size - whole;
    ivec4 code = ivec4(sign(wanted) * (whole + floor(2.0 * rest))) & 255;
    return uint(code.x | code.y << 8 | code.z << 16 | code.w << 24);
}
float q8_largest(vec4 v) {
    vec4 size = abs(v);
    return max(max(size.x, size.y), max(size.z, size.w));
}
