#version 450
// y = norm(x) W^T [+ residual], or act(gate) * up of two such products, for many tokens: the same product as matmul.comp, laid out for
// devices whose shared memory is fast. Twin: vkbackend/ops/matmul.py
//
// A workgroup of THREADS computes a tile of BM rows and BN tokens, a thread TM x TN of it. Block by block of 32 along K, the weights' codes
// and the activations go to shared memory, and every code and activation is read from there for TN and TM products.
//
//   float32 (no define)  every (row, token) is matmul.comp's chain of fma, or SLICES of them: the same bits
//   HALF                 products and sums of EIGHT elements in float16, the rest in float32. Activations are divided by the largest of their
//                        block first, so that none is too large for a half
//   DOT8                 activations are rounded to 8 bits, as multiples of the 127th part of the largest of their block; integer products
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef HALF
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define ELEMENT float16_t
#define ELEMENT4 f16vec4
#define TO_ELEMENTS(v) f16vec4(v)
#else
#define ELEMENT float
#define ELEMENT4 vec4
#define TO_ELEMENTS(v) (v)
#endif
#ifdef DOT8
#extension GL_EXT_spirv_intrinsics : require
// OpSUDotKHR of SPV_KHR_integer_dot_product: four signed bytes times four unsigned ones; packing 0 is PackedVectorFormat4x8Bit.
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4452)
int dot_signed_unsigned(int a, uint b, spirv_literal int packing);
#endif
#if defined(HALF) || defined(DOT8)
#define NORMALIZED
#endif

const uint THREADS = 128u, BM = 64u, BN = 32u, TM = 4u, TN = 4u;
layout(local_size_x = 128) in;
layout(constant_id = 1) const uint LANES = 8;              // rows of the gate, then of up, in a gated weight
layout(constant_id = 2) const bool HAS_NORM = false;
layout(constant_id = 3) const uint GATE = 0;               // 0: none, 1: silu(gate) * up, 2: gelu(gate) * up (tanh form)
layout(constant_id = 4) const uint SLICES = 1;             // of K, each summed up apart

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

#ifdef DOT8
shared uint codes_of[8 * BM];                               // [four elements][row]
shared int x_of[8 * BN];                                    // [four elements][token]
#else
shared ELEMENT4 codes_of[32 * BM / 4];                      // [element][four rows]
shared ELEMENT4 x_of[32 * BN / 4];                          // [element][four tokens]
#endif
// Of the block's halves; two sets, since the next block's are written while some still read these.
shared vec2 scale_of[2][BM], bias_of[2][BM], total_of[2][BN];
shared float sums_of[8 * BN];                               // [token][four]
#ifdef NORMALIZED
shared float unit_of[2][BN];                                // what activations are multiples of
shared float largest_of[8 * BN];                            // [token][four]
#define UNIT(set, token) unit_of[set][token]
#else
#define UNIT(set, token) 1.0                                // all of it together stays below 16 KiB
#endif

#ifdef HALF
#define CENTER CODE_CENTER
#else
#define CENTER 0.0
#endif

float activate(float gate) { return GATE == 1u ? SILU(gate) : GELU(gate); }

// The packed row that is number `place` of all tiles' rows: rows of the gate and of up take turns there, so that one thread has both.
uint row_at(uint place) {
    uint pair = place / 2u;
    return GATE == 0u ? place : (pair / LANES) * 2u * LANES + pair % LANES + (place % 2u) * LANES;
}

// Two fours of activations per thread: token thread / 4, fours (thread % 4) and (thread % 4) + 4.
uint own_token() { return gl_LocalInvocationIndex / 4u; }
uint own_four(uint i) { return gl_LocalInvocationIndex % 4u + 4u * i; }

#ifndef DOT8
void store_codes(uint row, uint first, vec4 v) {
    [[unroll]] for (uint e = 0u; e < 4u; e++) codes_of[(first + e) * (BM / 4u) + row / 4u][row % 4u] = ELEMENT(v[e]);
}
#endif

// Adds a slice's sums to those before it, and begins a new one.
void end_slice(bool is_first, inout float sum[TM][TN], inout float all_sum[TM][TN], inout float squares[2], inout float all_squares[2]) {
    [[unroll]] for (uint r = 0u; r < TM; r++)
        [[unroll]] for (uint t = 0u; t < TN; t++) {
            all_sum[r][t] = is_first ? sum[r][t] : all_sum[r][t] + sum[r][t];
            sum[r][t] = 0.0;
        }
    [[unroll]] for (uint i = 0u; i < 2u; i++) {
        all_squares[i] = is_first ? squares[i] : all_squares[i] + squares[i];
        squares[i] = 0.0;
    }
}

