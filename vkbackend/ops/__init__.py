"""Every op by name: `OPS["rope"].reference(...)`. A new op is a shader, a file here and a line below."""

from . import attention, decode_attention, elementwise, embed, gather_rows, kv_write, matmul, pick_logits, rms_norm, rope, softmax, split_heads, top_k

OPS = {op.name: op for op in (
    embed.OP, matmul.OP, rms_norm.OP, rope.OP, kv_write.OP, split_heads.OP, attention.OP, decode_attention.OP, *elementwise.ALL, gather_rows.OP, *softmax.ALL, top_k.OP,
    pick_logits.OP,
)}
