#version 450
// y = norm(x) W^T [+ residual] over quantized weights, or act(gate) * up of two such products, for one token (decode) or many
// (prefill). Twin: vkbackend/ops/matmul.py
//
// One lane owns ROWS rows of W (in steps of the lanes beside it) and TOKENS tokens, and walks along K in blocks of 32.
// The 32 activations of a block are loaded once per subgroup, spread over its lanes, and handed round by broadcast
// (or, in the base variant, by shared memory). Every (row, token) is one chain of fma in the order of K, or SLICES of them
// that are added up in order, so that its bits do not depend on ROWS, TOKENS or the batch around it. A GPU needs more
// lanes than there are rows: each slice is the work of a subgroup of its own.
// The norm costs one load and product per four activations: its weights go onto them, the sum of their squares is gathered
// by the way, and the row's factor 1 / rms goes onto the sums at the end.
// A gated weight alternates LANES rows of the gate and LANES rows of up, so that one lane holds both halves of an output.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef SUBGROUP
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#endif

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 8;            // of a workgroup: LANES * SLICES
layout(constant_id = 1) const uint LANES = 8;              // subgroup size; in the base variant the workgroup size, at least 8 * TOKENS
layout(constant_id = 2) const bool HAS_NORM = false;
layout(constant_id = 3) const uint GATE = 0;               // 0: none, 1: silu(gate) * up, 2: gelu(gate) * up (tanh form)
layout(constant_id = 4) const uint SLICES = 1;             // of K; 1 in the base variant

#ifdef TEXEL
layout(binding = 0) uniform samplerBuffer x;                                    // (tokens, K), four activations a texel
#define X4(i) texelFetch(x, int(i))
layout(binding = 3) uniform samplerBuffer norm;                                 // (K); x again where there is none
#define NORM4(i) texelFetch(norm, int(i))
#else
layout(std430, binding = 0) readonly restrict buffer X { vec4 x[]; };           // (tokens, K), row stride x_stride
#define X4(i) x[i]
layout(std430, binding = 3) readonly restrict buffer Norm { vec4 norm[]; };
#define NORM4(i) norm[i]
#endif
#define QUANTS_BINDING 1
#define SCALES_BINDING 2
#include "quant/format.glsl"
#include "activation.glsl"
layout(std430, binding = 4) readonly buffer Residual { float residual[]; };     // (tokens, N); y's buffer where there is none
layout(std430, binding = 5) writeonly buffer Y { float y[]; };                  // (tokens, N)

layout(push_constant) uniform Push {
    uint num_tokens, num_rows, num_blocks;                  // rows as packed
    uint num_outputs;                                       // columns of y
    uint x_offset, x_stride;                                // in fours
    uint y_offset, y_stride;
    uint residual_offset, residual_stride;                  // stride 0: no residual
    float eps;
};

#ifdef SUBGROUP
const uint LOADS = LANES < 8u ? 8u / LANES : 1u;           // fours of a block per lane
// A shuffle by a constant is one permute on llvmpipe; its broadcast loops over lanes to find an active one, 30 cycles each.
#define ACTIVATIONS(t, j) subgroupShuffle(mine[t][(j) / LANES], (j) % LANES)
#define ACTIVATION_SUM(t, j) subgroupShuffle(own_sum[t][(j) / LANES], (j) % LANES)
#define SQUARES(t, j) subgroupShuffle(squares[t][(j) / LANES], (j) % LANES)
const uint HANDED = ROWS * TOKENS + TOKENS * LOADS;        // what a slice hands on: sums and squares of a lane
shared float handed[SLICES > 1u ? HANDED * LANES : 1u];
#else
shared vec4 tile[TOKENS * 8];
#define ACTIVATIONS(t, j) tile[(t) * 8u + (j)]
shared float tile_sum[TOKENS * 8];                         // of each four
#define ACTIVATION_SUM(t, j) tile_sum[(t) * 8u + (j)]
shared float squares_of[TOKENS * 8];
#define SQUARES(t, j) squares_of[(t) * 8u + (j)]
#endif

