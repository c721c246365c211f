// Gates of feed-forward layers, for floats and vectors alike. Twins: silu_mul and gelu_mul in
// vkbackend/ops/elementwise.py
const uint GATE_NONE = 0u, GATE_SILU = 1u, GATE_GELU = 2u;  // GATES in vkbackend/ops/matmul.py

#define SILU(g) ((g) / (1.0 + exp(-(g))))
// The tanh form; tanh is 1 beyond the clamp, where some drivers' exp would overflow.
#define GELU(g) \
    (0.5 * (g) * (1.0 + tanh(clamp(0.7978845608028654 * (g) * (1.0 + 0.044715 * (g) * (g)), -15.0, 15.0))))

float activate(uint gate, float g) { return gate == GATE_SILU ? SILU(g) : GELU(g); }
