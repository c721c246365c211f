"""The engine: turns prompts of many requests into pieces of text with log-probabilities.

`engine.Engine` runs one thread. `scheduler` decides which requests are admitted and which tokens a step runs, the
runner computes their logits, `sampler` picks a token from them, `logprobs` computes how likely it was, `text_stream`
turns tokens into whole characters. `kv_cache` records which page of the cache holds which tokens, `prefix_cache` which
pages later sequences with the same beginning can share. Nothing is imported here, so that a module of this package can
be used without the others.
"""
