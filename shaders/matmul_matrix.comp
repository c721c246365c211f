#version 450
// y = norm(x) W^T [+ bias] [+ residual], or act(gate) * up of two such products, for many tokens, on
// cooperative matrices: the product of matmul_tile.comp with HALF, rounded differently.
// Twin: vkbackend/ops/matmul.py
//
// A workgroup of four subgroups computes a tile of BM rows and BN tokens, a quarter of it each. Block by
// block along K, weights and activations go to shared memory as halves; products and sums are float32.
// Activations are first divided by the largest magnitude of their token, so that none overflows a half; a
// pass over x finds that magnitude and the norm.
#extension GL_GOOGLE_include_directive : require
#include "unroll.glsl"
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "cooperative_matrix.glsl"

const uint SUBGROUPS = 4u, BM = 64u, BN = 64u, SIDE = 32u;  // SIDE: rows and tokens of a subgroup
const uint STRIDE = 40u;  // of a block in shared memory: aligned, spread over its banks
layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS = 128;  // of a workgroup: SUBGROUPS subgroups
#include "matmul_io.glsl"

shared float16_t weight_tile[BM * STRIDE], x_tile[BN * STRIDE];  // [row or token][element of the block]
shared float unit_of[BN], factor_of[BN];  // of each token: divisor of x, factor of the results
shared float subgroup_results[SUBGROUPS * MATRIX_M * MATRIX_N];  // [subgroup][token][row]

uint token_start(uint token) { return x_start(gl_WorkGroupID.y * BN + token); }

// Finds units and factors; each subgroup takes every SUBGROUPS-th token.
void measure_tokens() {
    uint num_fours = num_blocks * BLOCK_FOURS;
    for (uint token = gl_SubgroupID; token < BN; token += SUBGROUPS) {
        float largest = 0.0, squares = 0.0;
        for (uint i = gl_SubgroupInvocationID; i < num_fours; i += gl_SubgroupSize) {
            vec4 v = X4(token_start(token) + i);
            squares += dot(v, v);
            vec4 size = abs(HAS_NORM ? v * NORM4(i) : v);
            largest = max(largest, max(max(size.x, size.y), max(size.z, size.w)));
        }
        largest = max(subgroupMax(largest), 1e-30);
        squares = subgroupAdd(squares);
        if (gl_SubgroupInvocationID == 0u) {
            unit_of[token] = largest;
            factor_of[token] = HAS_NORM ? largest * norm_factor(squares) : largest;
        }
    }
}

void store_weights(uint at, vec4 w) {
    UNROLL (uint e = 0u; e < 4u; e++) weight_tile[at + e] = float16_t(w[e]);
}

// Threads take halves of rows.
void load_weights(uint b) {
    for (uint i = gl_LocalInvocationIndex; i < 2u * BM; i += gl_WorkGroupSize.x) {
        uint place = i % BM, row = min(row_at(gl_WorkGroupID.x * BM + place), num_rows - 1u);
        Block block = load_block(row / GROUP_ROWS, b, row % GROUP_ROWS, num_blocks);
        if (i < BM) {
            UNROLL (uint j = 0u; j < 4u; j++) store_weights(place * STRIDE + 4u * j, weights(block, j));
        } else {
            UNROLL (uint j = 4u; j < 8u; j++) store_weights(place * STRIDE + 4u * j, weights(block, j));
        }
    }
}

void load_activations(uint b) {
    for (uint i = gl_LocalInvocationIndex; i < BLOCK_FOURS * BN; i += gl_WorkGroupSize.x) {
        uint token = i / BLOCK_FOURS, four = i % BLOCK_FOURS;
        vec4 v = X4(token_start(token) + b * BLOCK_FOURS + four);
        if (HAS_NORM) v *= NORM4(b * BLOCK_FOURS + four);
        v /= unit_of[token];
        UNROLL (uint e = 0u; e < 4u; e++) x_tile[token * STRIDE + 4u * four + e] = float16_t(v[e]);
    }
}

void main() {
    const uint ROWS = SIDE / MATRIX_M, COLUMNS = SIDE / MATRIX_N;  // matrices of a subgroup
    uint first_row = (gl_SubgroupID % 2u) * SIDE, first_token = (gl_SubgroupID / 2u) * SIDE;
    measure_tokens();
    barrier();

    MATRIX_C sum[ROWS][COLUMNS];
    UNROLL (uint r = 0u; r < ROWS; r++)
        UNROLL (uint t = 0u; t < COLUMNS; t++) sum[r][t] = filled_c(0.0);
    for (uint b = 0u; b < num_blocks; b++) {
        load_weights(b);
        load_activations(b);
        barrier();
        UNROLL (uint k = 0u; k < BLOCK_ELEMENTS; k += MATRIX_K) {
            MATRIX_A a[ROWS];
            UNROLL (uint r = 0u; r < ROWS; r++)
                a[r] = load_a(weight_tile[(first_row + r * MATRIX_M) * STRIDE + k], ROW_MAJOR, STRIDE,
                              NON_PRIVATE);
            UNROLL (uint t = 0u; t < COLUMNS; t++) {
                MATRIX_B v = load_b(x_tile[(first_token + t * MATRIX_N) * STRIDE + k], COLUMN_MAJOR, STRIDE,
                                    NON_PRIVATE);
                UNROLL (uint r = 0u; r < ROWS; r++) sum[r][t] = multiply_add(a[r], v, sum[r][t]);
            }
        }
        barrier();
    }

    uint first = gl_SubgroupID * MATRIX_M * MATRIX_N;
    UNROLL (uint r = 0u; r < ROWS; r++)
        UNROLL (uint t = 0u; t < COLUMNS; t++) {
            store_c(subgroup_results[first], sum[r][t], COLUMN_MAJOR, MATRIX_M, NON_PRIVATE);
            subgroupBarrier();
            for (uint i = gl_SubgroupInvocationID * STEP; i < MATRIX_M * MATRIX_N;
                 i += gl_SubgroupSize * STEP) {
                uint in_tile = first_token + t * MATRIX_N + i / MATRIX_M,
                     token = gl_WorkGroupID.y * BN + in_tile;
                uint column = (gl_WorkGroupID.x * BM + first_row + r * MATRIX_M + i % MATRIX_M) / STEP;
                if (token < num_tokens && column < num_outputs)
                    store_output(token, column, subgroup_results[first + i] * factor_of[in_tile],
                                 subgroup_results[first + i + STEP - 1u] * factor_of[in_tile]);
            }
            subgroupBarrier();
        }
}
