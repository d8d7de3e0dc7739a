"""The heat map: a table of the cells with intervals, and a picture whole or not at all."""

from pathlib import Path

from matplotlib import pyplot

from launch.heat_map import draw, to_markdown
from vxlpro_jax.eval.benchmark import Grid

GRID = Grid("depth", ("0%", "50%"), "frames", ("64", "8,192"), (((12, 12), (9, 12)), ((0, 0), (0, 10))))


def test_the_table_tells_share_and_interval() -> None:
    lines = to_markdown(GRID).splitlines()
    assert lines[0] == "| depth \\ frames | 64 | 8,192 |"
    assert lines[2] == "| 0% | 1.000 (0.76 to 1.00) | 0.750 (0.47 to 0.91) |"
    assert lines[3] == "| 50% |  | 0.000 (0.00 to 0.28) |"
    assert lines[-1] == "Right answers; 0 to 12 questions a cell."


def test_the_picture_shows_every_cell(tmp_path: Path) -> None:
    draw(GRID, "texture", tmp_path / "a.png")
    picture = pyplot.imread(tmp_path / "a.png")[..., :3]
    colours = {tuple(round(float(value), 1) for value in pixel) for pixel in picture.reshape(-1, 3)[::3]}
    assert {(0.0, 0.4, 0.2), (0.6, 0.0, 0.1)} <= colours  # all and none
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
