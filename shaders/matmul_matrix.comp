#version 450
// y = norm(x) W^T [+ residual], or act(gate) * up of two such products, for many tokens, on units that multiply small matrices: the product
// of matmul_tile.comp with HALF, with other rounding. Twin: vkbackend/ops/matmul.py
//
// A workgroup of four subgroups computes a tile of BM rows and BN tokens, each of them a quarter. Block by block of 32 along K, weights and
// activations go to shared memory as halves; products and sums are float32. Activations are divided by the largest of their token first,
// so that none is too large for a half; that one, and the norm, are found in a pass over x before.
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "cooperative_matrix.glsl"

const uint SUBGROUPS = 4u, BM = 64u, BN = 64u, SIDE = 32u;  // SIDE: rows and tokens of a subgroup
const uint STRIDE = 40u;                                    // of 32 halves in shared memory: aligned, and spread over its banks
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;           // of a workgroup: SUBGROUPS subgroups
layout(constant_id = 1) const uint LANES = 32;              // rows of the gate, then of up, in a gated weight
layout(constant_id = 2) const bool HAS_NORM = false;
layout(constant_id = 3) const uint GATE = 0;                // 0: none, 1: silu(gate) * up, 2: gelu(gate) * up (tanh form)

layout(std430, binding = 0) readonly restrict buffer X { vec4 x[]; };           // (tokens, K), row stride x_stride
#define QUANTS_BINDING 1
#define SCALES_BINDING 2
#include "quant/format.glsl"
#include "activation.glsl"
layout(std430, binding = 3) readonly restrict buffer Norm { vec4 norm[]; };     // (K); x again where there is none
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

shared float16_t weights_of[BM * STRIDE], x_of[BN * STRIDE];                    // [row or token][element of the block]
shared float unit_of[BN], factor_of[BN];                                        // what activations are multiples of; of the results
shared float sums_of[SUBGROUPS * MATRIX_M * MATRIX_N];                          // [subgroup][token][row]

float activate(float gate) { return GATE == 1u ? SILU(gate) : GELU(gate); }

// The packed row that is number `place` of all tiles' rows: rows of the gate and of up take turns there, so that a matrix has both.
uint row_at(uint place) {
    uint pair = place / 2u;
    return GATE == 0u ? place : (pair / LANES) * 2u * LANES + pair % LANES + (place % 2u) * LANES;
}

uint x_row(uint token) { return x_offset + min(gl_WorkGroupID.y * BN + token, num_tokens - 1u) * x_stride; }

// Units and factors of all tokens, a subgroup at each.
void measure_tokens() {
    uint num_fours = num_blocks * 8u;
    for (uint token = gl_SubgroupID; token < BN; token += SUBGROUPS) {
        float largest = 0.0, squares = 0.0;
        for (uint i = gl_SubgroupInvocationID; i < num_fours; i += gl_SubgroupSize) {
            vec4 v = x[x_row(token) + i];
            squares += dot(v, v);
            vec4 size = abs(HAS_NORM ? v * norm[i] : v);
            largest = max(largest, max(max(size.x, size.y), max(size.z, size.w)));
        }
        largest = max(subgroupMax(largest), 1e-30);
        squares = subgroupAdd(squares);
        if (gl_SubgroupInvocationID == 0u) {
            unit_of[token] = largest;
            factor_of[token] = HAS_NORM ? largest * inversesqrt(squares / float(num_blocks * 32u) + eps) : largest;
        }
    }
}

void store_weights(uint at, vec4 w) {
    [[unroll]] for (uint e = 0u; e < 4u; e++) weights_of[at + e] = float16_t(w[e]);
}

// The block's weights: threads take halves of rows.
void load_weights(uint b) {
    for (uint i = gl_LocalInvocationIndex; i < 2u * BM; i += gl_WorkGroupSize.x) {
        uint place = i % BM, row = min(row_at(gl_WorkGroupID.x * BM + place), num_rows - 1u);
        Block block = load_block(row / GROUP_ROWS, b, row % GROUP_ROWS, num_blocks);
        if (i < BM) {
            [[unroll]] for (uint j = 0u; j < 4u; j++) store_weights(place * STRIDE + 4u * j, weights(block, j));
        } else {
            [[unroll]] for (uint j = 4u; j < 8u; j++) store_weights(place * STRIDE + 4u * j, weights(block, j));
        }
    }
}

void load_activations(uint b) {
    for (uint i = gl_LocalInvocationIndex; i < 8u * BN; i += gl_WorkGroupSize.x) {
        uint token = i / 8u, four = i % 8u;
        vec4 v = x[x_row(token) + b * 8u + four];
        if (HAS_NORM) v *= norm[b * 8u + four];
        v /= unit_of[token];
        [[unroll]] for (uint e = 0u; e < 4u; e++) x_of[token * STRIDE + 4u * four + e] = float16_t(v[e]);
    }
}

void main() {
    const uint ROWS = SIDE / MATRIX_M, COLUMNS = SIDE / MATRIX_N;                // matrices of a subgroup
    uint first_row = (gl_SubgroupID % 2u) * SIDE, first_token = (gl_SubgroupID / 2u) * SIDE;
    measure_tokens();
    barrier();

    MATRIX_C sum[ROWS][COLUMNS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        [[unroll]] for (uint t = 0u; t < COLUMNS; t++) sum[r][t] = filled_c(0.0);
    for (uint b = 0u; b < num_blocks; b++) {
        load_weights(b);
        load_activations(b);
        barrier();
        [[unroll]] for (uint k = 0u; k < 32u; k += MATRIX_K) {
            MATRIX_A a[ROWS];
            [[unroll]] for (uint r = 0u; r < ROWS; r++)
                a[r] = load_a(weights_of[(first_row + r * MATRIX_M) * STRIDE + k], ROW_MAJOR, STRIDE, NON_PRIVATE);
            [[unroll]] for (uint t = 0u; t < COLUMNS; t++) {
                MATRIX_B v = load_b(x_of[(first_token + t * MATRIX_N) * STRIDE + k], COLUMN_MAJOR, STRIDE, NON_PRIVATE);
                [[unroll]] for (uint r = 0u; r < ROWS; r++) sum[r][t] = multiply_add(a[r], v, sum[r][t]);
            }
        }
        barrier();
    }

    const uint STEP = GATE != 0u ? 2u : 1u;                 // rows of an output
    uint own = gl_SubgroupID * MATRIX_M * MATRIX_N;
    [[unroll]] for (uint r = 0u; r < ROWS; r++)
        [[unroll]] for (uint t = 0u; t < COLUMNS; t++) {
            store_c(sums_of[own], sum[r][t], COLUMN_MAJOR, MATRIX_M, NON_PRIVATE);
            subgroupBarrier();
            for (uint i = gl_SubgroupInvocationID * STEP; i < MATRIX_M * MATRIX_N; i += gl_SubgroupSize * STEP) {
                uint in_tile = first_token + t * MATRIX_N + i / MATRIX_M, token = gl_WorkGroupID.y * BN + in_tile;
                uint column = (gl_WorkGroupID.x * BM + first_row + r * MATRIX_M + i % MATRIX_M) / STEP;
                float value = sums_of[own + i] * factor_of[in_tile];
                if (GATE != 0u) value = activate(value) * (sums_of[own + i + 1u] * factor_of[in_tile]);
                if (token < num_tokens && column < num_outputs) {
                    if (residual_stride != 0u) value += residual[residual_offset + token * residual_stride + column];
                    y[y_offset + token * y_stride + column] = value;
                }
            }
            subgroupBarrier();
        }
}
