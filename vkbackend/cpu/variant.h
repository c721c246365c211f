// Declarations for one set of instructions. CMakeLists.txt defines VARIANT (a namespace) and KERNELS (the function that
// returns its table).
#pragma once
#include "kernels.h"

namespace vkbackend_cpu::VARIANT {

void rms_norm(const NormArgs&, int task, int tasks);
void layer_norm(const LayerNormArgs&, int task, int tasks);
void activation(const ActivationArgs&, int task, int tasks);
void finish(const FinishArgs&, int task, int tasks);
void gate(const GateArgs&, int task, int tasks);
void softcap(const SoftcapArgs&, int task, int tasks);
void gather(const GatherArgs&, int task, int tasks);
void rotation(const RotationArgs&, int task, int tasks);
void split_heads(const SplitArgs&, int task, int tasks);
void attention(const AttentionArgs&, int task, int tasks);
void strips(const StripsArgs&, int task, int tasks);
void quantize_32(const QuantizeArgs&, int task, int tasks);
void quantize_256(const QuantizeArgs&, int task, int tasks);
const ProductKernel* find_product(int type);

}  // namespace vkbackend_cpu::VARIANT