float activate(float gate) { return GATE == 1u ? SILU(gate) : GELU(gate); }

void main() {
#ifdef SUBGROUP
    uint lane = gl_SubgroupInvocationID;
    uint slice_blocks = (num_blocks + SLICES - 1u) / SLICES;
    uint first_block = SLICES > 1u ? gl_SubgroupID * slice_blocks : 0u, end_block = min(first_block + slice_blocks, num_blocks);
#else
    uint lane = gl_LocalInvocationID.x;
    uint first_block = 0u, end_block = num_blocks;
#endif
    uint row0 = gl_WorkGroupID.x * LANES * ROWS + lane;
    uint token0 = gl_WorkGroupID.y * TOKENS;
    uint last_group = (num_rows - 1u) / GROUP_ROWS;

    uint group[ROWS], slot[ROWS];                           // where each row lies among the groups
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        group[r] = min((row0 + r * LANES) / GROUP_ROWS, last_group);
        slot[r] = (row0 + r * LANES) % GROUP_ROWS;
    }
    uint x_row[TOKENS];                                     // tokens past the end read the last one and are not stored
    [[unroll]] for (uint t = 0u; t < TOKENS; t++) x_row[t] = x_offset + min(token0 + t, num_tokens - 1u) * x_stride;

    float sum[ROWS][TOKENS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) sum[r][t] = 0.0;

#ifdef SUBGROUP
    float squares[TOKENS][LOADS];                           // of the activations that this lane loads
    [[unroll]] for (uint t = 0u; t < TOKENS; t++)
        [[unroll]] for (uint i = 0u; i < LOADS; i++) squares[t][i] = 0.0;
    vec4 code_scale[LOADS];
    [[unroll]] for (uint i = 0u; i < LOADS; i++) code_scale[i] = CODE_SCALE((i * LANES + lane) & 7u);
#else
    float squares = 0.0;
#endif

    for (uint b = first_block; b < end_block; b++) {
        Block block[ROWS];
        [[unroll]] for (uint r = 0u; r < ROWS; r++) block[r] = load_block(group[r], b, slot[r], num_blocks);

#ifdef SUBGROUP
        vec4 mine[TOKENS][LOADS];
        float own_sum[TOKENS][LOADS];
        [[unroll]] for (uint i = 0u; i < LOADS; i++) {
            uint four = b * 8u + ((i * LANES + lane) & 7u);
            vec4 factor = HAS_NORM ? NORM4(four) : vec4(1.0);
            [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
                mine[t][i] = X4(x_row[t] + four);
                if (HAS_NORM) {
                    squares[t][i] += dot(mine[t][i], mine[t][i]);
                    mine[t][i] *= factor;
                }
                own_sum[t][i] = (mine[t][i].x + mine[t][i].y) + (mine[t][i].z + mine[t][i].w);
                mine[t][i] *= code_scale[i];
            }
        }
#else
        barrier();
        if (lane < TOKENS * 8u) {
            vec4 v = X4(x_offset + min(token0 + lane / 8u, num_tokens - 1u) * x_stride + b * 8u + (lane & 7u));
            if (HAS_NORM) {
                squares += dot(v, v);
                v *= NORM4(b * 8u + (lane & 7u));
            }
            tile_sum[lane] = (v.x + v.y) + (v.z + v.w);
            tile[lane] = v * CODE_SCALE(lane & 7u);
        }
        barrier();
#endif

        float part[ROWS][TOKENS];
        float total[TOKENS];                                // sum of the block's activations, for formats with a bias
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
            total[t] = 0.0;
            [[unroll]] for (uint r = 0u; r < ROWS; r++) part[r][t] = 0.0;
        }

        // Four elements: all tokens' activations against all rows' codes. J is written out, so that broadcasts have constant lanes.
