#version 450
// The experts that a token uses and their weights, from its router logits. One group per token.
// Twin: vkbackend/ops/route.py
#extension GL_GOOGLE_include_directive : require
#include "group.glsl"
const uint GATING_SOFTMAX = 0u, GATING_SIGMOID = 1u;
layout(constant_id = 1) const uint GATING = 0;
layout(constant_id = 2) const bool HAS_BIAS = false;
layout(constant_id = 3) const bool RENORMALIZE = false;
layout(std430, binding = 0) readonly buffer Logits { float logits[]; };  // (tokens, experts)
layout(std430, binding = 1) readonly buffer Bias {
    float bias[];
};  // (experts); bound to logits if there is none
layout(std430, binding = 2) readonly buffer Positions { int positions[]; };
layout(std430, binding = 3) writeonly buffer Ids { int ids[]; };            // (tokens, used)
layout(std430, binding = 4) writeonly buffer Weights { float weights[]; };  // (tokens, used)
layout(push_constant) uniform Push {
    uint num_experts, num_used;
    uint logits_offset, logits_stride, weights_offset, weights_stride;
    uint num_groups, groups_used;
    float factor;
};

const uint MAX_EXPERTS = 1024u, MAX_USED = 64u;
const float LOWEST = -3.0e38, TAKEN = -3.3e38, LEAST_SUM = 1.0 / 16384.0;
shared float scores[MAX_EXPERTS];  // what experts are chosen by
shared float group_scores[MAX_EXPERTS];
shared uint chosen[MAX_USED];

uint row;
float highest = 0.0, total = 1.0;  // of the softmax

float probability(uint expert) {
    float x = logits[row + expert];
    return GATING == GATING_SOFTMAX ? exp(x - highest) / total : 1.0 / (1.0 + exp(-x));
}

// The highest of count values in shared memory, the first of equals; each lane looks at its own.
#define BEST_OF(values, count, best)                                            \
    {                                                                           \
        float most = TAKEN;                                                     \
        uint at = count;                                                        \
        for (uint i = LANE; i < count; i += LANES)                              \
            if (values[i] > most) {                                             \
                most = values[i];                                               \
                at = i;                                                         \
            }                                                                   \
        float all_most = group_max(most);                                       \
        float first = group_max(most == all_most ? -float(at) : -float(count)); \
        best = min(uint(-first), count - 1u);                                   \
    }

void find_softmax() {
    float most = LOWEST;
    for (uint i = LANE; i < num_experts; i += LANES) most = max(most, logits[row + i]);
    highest = group_max(most);
    float sum = 0.0;
    for (uint i = LANE; i < num_experts; i += LANES) sum += exp(logits[row + i] - highest);
    total = group_add(sum);
}

// Leaves out the experts of all groups but the best.
void choose_groups() {
    uint size = num_experts / num_groups;
    group_barrier();
    for (uint g = LANE; g < num_groups; g += LANES) {
        float first = LOWEST, second = LOWEST;
        for (uint i = 0u; i < size; i++) {
            float v = scores[g * size + i];
            second = max(second, min(first, v));
            first = max(first, v);
        }
        group_scores[g] = size > 1u ? max(first + second, LOWEST) : first;
    }
    for (uint n = 0u; n < groups_used; n++) {
        uint best;
        BEST_OF(group_scores, num_groups, best)
        if (best % LANES == LANE) group_scores[best] = TAKEN;
    }
    group_barrier();
    for (uint i = LANE; i < num_experts; i += LANES)
        if (group_scores[i / size] != TAKEN) scores[i] = LOWEST;
}

void main() {
    uint token = gl_WorkGroupID.x;
    row = logits_offset + token * logits_stride;
    uint weights_row = weights_offset + token * weights_stride;
    if (positions[token] < 0) {
        for (uint j = LANE; j < num_used; j += LANES) {
            ids[token * num_used + j] = -1;
            weights[weights_row + j] = 0.0;
        }
        return;
    }
    if (GATING == GATING_SOFTMAX) find_softmax();
    for (uint i = LANE; i < num_experts; i += LANES) {
        float score = probability(i);
        if (HAS_BIAS) score += bias[i];
        scores[i] = score > LOWEST ? score : LOWEST;  // also if it is no number
    }
    if (num_groups > 1u) choose_groups();

    float sum = 0.0;
    for (uint j = 0u; j < num_used; j++) {
        uint best;
        BEST_OF(scores, num_experts, best)
        sum += probability(best);
        if (best % LANES == LANE) {
            scores[best] = TAKEN;
            chosen[j] = best;
        }
    }
    float by = RENORMALIZE ? factor / max(sum, LEAST_SUM) : factor;
    group_barrier();
    for (uint j = LANE; j < num_used; j += LANES) {
        ids[token * num_used + j] = int(chosen[j]);
        weights[weights_row + j] = probability(chosen[j]) * by;
    }
}
