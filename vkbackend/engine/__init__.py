"""The engine: prompt tokens of many requests in, pieces of text with log-probabilities out.

`engine.Engine` runs one thread; `scheduler` says who is admitted and which tokens a step holds, the runner computes
their logits, `sampler` takes a token from them, `logprobs` says how likely it was, `text_stream` turns tokens into
whole characters. `kv_cache` says which page of the cache holds which tokens, `prefix_cache` which pages can be used
again by whoever begins alike. Nothing is imported here, so that a module of this package can be used without the
others.
"""
