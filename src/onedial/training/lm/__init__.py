"""The bridge to Hugging Face causal language models: packed attention, the KV cache, token log-probabilities."""
