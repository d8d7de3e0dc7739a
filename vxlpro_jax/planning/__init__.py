"""How much memory and time a video takes on which device, before anything runs. No jax, but in compiled.py."""
