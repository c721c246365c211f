// Gates of feed-forward layers, for floats and vectors alike. Twins: silu_mul and gelu_mul in vkbackend/ops/elementwise.py
#define SILU(g) ((g) / (1.0 + exp(-(g))))
// In its tanh form; tanh is 1 beyond the clamp, where some drivers' exp would overflow.
#define GELU(g) (0.5 * (g) * (1.0 + tanh(clamp(0.7978845608028654 * (g) * (1.0 + 0.044715 * (g) * (g)), -15.0, 15.0))))
