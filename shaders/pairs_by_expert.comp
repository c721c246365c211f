#version 450
// The pairs of a token and an expert in the order of experts. One workgroup: each thread counts the pairs of
// its experts, finds where they begin, and writes them, so that no two threads write to the same place.
// Twin: vkbackend/ops/pairs_by_expert.py
const uint THREADS = 128u, MAX_EXPERTS = 1024u, CHUNK = 1024u;
layout(local_size_x = 128) in;
layout(std430, binding = 0) readonly buffer Ids { int ids[]; };       // (pairs)
layout(std430, binding = 1) writeonly buffer Order { int order[]; };  // (slots)
layout(push_constant) uniform Push { uint num_pairs, num_experts, tile, num_slots; };

shared int chunk[CHUNK];         // ids
shared uint next[MAX_EXPERTS];   // slots of each expert, later its next slot
shared uint start[MAX_EXPERTS];  // of each expert

void load_chunk(uint first) {
    barrier();
    for (uint i = gl_LocalInvocationIndex; i < CHUNK; i += THREADS)
        chunk[i] = first + i < num_pairs ? ids[first + i] : -1;
    barrier();
}

uint padded(uint count) { return (count + tile - 1u) / tile * tile; }

void main() {
    uint thread = gl_LocalInvocationIndex;
    for (uint e = thread; e < num_experts; e += THREADS) next[e] = 0u;
    for (uint first = 0u; first < num_pairs; first += CHUNK) {
        load_chunk(first);
        uint count = min(CHUNK, num_pairs - first);
        for (uint e = thread; e < num_experts; e += THREADS) {
            uint found = 0u;
            for (uint i = 0u; i < count; i++) found += chunk[i] == int(e) ? 1u : 0u;
            next[e] += found;
        }
    }
    barrier();
    uint end = 0u;  // of all experts
    for (uint e = 0u; e < num_experts; e++) {
        if (e % THREADS == thread) start[e] = end;
        end += padded(next[e]);
    }
    barrier();
    for (uint e = thread; e < num_experts; e += THREADS) {
        // The last slots of an expert have no pair.
        uint last = start[e] + padded(next[e]);
        for (uint i = start[e] + next[e]; i < min(last, num_slots); i++) order[i] = -1;
        next[e] = start[e];
    }
    for (uint first = 0u; first < num_pairs; first += CHUNK) {
        load_chunk(first);
        uint count = min(CHUNK, num_pairs - first);
        for (uint e = thread; e < num_experts; e += THREADS)
            for (uint i = 0u; i < count; i++)
                if (chunk[i] == int(e) && next[e] < num_slots) order[next[e]++] = int(first + i);
    }
    for (uint i = end + thread; i < num_slots; i += THREADS) order[i] = -1;
}