void main() {
    uint thread = gl_LocalInvocationIndex, row0 = gl_WorkGroupID.x * BM, token0 = gl_WorkGroupID.y * BN;
    uint my_rows = thread % (BM / TM), my_tokens = thread / (BM / TM);   // in fours
    uint x_row = x_offset + min(token0 + own_token(), num_tokens - 1u) * x_stride;

    float sum[TM][TN];
    [[unroll]] for (uint r = 0u; r < TM; r++)
        [[unroll]] for (uint t = 0u; t < TN; t++) sum[r][t] = 0.0;
    float squares[2] = float[2](0.0, 0.0);
    float all_sum[TM][TN], all_squares[2];                  // of the slices before
    uint slice_blocks = (num_blocks + SLICES - 1u) / SLICES;

    for (uint b = 0u; b < num_blocks; b++) {
        uint set = b & 1u;
        if (SLICES > 1u && b > 0u && b % slice_blocks == 0u) end_slice(b == slice_blocks, sum, all_sum, squares, all_squares);
        vec4 mine[2];
        [[unroll]] for (uint i = 0u; i < 2u; i++) {
            mine[i] = x[x_row + b * 8u + own_four(i)];
            if (HAS_NORM) {
                squares[i] += dot(mine[i], mine[i]);
                mine[i] *= norm[b * 8u + own_four(i)];
            }
        }
#ifdef NORMALIZED
        [[unroll]] for (uint i = 0u; i < 2u; i++) {
            vec4 size = abs(mine[i]);
            largest_of[own_token() * 8u + own_four(i)] = max(max(size.x, size.y), max(size.z, size.w));
        }
        barrier();
        float largest = 0.0;
        [[unroll]] for (uint j = 0u; j < 8u; j++) largest = max(largest, largest_of[own_token() * 8u + j]);
        largest = max(largest, 1e-30);
#ifdef DOT8
        float unit = largest / 127.0;
#else
        float unit = largest;
#endif
        if (thread % 4u == 0u) unit_of[set][own_token()] = unit;
        [[unroll]] for (uint i = 0u; i < 2u; i++) mine[i] /= unit;
#endif
#ifdef DOT8
        [[unroll]] for (uint i = 0u; i < 2u; i++) {
            ivec4 whole = ivec4(round(mine[i]));
            mine[i] = vec4(whole);
            ivec4 low = whole & 255;
            x_of[own_four(i) * BN + own_token()] = low.x | low.y << 8 | low.z << 16 | low.w << 24;
        }
#else
        [[unroll]] for (uint i = 0u; i < 2u; i++) {
            ELEMENT4 v = TO_ELEMENTS(mine[i]);
            mine[i] = vec4(v);
            [[unroll]] for (uint e = 0u; e < 4u; e++) x_of[(own_four(i) * 4u + e) * (BN / 4u) + own_token() / 4u][own_token() % 4u] = v[e];
        }
#endif
        [[unroll]] for (uint i = 0u; i < 2u; i++) sums_of[own_token() * 8u + own_four(i)] = (mine[i].x + mine[i].y) + (mine[i].z + mine[i].w);

        // Codes: threads `place` and `place` + BM take the halves of a row.
        uint row = min(row_at(row0 + thread % BM), num_rows - 1u);
        Block block = load_block(row / GROUP_ROWS, b, row % GROUP_ROWS, num_blocks);
#ifdef DOT8
#define STORE(J) codes_of[(J) * BM + thread % BM] = code_bytes(block, J);
#else
#define STORE(J) store_codes(thread % BM, 4u * (J), codes(block, J) * CODE_SCALE(J) - CENTER);
#endif
        if (thread < BM) {
            STORE(0u) STORE(1u) STORE(2u) STORE(3u)
#if SCALES_PER_BLOCK
            scale_of[set][thread] = vec2(block_scale(block, 0u), block_scale(block, 1u));
#endif
#if HAS_BIAS
            bias_of[set][thread] = vec2(block_bias(block, 0u) + CENTER * block_scale(block, 0u),
                                        block_bias(block, 1u) + CENTER * block_scale(block, 1u));
#endif
        } else {
            STORE(4u) STORE(5u) STORE(6u) STORE(7u)
        }
        barrier();

        if (HAS_BIAS != 0 && thread < BN) {
            float total[2] = float[2](0.0, 0.0);
            [[unroll]] for (uint j = 0u; j < 8u; j++) total[SCALES_PER_BLOCK == 2 ? j / 4u : 1u] += sums_of[thread * 8u + j];
            total_of[set][thread] = vec2(total[0], total[1]);
        }

        // part: the products of the block's halves, or of the whole block in the second.
        float part[2][TM][TN];
        [[unroll]] for (uint half_ = 0u; half_ < 2u; half_++) {
            [[unroll]] for (uint r = 0u; r < TM; r++)
                [[unroll]] for (uint t = 0u; t < TN; t++) part[half_][r][t] = half_ == 1u && SCALES_PER_BLOCK != 2 ? part[0][r][t] : 0.0;
#ifdef DOT8
            int whole[TM][TN];
            [[unroll]] for (uint r = 0u; r < TM; r++)
                [[unroll]] for (uint t = 0u; t < TN; t++) whole[r][t] = 0;
            [[unroll]] for (uint j = 4u * half_; j < 4u * half_ + 4u; j++) {
                [[unroll]] for (uint t = 0u; t < TN; t++) {
                    int v = x_of[j * BN + my_tokens * TN + t];
                    [[unroll]] for (uint r = 0u; r < TM; r++) whole[r][t] += dot_signed_unsigned(v, codes_of[j * BM + my_rows * TM + r], 0);
                }
            }
            [[unroll]] for (uint r = 0u; r < TM; r++)
                [[unroll]] for (uint t = 0u; t < TN; t++) part[half_][r][t] += float(whole[r][t]);
#elif defined(HALF)
            [[unroll]] for (uint eight = 2u * half_; eight < 2u * half_ + 2u; eight++) {
                f16vec4 short_sum[TN];                      // over TM rows
                [[unroll]] for (uint t = 0u; t < TN; t++) short_sum[t] = f16vec4(0.0);
                [[unroll]] for (uint k = 8u * eight; k < 8u * eight + 8u; k++) {
                    f16vec4 w = codes_of[k * (BM / 4u) + my_rows], v = x_of[k * (BN / 4u) + my_tokens];
                    [[unroll]] for (uint t = 0u; t < TN; t++) short_sum[t] = fma(w, f16vec4(v[t]), short_sum[t]);
                }
                [[unroll]] for (uint r = 0u; r < TM; r++)
                    [[unroll]] for (uint t = 0u; t < TN; t++) part[half_][r][t] += float(short_sum[t][r]);
            }
#else
            [[unroll]] for (uint k = 16u * half_; k < 16u * half_ + 16u; k++) {
                vec4 w = codes_of[k * (BM / 4u) + my_rows], v = x_of[k * (BN / 4u) + my_tokens];
                [[unroll]] for (uint r = 0u; r < TM; r++)
                    [[unroll]] for (uint t = 0u; t < TN; t++) part[half_][r][t] = fma(w[r], v[t], part[half_][r][t]);
            }
#endif
        }
        barrier();                                          // total_of is there, and nobody reads codes_of, x_of and sums_of any more

        [[unroll]] for (uint r = 0u; r < TM; r++)
            [[unroll]] for (uint t = 0u; t < TN; t++) {
                uint at_row = my_rows * TM + r, at_token = my_tokens * TN + t;
                [[unroll]] for (uint half_ = SCALES_PER_BLOCK == 2 ? 0u : 1u; half_ < 2u; half_++) {
                    float product = part[half_][r][t] * UNIT(set, at_token), total = total_of[set][at_token][half_] * UNIT(set, at_token);
#if SCALES_PER_BLOCK
                    sum[r][t] = fma(scale_of[set][at_row][half_], product, sum[r][t]);
#else
                    sum[r][t] += product;
#endif
                    if (HAS_BIAS != 0) sum[r][t] = fma(bias_of[set][at_row][half_], total, sum[r][t]);
                }
            }
    }

    if (SLICES > 1u && num_blocks > slice_blocks) {
        end_slice(false, sum, all_sum, squares, all_squares);
        sum = all_sum;
        squares = all_squares;
    }
    if (HAS_NORM) {
        [[unroll]] for (uint i = 0u; i < 2u; i++) sums_of[own_token() * 8u + own_four(i)] = squares[i];
        barrier();
        [[unroll]] for (uint t = 0u; t < TN; t++) {
            float of_row = 0.0;
            [[unroll]] for (uint j = 0u; j < 8u; j++) of_row += sums_of[(my_tokens * TN + t) * 8u + j];
            float factor = inversesqrt(of_row / float(num_blocks * 32u) + eps);
            [[unroll]] for (uint r = 0u; r < TM; r++) sum[r][t] *= factor;
        }
    }

    const uint STEP = GATE != 0u ? 2u : 1u;
    [[unroll]] for (uint r = 0u; r < TM; r += STEP)
        [[unroll]] for (uint t = 0u; t < TN; t++) {
            uint column = (row0 + my_rows * TM + r) / STEP, token = token0 + my_tokens * TN + t;
            float value = GATE != 0u ? activate(sum[r][t]) * sum[min(r + 1u, TM - 1u)][t] : sum[r][t];
            if (token < num_tokens && column < num_outputs) {
                if (residual_stride != 0u) value += residual[residual_offset + token * residual_stride + column];
                y[y_offset + token * y_stride + column] = value;
            }
        }
}
