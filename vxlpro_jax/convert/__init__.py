"""Weights in and out: the released PyTorch layout, stock parts of it, and Orbax folders.

Source: SPEC 10.
"""

from vxlpro_jax.convert.conversion import convert, load_config, load_params, save_params_as
from vxlpro_jax.convert.errors import ConversionError
from vxlpro_jax.convert.sources import resolve_source

__all__ = ["ConversionError", "convert", "load_config", "load_params", "resolve_source", "save_params_as"]