#define FOUR(J)                                                                                                     \
        {                                                                                                           \
            vec4 w[ROWS];                                                                                           \
            [[unroll]] for (uint r = 0u; r < ROWS; r++) w[r] = codes(block[r], J);                                  \
            [[unroll]] for (uint t = 0u; t < TOKENS; t++) {                                                         \
                vec4 v = ACTIVATIONS(t, J);                                                                         \
                if (HAS_BIAS != 0) total[t] += ACTIVATION_SUM(t, J);                                                \
                [[unroll]] for (uint r = 0u; r < ROWS; r++)                                                         \
                    part[r][t] = fma(w[r].w, v.w, fma(w[r].z, v.z, fma(w[r].y, v.y, fma(w[r].x, v.x, part[r][t])))); \
            }                                                                                                       \
        }
        FOUR(0u) FOUR(1u) FOUR(2u) FOUR(3u)
#if SCALES_PER_BLOCK == 2
        [[unroll]] for (uint r = 0u; r < ROWS; r++)
            [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
                sum[r][t] = fma(block_scale(block[r], 0u), part[r][t], sum[r][t]);
                part[r][t] = 0.0;
#if HAS_BIAS
                sum[r][t] = fma(block_bias(block[r], 0u), total[t], sum[r][t]);
#endif
            }
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) total[t] = 0.0;
#endif
        FOUR(4u) FOUR(5u) FOUR(6u) FOUR(7u)
        [[unroll]] for (uint r = 0u; r < ROWS; r++)
            [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
#if SCALES_PER_BLOCK == 0
                sum[r][t] += part[r][t];
#else
                sum[r][t] = fma(block_scale(block[r], 1u), part[r][t], sum[r][t]);
#endif
#if HAS_BIAS
                sum[r][t] = fma(block_bias(block[r], 1u), total[t], sum[r][t]);
#endif
            }
    }

#ifdef SUBGROUP
    if (SLICES > 1u) {                                      // the first subgroup adds up what the others hand on, one after the other
        for (uint slice = 1u; slice < SLICES; slice++) {
            if (gl_SubgroupID == slice) {
                [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
                    [[unroll]] for (uint r = 0u; r < ROWS; r++) handed[(r * TOKENS + t) * LANES + lane] = sum[r][t];
                    [[unroll]] for (uint i = 0u; i < LOADS; i++) handed[(ROWS * TOKENS + t * LOADS + i) * LANES + lane] = squares[t][i];
                }
            }
            barrier();
            if (gl_SubgroupID == 0u) {
                [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
                    [[unroll]] for (uint r = 0u; r < ROWS; r++) sum[r][t] += handed[(r * TOKENS + t) * LANES + lane];
                    [[unroll]] for (uint i = 0u; i < LOADS; i++) squares[t][i] += handed[(ROWS * TOKENS + t * LOADS + i) * LANES + lane];
                }
            }
            barrier();
        }
        if (gl_SubgroupID != 0u) return;
    }
#endif

    if (HAS_NORM) {
#ifndef SUBGROUP
        if (lane < TOKENS * 8u) squares_of[lane] = squares;
        barrier();
#endif
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
            float all_squares = 0.0;                        // in one order for all variants
            [[unroll]] for (uint j = 0u; j < 8u; j++) all_squares += SQUARES(t, j);
            float factor = inversesqrt(all_squares / float(num_blocks * 32u) + eps);
            [[unroll]] for (uint r = 0u; r < ROWS; r++) sum[r][t] *= factor;
        }
    }

    const uint STEP = GATE != 0u ? 2u : 1u;
    [[unroll]] for (uint r = 0u; r + STEP <= ROWS; r += STEP) {
        uint row = (row0 - lane) / STEP + r / STEP * LANES + lane;
        if (row >= num_outputs) continue;
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
            uint token = token0 + t;
            if (token >= num_tokens) continue;
            float value = GATE != 0u ? activate(sum[r][t]) * sum[min(r + 1u, ROWS - 1u)][t] : sum[r][t];
            if (residual_stride != 0u) value += residual[residual_offset + token * residual_stride + row];
            y[y_offset + token * y_stride + row] = value;
        }
    }
}
