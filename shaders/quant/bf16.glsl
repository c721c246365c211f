// BF16: the upper halves of floats.
#include "halves.glsl"
vec4 codes(Block k, uint j) {
    uint low = (j & 1u) * 2u, first = k.q[j >> 1][low], second = k.q[j >> 1][low + 1u];
    return uintBitsToFloat(uvec4(first << 16, first & 0xffff0000u, second << 16, second & 0xffff0000u));
}
