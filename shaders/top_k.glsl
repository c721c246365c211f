// Shared by the three passes of top_k. A strip is 64 logits: sixteen fours, a workgroup's width apart.
// Twin: vkbackend/ops/top_k.py
const uint WORKGROUP = 64u;    // strips
const uint STRIP_FOURS = 16u;  // STRIP / 4 in top_k.py
const uint STATS = 4u;         // per row: log-sum-exp, threshold, maximum, 0
const uint STAT_LOG_SUM_EXP = 0u, STAT_THRESHOLD = 1u, STAT_MAXIMUM = 2u, STAT_UNUSED = 3u;
const float LOWEST = -3.0e38;     // of logits past the end of a row
const float UNBOUNDED = -3.4e38;  // threshold if there are fewer than k strips: all logits reach it

// The first four of an invocation's strip.
uint first_four() { return gl_WorkGroupID.x * WORKGROUP * STRIP_FOURS + gl_LocalInvocationID.x; }
