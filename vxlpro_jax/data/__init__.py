"""From files and text to arrays: frames, prompts and batches, on numpy alone (this room never imports jax).

Source: SPEC.md sections 2, 5, 9 and 13.
"""
