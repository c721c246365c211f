#version 450
// y = norm(x) W^T [+ bias] [+ residual] over quantized weights, or act(gate) * up of two such products, for
// one token (decode) or several.
// Twin: vkbackend/ops/matmul.py
//
// One lane owns ROWS rows of W, LANES rows apart, and TOKENS tokens, and walks along K block by block. The
// activations of a block are loaded once per subgroup, spread over its lanes, and passed on by shuffles (in
// the base variant: through shared memory). Every (row, token) is one chain of fma in the order of K, or
// SLICES of them that are added up in order, so that its bits do not depend on ROWS, TOKENS or the batch
// around it. A GPU has more lanes than a matrix has rows: each slice is the work of a subgroup of its own.
// The norm costs one load and one product per four activations: its weights are applied to the activations,
// the sum of squares is collected on the way, and the row's factor 1 / rms is applied to the sums at the end.
// With a gated weight, rows 2i and 2i + 1 of a lane are the gate and up of one output.
#extension GL_GOOGLE_include_directive : require
#include "unroll.glsl"
#ifdef SUBGROUP
#extension GL_KHR_shader_subgroup_basic : require
#include "lanes.glsl"
#endif

layout(local_size_x_id = 0) in;
layout(constant_id = 0) const uint THREADS =
    8;  // of a workgroup: LANES * SLICES; in the base variant at least 8 * TOKENS
layout(constant_id = 4) const uint SLICES = 1;  // of K; 1 in the base variant
layout(constant_id = 6) const uint LANES = 8;   // of a subgroup
#include "matmul_io.glsl"

uint row0, token0;             // first row of this lane, first token of the workgroup
uint group[ROWS], slot[ROWS];  // where each row lies in the packed planes
uint x_row[TOKENS];            // start of each token's activations
float sum[ROWS][TOKENS];
float part[ROWS][TOKENS];  // of the block, before scaling
float total[TOKENS];       // sum of the block's activations, for formats with an offset
Block block[ROWS];

// Passes the activations of a block from the lane that loads them to all others. Lane j of each eight (or of
// all lanes, if there are fewer) loads four number j of a token; loads past the eighth repeat others.
#ifdef SUBGROUP
#define LANE gl_SubgroupInvocationID
const uint LOADS = LANES < BLOCK_FOURS ? BLOCK_FOURS / LANES : 1u;  // fours of a block that a lane loads
vec4 lane_x[TOKENS][LOADS];
float lane_sum[TOKENS][LOADS];
float lane_squares[TOKENS][LOADS];
vec4 lane_code_scale[LOADS];  // CODE_SCALE of the fours that this lane loads
#define ACTIVATIONS(t, j) FROM_LANE(lane_x[t][(j) / LANES], (j) % LANES)
#define ACTIVATION_SUM(t, j) FROM_LANE(lane_sum[t][(j) / LANES], (j) % LANES)
#define SQUARES(t, j) FROM_LANE(lane_squares[t][(j) / LANES], (j) % LANES)
const uint SLICE_RESULTS = ROWS * TOKENS + TOKENS * LOADS;  // sums and squares of a lane
shared float slice_results[SLICES > 1u ? SLICE_RESULTS * LANES : 1u];

void prepare_loads() {
    UNROLL (uint i = 0u; i < LOADS; i++) {
        lane_code_scale[i] = CODE_SCALE((i * LANES + LANE) & (BLOCK_FOURS - 1u));
        UNROLL (uint t = 0u; t < TOKENS; t++) lane_squares[t][i] = 0.0;
    }
}

void load_activations(uint b) {
    UNROLL (uint i = 0u; i < LOADS; i++) {
        uint four = b * BLOCK_FOURS + ((i * LANES + LANE) & (BLOCK_FOURS - 1u));
        vec4 factor = HAS_NORM ? NORM4(four) : vec4(1.0);
        UNROLL (uint t = 0u; t < TOKENS; t++) {
            vec4 v = X4(x_row[t] + four);
            if (HAS_NORM) {
                lane_squares[t][i] += dot(v, v);
                v *= factor;
            }
            lane_sum[t][i] = sum_of(v);
            lane_x[t][i] = v * lane_code_scale[i];
        }
    }
}

void share_squares() {}

// The first subgroup adds up the slices of the others, in order. False in the others, which are done.
bool add_slices() {
    for (uint slice = 1u; slice < SLICES; slice++) {
        if (gl_SubgroupID == slice) {
            UNROLL (uint t = 0u; t < TOKENS; t++) {
                UNROLL (uint r = 0u; r < ROWS; r++)
                    slice_results[(r * TOKENS + t) * LANES + LANE] = sum[r][t];
                UNROLL (uint i = 0u; i < LOADS; i++)
                    slice_results[(ROWS * TOKENS + t * LOADS + i) * LANES + LANE] = lane_squares[t][i];
            }
        }
        barrier();
        if (gl_SubgroupID == 0u) {
            UNROLL (uint t = 0u; t < TOKENS; t++) {
                UNROLL (uint r = 0u; r < ROWS; r++)
                    sum[r][t] += slice_results[(r * TOKENS + t) * LANES + LANE];
                UNROLL (uint i = 0u; i < LOADS; i++)
                    lane_squares[t][i] += slice_results[(ROWS * TOKENS + t * LOADS + i) * LANES + LANE];
            }
        }
        barrier();
    }
    return SLICES == 1u || gl_SubgroupID == 0u;
}
#else
#define LANE gl_LocalInvocationID.x
shared vec4 shared_x[TOKENS * BLOCK_FOURS];
shared float shared_sum[TOKENS * BLOCK_FOURS];
shared float shared_squares[TOKENS * BLOCK_FOURS];
float lane_squares;
#define ACTIVATIONS(t, j) shared_x[(t) * BLOCK_FOURS + (j)]
#define ACTIVATION_SUM(t, j) shared_sum[(t) * BLOCK_FOURS + (j)]
#define SQUARES(t, j) shared_squares[(t) * BLOCK_FOURS + (j)]

