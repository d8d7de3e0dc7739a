"""The model: pure-functional Flax Linen modules, one sub-model a file."""
