"""Megatron-LM with Transformer Engine: what its modules keep and allocate, line by line.

Read in megatron-core 0.16 and transformer-engine 2.11. Weight gradients are added to the main gradients by the product that makes
them (gradient_accumulation_fusion), so that no weight gradient is ever a value of its own.
"""
