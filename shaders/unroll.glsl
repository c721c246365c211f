// Loops that must be unrolled: UNROLL (uint i = 0u; i < n; i++).
#extension GL_EXT_control_flow_attributes : require
#define UNROLL [[unroll]] for
