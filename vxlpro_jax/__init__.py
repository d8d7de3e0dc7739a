"""The face of the package: load a model, index a video, ask about it.

Names are looked up at first use, so that `import vxlpro_jax` costs milliseconds and starts no accelerator.
No module may bear the name of a public call: once imported it would stand in the call's place.

Source: ours (README.md and docs/inference.md show the three calls together).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vxlpro_jax.infer.answer import VideoXLPro
    from vxlpro_jax.infer.video_index import VideoIndex
    from vxlpro_jax.loading import load

__version__ = "0.1.0"
__all__ = ["VideoIndex", "VideoXLPro", "__version__", "load"]

_HOMES = {
    "load": "vxlpro_jax.loading",
    "VideoXLPro": "vxlpro_jax.infer.answer",
    "VideoIndex": "vxlpro_jax.infer.video_index",
}


def __getattr__(name: str) -> Any:
    """Fetch a public name from the room that defines it; raises AttributeError for any other name."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vxlpro_jax' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
