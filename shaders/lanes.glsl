// Values of one lane in all lanes of a subgroup: FROM_LANE(v, lane), where `lane` is the same in all of them.
//
// On GPUs a broadcast is one instruction or part of another; Intel's compiler in Mesa 22.3 makes four of a
// shuffle by a constant. llvmpipe, which runs the TEXEL variants, does the opposite: a shuffle by a constant
// is one permute, and a broadcast is a loop over the lanes to find an active one, 30 cycles each.
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
#ifdef TEXEL
#define FROM_LANE(v, lane) subgroupShuffle(v, lane)
#else
#define FROM_LANE(v, lane) subgroupBroadcast(v, lane)
#endif
