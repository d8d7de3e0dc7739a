"""The house keeps its rules, and each rule is proven to bite on a made-up tree that breaks it.

Source: the plan of the house in CONTRIBUTING.md; the rules themselves stand in tests/house_rules.py.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import house_rules

REPOSITORY = Path(__file__).resolve().parent.parent
CAPTION = '"""What it does.\n\nSource: SPEC 1.\n"""\n'

# (rule, path of one file, its text, what the violation must say)
BROKEN = [
    ("check_import_direction", "vxlpro_jax/models/dts.py", "import vxlpro_jax.data.video", "models may not know data"),
    ("check_import_direction", "vxlpro_jax/data/a.py", "from vxlpro_jax.models import dts", "data may not know models"),
    ("check_import_direction", "vxlpro_jax/data/a.py", "from vxlpro_jax import models", "data may not know models"),
    ("check_import_direction", "vxlpro_jax/data/a.py", "from ..models.dts import Dts", "data may not know models"),
    ("check_import_direction", "vxlpro_jax/data/a.py", "from .. import parallel", "data may not know parallel"),
    ("check_import_direction", "vxlpro_jax/train/step.py", "import vxlpro_jax.infer.answer as a", "not know infer"),
    ("check_import_direction", "vxlpro_jax/infer/a.py", "def f():\n    from vxlpro_jax.train import b", "know train"),
    ("check_import_direction", "vxlpro_jax/types.py", "from vxlpro_jax import vocabulary", "types may not know vocab"),
    ("check_import_direction", "vxlpro_jax/loading.py", "from vxlpro_jax.cli import main", "loading may not know cli"),
    ("check_import_direction", "vxlpro_jax/loading.py", "from vxlpro_jax import VideoXLPro", "may not know __init__"),
    ("check_import_direction", "vxlpro_jax/cli.py", "from launch import train", "the wheel holds vxlpro_jax only"),
    ("check_import_direction", "vxlpro_jax/attic/a.py", "x = 1", "'attic' has no floor"),
    (
        "check_confined_packages",
        "vxlpro_jax/loading.py",
        "from ml_collections import ConfigDict",
        "imports ml_collections",
    ),
    ("check_confined_packages", "vxlpro_jax/train/loop.py", "import orbax.checkpoint as ocp", "imports orbax"),
    ("check_confined_packages", "vxlpro_jax/convert/rules.py", "import torch", "imports torch"),
    ("check_confined_packages", "vxlpro_jax/data/batching.py", "import jax.numpy as jnp", "imports jax"),
    ("check_captions", "launch/train.py", "import os", "no caption"),
    ("check_captions", "vxlpro_jax/loading.py", '"""Loads."""', "names no `Source:`"),
    ("check_sizes", "vxlpro_jax/loading.py", "\n" * 401, "401 lines; 400 is the most"),
    ("check_sizes", "vxlpro_jax/loading.py", "class A:\n  def f(self):\n" + "    x = 1\n" * 70, "f is 71 lines long"),
    ("check_file_names", "tools/a.py", "", "no such room at the top"),
    ("check_file_names", "vxlpro_jax/data/utils.py", "", "a room without a name"),
    ("check_file_names", "vxlpro_jax/data/stages.py", "", "vxlpro_jax/train/stages.py: vxlpro_jax/data/stages.py has"),
    (
        "check_tests_mirror",
        "vxlpro_jax/loading.py",
        "class A:\n    def f(self): ...",
        "no test imports vxlpro_jax.loading",
    ),
    ("check_tests_mirror", "tests/models/test_sae.py", "", "there is no models/sae.py"),
    ("check_tests_mirror", "vxlpro_jax/data/lines.py", "def f(): ...", "no test imports vxlpro_jax.data.lines"),
    ("check_worldly_calls", "vxlpro_jax/models/dts.py", "open('x')", "open() touches the world"),
    (
        "check_worldly_calls",
        "vxlpro_jax/models/dts.py",
        "def f(p):\n    return p.parent.read_text()",
        "read_text() touches",
    ),
    ("check_worldly_calls", "vxlpro_jax/infer/generate.py", "jax.devices('cpu')", "jax.devices() touches"),
    ("check_worldly_calls", "vxlpro_jax/train/step.py", "time.perf_counter()", "time.perf_counter() touches"),
    ("check_preset_numbers", "vxlpro_jax/infer/a.py", "x = 144", "the literal 144"),
    ("check_preset_numbers", "vxlpro_jax/infer/a.py", "x = 151_654", "the literal 151_654"),
    ("check_preset_numbers", "vxlpro_jax/infer/a.py", "def f(frames_per_group=4): ...", "frames_per_group=4 belongs"),
    (
        "check_preset_numbers",
        "vxlpro_jax/infer/a.py",
        "def f(*, frames_per_group=4): ...",
        "frames_per_group=4 belongs",
    ),
    ("check_preset_numbers", "vxlpro_jax/types.py", "class A:\n    num_tokens: int = 10", "num_tokens=10 belongs"),
    ("check_preset_numbers", "launch/a.py", "f(tokens_per_group=9)", "tokens_per_group=9 belongs"),
    (
        "check_mesh_axes",
        "vxlpro_jax/train/step.py",
        "from jax.sharding import PartitionSpec as P",
        "mesh axes are spoken",
    ),
    ("check_mesh_axes", "vxlpro_jax/train/step.py", "jax.lax.psum(x, 'fsdp')", "mesh axis 'fsdp' is spoken"),
    ("check_mesh_axes", "launch/a.py", "make_mesh({'data': 4})", "mesh axis 'data' is spoken"),
    ("check_unfinished", "launch/a.py", "x = 1  # TO" + "DO: more", "launch/a.py:5"),
    ("check_unfinished", "launch/a.py", "try:\n    f()\nexcept Exception as e:\n    pass", "catches everything"),
    ("check_unfinished", "launch/a.py", "try:\n    f()\nexcept:\n    pass", "catches everything"),
]

# What looks like a violation and is none; every rule must stay silent about it.
SOUND = {
    "vxlpro_jax/__init__.py": CAPTION,
    "vxlpro_jax/types.py": CAPTION + "num_tokens: int\nstart = 0",
    "vxlpro_jax/models/presets.py": CAPTION
    + "from vxlpro_jax.types import A\nfrom vxlpro_jax.parallel import axes\nx = 144",
    "vxlpro_jax/models/dts.py": CAPTION + "from . import presets\nfrom vxlpro_jax.models.presets import x\ny = 1440",
    "vxlpro_jax/train/stages.py": CAPTION + "from vxlpro_jax.data import rows\nfrom . import schedules\nnum_tokens = 0",
    "vxlpro_jax/data/rows.py": CAPTION + "import numpy\nfrom ..types import A\ndef f(): return A.time, '144'  # 144",
    "vxlpro_jax/data/video_decode.py": CAPTION + "import av\nav.open('x')",
    "vxlpro_jax/parallel/mesh.py": CAPTION + "import jax\njax.devices()\njax.make_mesh((4,), ('data',))",
    "vxlpro_jax/config.py": CAPTION + "import ml_collections\nfrom vxlpro_jax.models.presets import x",
    "vxlpro_jax/cli.py": CAPTION + "import time\ntime.time()\nfrom vxlpro_jax import __version__, load",
    "configs/base.py": CAPTION + "import ml_collections\nmesh = {'data': 4}",
    "launch/train.py": CAPTION + "try:\n    from vxlpro_jax import cli\nexcept (OSError, ValueError):\n    raise",
    "tests/train/test_stages.py": CAPTION + "from vxlpro_jax.train import stages",
    "vxlpro_jax/train/schedules.py": CAPTION + "def f(): ...",
    "tests/data/test_rows.py": CAPTION + "from vxlpro_jax.data.rows import f\ndef test_a():\n" + "    x = 1\n" * 100,
}


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("check", house_rules.CHECKS, ids=lambda check: check.__name__)
def test_house_keeps_the_rule(check: Callable[[Path], list[str]]) -> None:
    violations = check(REPOSITORY)
    assert not violations, "\n" + "\n".join(violations)


@pytest.mark.parametrize(("check", "name", "text", "said"), BROKEN)
def test_rule_bites(tmp_path: Path, check: str, name: str, text: str, said: str) -> None:
    caption = "" if check == "check_captions" or text.startswith("\n") else CAPTION
    write_tree(tmp_path, SOUND | {name: caption + text})
    violations = getattr(house_rules, check)(tmp_path)
    assert len(violations) == 1, violations
    assert said in violations[0]


@pytest.mark.parametrize("check", house_rules.CHECKS, ids=lambda check: check.__name__)
def test_rule_leaves_a_sound_tree_alone(tmp_path: Path, check: Callable[[Path], list[str]]) -> None:
    write_tree(tmp_path, SOUND)
    assert check(tmp_path) == []


def test_every_rule_is_proven_to_bite() -> None:
    assert {check.__name__ for check in house_rules.CHECKS} == {row[0] for row in BROKEN}


def imports_after(statement: str) -> set[str]:
    """Top packages that a fresh interpreter holds after the statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_the_face_brings_nothing_along() -> None:
    assert not imports_after("import vxlpro_jax") & {"jax", "flax", "numpy", "transformers", "av", "decord", "grain"}


