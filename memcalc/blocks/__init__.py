"""The block kinds: what a model is made of, each a frozen value that knows its tensors."""
