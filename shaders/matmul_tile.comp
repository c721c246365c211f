#version 450
// y = norm(x) W^T [+ bias] [+ residual], or act(gate) * up of two such products, for many tokens: the same
// product as matmul.comp, laid out for devices whose shared memory is fast.
// Twin: vkbackend/ops/matmul.py
//
// A workgroup of THREADS computes a tile of BM rows and BN tokens, TM x TN of it per thread. Block by block
// along K, the weights' codes and the activations go to shared memory, and each is read from there for TN or
// TM products.
//
//   float32 (no define)  every (row, token) is matmul.comp's chain of fma, or SLICES of them: the same bits
//   HALF                 products and sums of eight elements in float16, the rest in float32. Activations are
//                        first divided by the largest magnitude of their block, so that none overflows a half
//   DOT8                 activations are rounded to 8 bits, the largest magnitude of their block to 127;
//                        integer products
#extension GL_GOOGLE_include_directive : require
#include "unroll.glsl"
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
// clang-format off
// OpSUDotKHR of SPV_KHR_integer_dot_product: four signed bytes times four unsigned ones; packing 0 is
// PackedVectorFormat4x8Bit.
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4452)
int dot_signed_unsigned(int a, uint b, spirv_literal int packing);
// clang-format on
#endif
#if defined(HALF) || defined(DOT8)
#define NORMALIZED
#endif

const uint THREADS = 128u, BM = 64u, BN = 32u, TM = 4u, TN = 4u;
const uint HALF_FOURS = 4u, HALF_ELEMENTS = 16u;  // of half a block
layout(local_size_x = 128) in;
layout(constant_id = 4) const uint SLICES = 1;  // of K, each summed up by itself
#include "matmul_io.glsl"

#ifdef DOT8
shared uint code_tile[BLOCK_FOURS * BM];  // [four elements][row]
shared int x_tile[BLOCK_FOURS * BN];      // [four elements][token]
#else
shared ELEMENT4 code_tile[BLOCK_ELEMENTS * BM / 4];  // [element][four rows]
shared ELEMENT4 x_tile[BLOCK_ELEMENTS * BN / 4];     // [element][four tokens]
#endif
// Of the block's halves; two sets, since those of the next block are written while some threads still read
// these.
shared vec2 scale_of[2][BM], offset_of[2][BM], total_of[2][BN];
shared float sums_of[BLOCK_FOURS * BN];  // [token][four]
#ifdef NORMALIZED
shared float unit_of[2][BN];                // divisor of the activations
shared float largest_of[BLOCK_FOURS * BN];  // [token][four]
#define UNIT(set, token) unit_of[set][token]
#else
#define UNIT(set, token) 1.0  // without these, shared memory stays below 16 KiB
#endif

#ifdef HALF
#define CENTER CODE_CENTER
#else
#define CENTER 0.0
#endif

// Each thread loads two fours of activations of one token, and computes TM rows and TN tokens.
const uint LOADS = 2u, TOKEN_THREADS = BLOCK_FOURS / LOADS;
const uint ROW_THREADS = BM / TM;
uint thread, row0, token0;  // row0, token0: of the tile
uint load_token, x_row;     // within the tile, and where its activations start
vec4 loaded_x[LOADS];
uint row_thread, token_thread;      // first row and token of the thread's results, in TM and TN
float part[2][TM][TN];              // products of the block's halves, or of the whole block in the second
float sum[TM][TN], squares[LOADS];  // of the slice
float all_sum[TM][TN], all_squares[LOADS];  // of the slices before

uint load_four(uint i) { return thread % TOKEN_THREADS + TOKEN_THREADS * i; }

void load_activations(uint b) {
    UNROLL (uint i = 0u; i < LOADS; i++) {
        uint four = b * BLOCK_FOURS + load_four(i);
        loaded_x[i] = X4(x_row + four);
        if (HAS_NORM) {
            squares[i] += dot(loaded_x[i], loaded_x[i]);
            loaded_x[i] *= NORM4(four);
        }
    }
}

#ifdef NORMALIZED
// Divides the activations by the unit of their block.
void normalize_activations(uint set) {
    UNROLL (uint i = 0u; i < LOADS; i++) {
        vec4 size = abs(loaded_x[i]);
        largest_of[load_token * BLOCK_FOURS + load_four(i)] = max(max(size.x, size.y), max(size.z, size.w));
    }
    barrier();
    float largest = 0.0;
    UNROLL (uint j = 0u; j < BLOCK_FOURS; j++)
        largest = max(largest, largest_of[load_token * BLOCK_FOURS + j]);
    largest = max(largest, 1e-30);
#ifdef DOT8
    float unit = largest / 127.0;
#else
    float unit = largest;
#endif
    if (thread % TOKEN_THREADS == 0u) unit_of[set][load_token] = unit;
    UNROLL (uint i = 0u; i < LOADS; i++) loaded_x[i] /= unit;
}
#else
void normalize_activations(uint set) {}
#endif