def test_data_without_grain_brings_no_jax() -> None:
    """Proves at run time what the import rule reads, third parties included; grain itself imports jax."""
    modules = []
    for name, tree in house_rules.sources(REPOSITORY, "vxlpro_jax/data"):
        if "grain" not in {dotted.split(".")[0] for dotted in house_rules.imported_names(name, tree)}:
            modules.append(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert len(modules) > 1
    assert not imports_after("import " + ", ".join(modules)) & {"jax", "flax"}


def test_the_face_offers_what_it_names() -> None:
    import vxlpro_jax

    for _ in range(2):  # the first look-up imports modules, which must not take a name's place
        for name in vxlpro_jax.__all__:
            assert isinstance(getattr(vxlpro_jax, name), str if name == "__version__" else Callable), name
    assert set(vxlpro_jax.__all__) <= set(dir(vxlpro_jax))
    with pytest.raises(AttributeError, match="'lode'; it offers VideoIndex, VideoXLPro"):
        getattr(vxlpro_jax, "lode")  # noqa: B009 - the lookup itself is what is tested


def declared_ranges() -> dict[str, Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], project["optional-dependencies"]["dev"]]
    ranges = [Requirement(text) for group in groups for text in group]
    return {canonicalize_name(requirement.name): requirement for requirement in ranges}


def pinned_versions() -> dict[str, str]:
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[\d.]+", str(pin.specifier)) for pin in pins)
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def test_pins_and_ranges_speak_of_the_same_packages() -> None:
    ranges, pins = declared_ranges(), pinned_versions()
    assert set(ranges) == set(pins)
    assert not [f"{name} {pins[name]}" for name in pins if not ranges[name].specifier.contains(pins[name])]


def test_what_the_package_imports_is_what_it_declares() -> None:
    """Neither an import that a fresh wheel would miss, nor a dependency that nothing uses."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    tops = set()
    for name, tree in house_rules.sources(REPOSITORY, "vxlpro_jax"):
        tops |= {dotted.split(".")[0] for dotted in house_rules.imported_names(name, tree)}
    tops -= set(sys.stdlib_module_names) | {"vxlpro_jax", ""}
    distributions = metadata.packages_distributions()
    imported = {canonicalize_name(d) for top in tops for d in distributions.get(top, [top])}
    assert imported == declared


def test_version_is_said_once_in_each_place() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tree = ast.parse((REPOSITORY / "vxlpro_jax" / "__init__.py").read_text(encoding="utf-8"))
    versions = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__version__"
    ]
    assert versions == [project["version"]]
    assert f"## {project['version']}" in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
