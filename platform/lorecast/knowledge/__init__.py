"""Texts that language models know: factors, prompts, plan, store, import."""