#ifdef DOT8
void store_activations() {
    UNROLL (uint i = 0u; i < LOADS; i++) {
        ivec4 rounded = ivec4(round(loaded_x[i]));
        loaded_x[i] = vec4(rounded);
        ivec4 low = rounded & 255;
        x_tile[load_four(i) * BN + load_token] = low.x | low.y << 8 | low.z << 16 | low.w << 24;
    }
}
void store_codes(Block block, uint row, uint j) { code_tile[j * BM + row] = code_bytes(block, j); }
#else
void store_activations() {
    UNROLL (uint i = 0u; i < LOADS; i++) {
        ELEMENT4 v = TO_ELEMENTS(loaded_x[i]);
        loaded_x[i] = vec4(v);
        UNROLL (uint e = 0u; e < 4u; e++)
            x_tile[(load_four(i) * 4u + e) * (BN / 4u) + load_token / 4u][load_token % 4u] = v[e];
    }
}
void store_codes(Block block, uint row, uint j) {
    vec4 v = codes(block, j) * CODE_SCALE(j) - CENTER;
    UNROLL (uint e = 0u; e < 4u; e++)
        code_tile[(4u * j + e) * (BM / 4u) + row / 4u][row % 4u] = ELEMENT(v[e]);
}
#endif

// Threads t and t + BM take the halves of row t.
void load_codes(uint set, uint b) {
    uint tile_row = thread % BM, place = expert_column * STEP + row0 + tile_row;
    uint packed_row = min(row_at(place), num_rows - 1u);
    Block block = load_block(packed_row / GROUP_ROWS, b, packed_row % GROUP_ROWS, num_blocks);
    if (thread < BM) {
        store_codes(block, tile_row, 0u);
        store_codes(block, tile_row, 1u);
        store_codes(block, tile_row, 2u);
        store_codes(block, tile_row, 3u);
#if SCALES_PER_BLOCK
        scale_of[set][thread] = vec2(block_scale(block, 0u), block_scale(block, 1u));
#endif
#if HAS_OFFSET
        offset_of[set][thread] = vec2(block_offset(block, 0u) + CENTER * block_scale(block, 0u),
                                      block_offset(block, 1u) + CENTER * block_scale(block, 1u));
#endif
    } else {
        store_codes(block, tile_row, 4u);
        store_codes(block, tile_row, 5u);
        store_codes(block, tile_row, 6u);
        store_codes(block, tile_row, 7u);
    }
}

// Sums of a token's activations, for formats with an offset.
void add_totals(uint set) {
    if (HAS_OFFSET == 0 || thread >= BN) return;
    float total[2] = float[2](0.0, 0.0);
    UNROLL (uint j = 0u; j < BLOCK_FOURS; j++)
        total[SCALES_PER_BLOCK == 2 ? j / HALF_FOURS : 1u] += sums_of[thread * BLOCK_FOURS + j];
    total_of[set][thread] = vec2(total[0], total[1]);
}

#ifdef DOT8
void multiply_half(uint half_) {
    int dots[TM][TN];
    UNROLL (uint r = 0u; r < TM; r++)
        UNROLL (uint t = 0u; t < TN; t++) dots[r][t] = 0;
    UNROLL (uint j = HALF_FOURS * half_; j < HALF_FOURS * half_ + HALF_FOURS; j++) {
        UNROLL (uint t = 0u; t < TN; t++) {
            int v = x_tile[j * BN + token_thread * TN + t];
            UNROLL (uint r = 0u; r < TM; r++)
                dots[r][t] += dot_signed_unsigned(v, code_tile[j * BM + row_thread * TM + r], 0);
        }
    }
    UNROLL (uint r = 0u; r < TM; r++)
        UNROLL (uint t = 0u; t < TN; t++) part[half_][r][t] += float(dots[r][t]);
}
#elif defined(HALF)
void multiply_half(uint half_) {
    UNROLL (uint eight = 2u * half_; eight < 2u * half_ + 2u; eight++) {
        f16vec4 short_sum[TN];  // over TM rows
        UNROLL (uint t = 0u; t < TN; t++) short_sum[t] = f16vec4(0.0);
        UNROLL (uint k = 8u * eight; k < 8u * eight + 8u; k++) {
            f16vec4 w = code_tile[k * (BM / 4u) + row_thread], v = x_tile[k * (BN / 4u) + token_thread];
            UNROLL (uint t = 0u; t < TN; t++) short_sum[t] = fma(w, f16vec4(v[t]), short_sum[t]);
        }
        UNROLL (uint r = 0u; r < TM; r++)
            UNROLL (uint t = 0u; t < TN; t++) part[half_][r][t] += float(short_sum[t][r]);
    }
}
#else
void multiply_half(uint half_) {
    UNROLL (uint k = HALF_ELEMENTS * half_; k < HALF_ELEMENTS * half_ + HALF_ELEMENTS; k++) {
        vec4 w = code_tile[k * (BM / 4u) + row_thread], v = x_tile[k * (BN / 4u) + token_thread];
        UNROLL (uint r = 0u; r < TM; r++)
            UNROLL (uint t = 0u; t < TN; t++) part[half_][r][t] = fma(w[r], v[t], part[half_][r][t]);
    }
}
#endif

