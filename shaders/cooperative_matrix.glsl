// Cooperative matrices, held by a subgroup (SPV_KHR_cooperative_matrix): A (MATRIX_M x MATRIX_K) and B
// (MATRIX_K x MATRIX_N) of halves, C of floats, for C += A B. The includer defines the three sizes, as the
// device lists them.
//
// Written as SPIR-V intrinsics, since glslang of long-lived distributions does not know
// GL_KHR_cooperative_matrix. build.py replaces the first parameter of a type, the bits of a component, by
// that float type: a spirv_type can name numbers only.
#extension GL_EXT_spirv_intrinsics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_memory_scope_semantics : require
#pragma use_vulkan_memory_model

#define COOPERATIVE extensions = ["SPV_KHR_cooperative_matrix"], capabilities = [6022]
// An expression: a literal would be passed as a number, not as the <id> of a constant.
#define CONSTANT(n) ((n) + 0)
#define SCOPE_SUBGROUP CONSTANT(3)
// clang-format off
#define MATRIX_TYPE(BITS, ROWS, COLUMNS, USE) \
    spirv_type(COOPERATIVE, id = 4456, BITS, SCOPE_SUBGROUP, CONSTANT(ROWS), CONSTANT(COLUMNS), CONSTANT(USE))
#define MATRIX_A MATRIX_TYPE(16, MATRIX_M, MATRIX_K, 0)
#define MATRIX_B MATRIX_TYPE(16, MATRIX_K, MATRIX_N, 1)
#define MATRIX_C MATRIX_TYPE(32, MATRIX_M, MATRIX_N, 2)

const int ROW_MAJOR = 0, COLUMN_MAJOR = 1;
const int NON_PRIVATE = 0x20;  // memory operand: other invocations wrote it, or will read it

// Strides are in elements of the array that `first` is in.
spirv_instruction(COOPERATIVE, id = 4457)
MATRIX_A load_a(spirv_by_reference float16_t first, int layout_, uint stride, spirv_literal int operand);
spirv_instruction(COOPERATIVE, id = 4457)
MATRIX_B load_b(spirv_by_reference float16_t first, int layout_, uint stride, spirv_literal int operand);
spirv_instruction(COOPERATIVE, id = 4458)
void store_c(spirv_by_reference float first, MATRIX_C c, int layout_, uint stride, spirv_literal int operand);
spirv_instruction(COOPERATIVE, id = 4459)
MATRIX_C multiply_add(MATRIX_A a, MATRIX_B b, MATRIX_C c);
spirv_instruction(COOPERATIVE, id = 80)
MATRIX_C filled_c(float value);
