"""Videos that grow and an encoder that tells who shared a batch, for tests of indexes that are gone on with.

Source: ours.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.infer.askable import CONFIG, askable
from vxlpro_jax.infer.video_index import VideoIndex

GROUP = CONFIG.dts.frames_per_group


def write_frames(folder: Path, numbers: range | list[int], broken: tuple[int, ...] = (), seed: int = 0) -> Path:
    """A folder of images, which is a video of a frame a second; broken ones have a header and no pixels."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        path = folder / f"{number}.png"
        pixels = np.random.default_rng([seed, number]).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        if number in broken:
            path.write_bytes(path.read_bytes()[:60])
    return folder


class BatchEncoder:
    """Stands in for encode_frames: a group's tokens depend on all frames of its batch and on its place there. Counts
    the frames that it was given."""

    def __init__(self):
        self.num_frames = 0

    def __call__(self, model, params, pixels) -> np.ndarray:
        self.num_frames += len(pixels)
        groups = np.asarray(pixels).reshape(len(pixels) // GROUP, -1)
        tokens = np.resize(groups, (len(groups), CONFIG.tokens_per_group, CONFIG.projector.dim))
        return (tokens + 0.01 * groups.mean() + 0.001 * np.arange(len(groups))[:, None, None]).astype(np.float32)


def index(source: Path, output: Path | None = None, **options) -> VideoIndex:
    """Four batches of two groups make a segment (see the fixture `encoder`)."""
    return askable().index(source, output=output, **({"frames_per_batch": 2 * GROUP} | options))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
