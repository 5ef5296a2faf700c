"""Policies that write: a causal language model on the state, its tokenizer, prompts and answers."""