void multiply_tile() {
    UNROLL (uint half_ = 0u; half_ < 2u; half_++) {
        UNROLL (uint r = 0u; r < TM; r++)
            UNROLL (uint t = 0u; t < TN; t++)
                part[half_][r][t] = half_ == 1u && SCALES_PER_BLOCK != 2 ? part[0][r][t] : 0.0;
        multiply_half(half_);
    }
}

// Adds the block's parts to the sums, with their scales and offsets.
void add_parts(uint set) {
    UNROLL (uint r = 0u; r < TM; r++)
        UNROLL (uint t = 0u; t < TN; t++) {
            uint tile_row = row_thread * TM + r, tile_token = token_thread * TN + t;
            UNROLL (uint half_ = SCALES_PER_BLOCK == 2 ? 0u : 1u; half_ < 2u; half_++) {
                float product = part[half_][r][t] * UNIT(set, tile_token);
                float total = total_of[set][tile_token][half_] * UNIT(set, tile_token);
#if SCALES_PER_BLOCK
                sum[r][t] = fma(scale_of[set][tile_row][half_], product, sum[r][t]);
#else
                sum[r][t] += product;
#endif
                if (HAS_OFFSET != 0) sum[r][t] = fma(offset_of[set][tile_row][half_], total, sum[r][t]);
            }
        }
}

void multiply_block(uint b) {
    uint set = b & 1u;
    load_activations(b);
    normalize_activations(set);
    store_activations();
    UNROLL (uint i = 0u; i < LOADS; i++)
        sums_of[load_token * BLOCK_FOURS + load_four(i)] = sum_of(loaded_x[i]);
    load_codes(set, b);
    barrier();
    add_totals(set);
    multiply_tile();
    barrier();  // total_of is complete, and no thread reads code_tile, x_tile and sums_of any more
    add_parts(set);
}

// Adds a slice's sums to those before it, and starts the next one.
void end_slice(bool is_first) {
    UNROLL (uint r = 0u; r < TM; r++)
        UNROLL (uint t = 0u; t < TN; t++) {
            all_sum[r][t] = is_first ? sum[r][t] : all_sum[r][t] + sum[r][t];
            sum[r][t] = 0.0;
        }
    UNROLL (uint i = 0u; i < LOADS; i++) {
        all_squares[i] = is_first ? squares[i] : all_squares[i] + squares[i];
        squares[i] = 0.0;
    }
}

void apply_norm() {
    UNROLL (uint i = 0u; i < LOADS; i++) sums_of[load_token * BLOCK_FOURS + load_four(i)] = squares[i];
    barrier();
    UNROLL (uint t = 0u; t < TN; t++) {
        float of_row = 0.0;
        UNROLL (uint j = 0u; j < BLOCK_FOURS; j++)
            of_row += sums_of[(token_thread * TN + t) * BLOCK_FOURS + j];
        float factor = norm_factor(of_row);
        UNROLL (uint r = 0u; r < TM; r++) sum[r][t] *= factor;
    }
}

void main() {
    thread = gl_LocalInvocationIndex;
    row0 = gl_WorkGroupID.x * BM;
    token0 = gl_WorkGroupID.y * BN;
    if (!find_expert(token0)) return;
    load_token = thread / TOKEN_THREADS;
    x_row = x_start(token0 + load_token);
    row_thread = thread % ROW_THREADS;
    token_thread = thread / ROW_THREADS;
    UNROLL (uint r = 0u; r < TM; r++)
        UNROLL (uint t = 0u; t < TN; t++) sum[r][t] = 0.0;
    UNROLL (uint i = 0u; i < LOADS; i++) squares[i] = 0.0;

    uint slice_blocks = (num_blocks + SLICES - 1u) / SLICES;
    for (uint b = 0u; b < num_blocks; b++) {
        if (SLICES > 1u && b > 0u && b % slice_blocks == 0u) end_slice(b == slice_blocks);
        multiply_block(b);
    }
    if (SLICES > 1u && num_blocks > slice_blocks) {
        end_slice(false);
        sum = all_sum;
        squares = all_squares;
    }
    if (HAS_NORM) apply_norm();

    UNROLL (uint r = 0u; r < TM; r += STEP)
        UNROLL (uint t = 0u; t < TN; t++) {
            uint column = (row0 + row_thread * TM + r) / STEP, token = token0 + token_thread * TN + t;
            if (token < num_tokens && column < num_outputs)
                store_output(token, column, sum[r][t], sum[min(r + 1u, TM - 1u)][t]);
        }
}
