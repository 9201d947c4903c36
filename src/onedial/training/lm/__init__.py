"""The bridge to Hugging Face causal language models: packed attention, key/value memory, token log-probabilities."""
