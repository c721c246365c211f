// F16.
#include "halves.glsl"
vec4 codes(Block k, uint j) {
    uint low = (j & 1u) * 2u;
    return vec4(unpackHalf2x16(k.q[j >> 1][low]), unpackHalf2x16(k.q[j >> 1][low + 1u]));
}
