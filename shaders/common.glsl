// Declares and reads the inputs of kernels.
//
// TEXEL: inputs are uniform texel buffers, which llvmpipe gathers 12 times as fast as storage buffers.
#include "unroll.glsl"

// LOAD_WORD: of an input of fours, one component.
#ifdef TEXEL
#define INPUT1(BINDING, NAME) layout(binding = BINDING) uniform samplerBuffer NAME
#define LOAD1(NAME, i) texelFetch(NAME, int(i)).x
#define INPUT4(BINDING, NAME) layout(binding = BINDING) uniform samplerBuffer NAME
#define INPUT4U(BINDING, NAME) layout(binding = BINDING) uniform usamplerBuffer NAME
#define LOAD4(NAME, i) texelFetch(NAME, int(i))
#define LOAD_WORD(NAME, i) texelFetch(NAME, int((i) / 4u))[(i) % 4u]
#else
#define INPUT1(BINDING, NAME) \
    layout(std430, binding = BINDING) readonly buffer NAME##_ { float NAME[]; }
#define LOAD1(NAME, i) NAME[i]
#define INPUT4(BINDING, NAME) \
    layout(std430, binding = BINDING) readonly buffer NAME##_ { vec4 NAME[]; }
#define INPUT4U(BINDING, NAME) \
    layout(std430, binding = BINDING) readonly buffer NAME##_ { uvec4 NAME[]; }
#define LOAD4(NAME, i) NAME[i]
#define LOAD_WORD(NAME, i) NAME[(i) / 4u][(i) % 4u]
#endif