void prepare_loads() { lane_squares = 0.0; }

void load_activations(uint b) {
    barrier();
    if (LANE < TOKENS * BLOCK_FOURS) {
        uint j = LANE % BLOCK_FOURS, four = b * BLOCK_FOURS + j;
        vec4 v = X4(x_start(token0 + LANE / BLOCK_FOURS) + four);
        if (HAS_NORM) {
            lane_squares += dot(v, v);
            v *= NORM4(four);
        }
        shared_sum[LANE] = sum_of(v);
        shared_x[LANE] = v * CODE_SCALE(j);
    }
    barrier();
}

void share_squares() {
    if (LANE < TOKENS * BLOCK_FOURS) shared_squares[LANE] = lane_squares;
    barrier();
}

bool add_slices() { return true; }
#endif

// The column of y to which row r of this lane belongs.
uint column_of(uint r) { return (row0 - LANE) / STEP + r / STEP * LANES + LANE; }

// Row r of this lane as packed. The first case needs fewer registers.
uint packed_row(uint r) {
    if (PAIRS != PAIRS_NONE) return row_at((expert_column + column_of(r)) * STEP + r % STEP);
    if (GATE == GATE_NONE || GATE_ROWS == LANES) return row0 + r * LANES;
    return row_at(column_of(r) * STEP + r % STEP);
}

void clear_part() {
    UNROLL (uint t = 0u; t < TOKENS; t++) {
        total[t] = 0.0;
        UNROLL (uint r = 0u; r < ROWS; r++) part[r][t] = 0.0;
    }
}

// Four elements: all tokens' activations against all rows' codes. j is a constant, so that shuffles are by
// constants.
void add_four(uint j) {
    vec4 w[ROWS];
    UNROLL (uint r = 0u; r < ROWS; r++) w[r] = codes(block[r], j);
    UNROLL (uint t = 0u; t < TOKENS; t++) {
        vec4 v = ACTIVATIONS(t, j);
        if (HAS_OFFSET != 0) total[t] += ACTIVATION_SUM(t, j);
        UNROLL (uint r = 0u; r < ROWS; r++)
            part[r][t] = fma(w[r].w, v.w, fma(w[r].z, v.z, fma(w[r].y, v.y, fma(w[r].x, v.x, part[r][t]))));
    }
}

// Adds the block's part to the sums, with the scale and offset of the half of the block that it comes from.
void add_part(uint half_) {
    UNROLL (uint r = 0u; r < ROWS; r++)
        UNROLL (uint t = 0u; t < TOKENS; t++) {
#if SCALES_PER_BLOCK == 0
            sum[r][t] += part[r][t];
#else
            sum[r][t] = fma(block_scale(block[r], half_), part[r][t], sum[r][t]);
#endif
#if HAS_OFFSET
            sum[r][t] = fma(block_offset(block[r], half_), total[t], sum[r][t]);
#endif
        }
}

void multiply_block(uint b) {
    UNROLL (uint r = 0u; r < ROWS; r++) block[r] = load_block(group[r], b, slot[r], num_blocks);
    load_activations(b);
    clear_part();
    add_four(0u);
    add_four(1u);
    add_four(2u);
    add_four(3u);
#if SCALES_PER_BLOCK == 2
    add_part(0u);
    clear_part();
#endif
    add_four(4u);
    add_four(5u);
    add_four(6u);
    add_four(7u);
    add_part(1u);
}

void apply_norm() {
    share_squares();
    UNROLL (uint t = 0u; t < TOKENS; t++) {
        float squares = 0.0;  // in one order for all variants
        UNROLL (uint j = 0u; j < BLOCK_FOURS; j++) squares += SQUARES(t, j);
        float factor = norm_factor(squares);
        UNROLL (uint r = 0u; r < ROWS; r++) sum[r][t] *= factor;
    }
}

void store_outputs() {
    UNROLL (uint r = 0u; r + STEP <= ROWS; r += STEP) {
        if (column_of(r) >= num_outputs) continue;
        UNROLL (uint t = 0u; t < TOKENS; t++) {
            if (token0 + t >= num_tokens) continue;
            store_output(token0 + t, column_of(r), sum[r][t], sum[min(r + 1u, ROWS - 1u)][t]);
        }
    }
}

void main() {
    row0 = gl_WorkGroupID.x * LANES * ROWS + LANE;
    token0 = gl_WorkGroupID.y * TOKENS;
    if (!find_expert(token0)) return;
    uint first_block = 0u, end_block = num_blocks;
#ifdef SUBGROUP
    if (SLICES > 1u) {
        uint slice_blocks = (num_blocks + SLICES - 1u) / SLICES;
        first_block = gl_SubgroupID * slice_blocks;
        end_block = min(first_block + slice_blocks, num_blocks);
    }
#endif
    UNROLL (uint r = 0u; r < ROWS; r++) {
        group[r] = min(packed_row(r) / GROUP_ROWS, (num_rows - 1u) / GROUP_ROWS);
        slot[r] = packed_row(r) % GROUP_ROWS;
        UNROLL (uint t = 0u; t < TOKENS; t++) sum[r][t] = 0.0;
    }
    UNROLL (uint t = 0u; t < TOKENS; t++) x_row[t] = x_start(token0 + t);
    prepare_loads();

    for (uint b = first_block; b < end_block; b++) multiply_block(b);
    if (!add_slices()) return;
    if (HAS_NORM) apply_norm();
    store_outputs();
}
