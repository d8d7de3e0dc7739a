"""The house's rules as functions from a repository's root to a list of violations; tests/test_house.py runs them.

They read syntax trees and import nothing, so that a made-up tree can be checked like the real one.

Source: the plan of the house in CONTRIBUTING.md.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

TOP_FOLDERS = {"bench", "configs", "docs", "launch", "tests", "vxlpro_jax"}
MADE_FOLDERS = {"build", "dist", "runs", "__pycache__"}

# Ground floor first: a room may know the rooms of the floors below its own, and of its own floor only itself.
FLOORS = (
    {"types", "vocabulary", "parallel"},
    {"models", "data", "checkpoint", "program_cache"},
    {"train", "infer", "convert"},
    {"loading", "eval", "config", "planning"},
    {"cli", "__init__"},
)
FLOOR_OF_ROOM = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# types is the alphabet: its own floor speaks it too. cli is allowed the face's version.
KNOWN_SIDEWAYS = {("vocabulary", "types"), ("parallel", "types"), ("cli", "__init__")}
# data's workers start fast because nothing in it brings jax along; parallel would.
NEVER_KNOWN = {"data": {"parallel"}, "types": {"parallel", "vocabulary"}, "vocabulary": {"parallel"}}

# Packages that only some rooms may know (a path prefix inside the repository).
CONFINED_PACKAGES = {
    "ml_collections": ("vxlpro_jax/config.py", "configs/", "launch/", "tests/"),
    "orbax": ("vxlpro_jax/checkpoint.py", "tests/"),
    "decord": ("vxlpro_jax/data/video_decord.py", "tests/", "bench/"),
    "torch": ("tests/parity/", "bench/"),
}
PACKAGES_THAT_DATA_NEVER_KNOWS = {"jax", "jaxlib", "flax", "optax", "orbax"}

# Sizes of the released model that are fields everywhere else.
PRESET_NUMBERS = {"144", "154", "151654"}
PRESET_FIELDS = {"frames_per_group", "tokens_per_group", "num_tokens"}

# What touches a file, a clock, a device list or a flag, and the rooms that may.
WORLDLY_CALLS = re.compile(
    r"^(open|safe_open|.*\.(read_text|read_bytes|write_text|write_bytes|mkdir|unlink|iterdir|glob|rglob)"
    r"|(av|Image|wave|gzip|io)\.open|time\.\w+|(perf_counter|monotonic)|datetime\.now|os\.(environ\.get|getenv|listdir)"
    r"|jax\.(devices|local_devices|device_count|local_device_count|process_index|process_count)|shutil\.\w+)$"
)
WORLDLY_ROOMS = (
    *("vxlpro_jax/cli.py", "vxlpro_jax/checkpoint.py", "vxlpro_jax/train/loop.py", "vxlpro_jax/data/pipeline.py"),
    "vxlpro_jax/train/run_log.py",  # metrics.jsonl
    *("vxlpro_jax/infer/video_index.py", "vxlpro_jax/convert/safetensors_io.py"),
    "vxlpro_jax/infer/index_",  # the files of an index, and who writes them
    "vxlpro_jax/data/video_",  # video_decode and the readers beneath it
    "vxlpro_jax/data/clip_shards.py",  # clips encoded once, kept on disk
    "vxlpro_jax/data/image_folder.py",
    *("vxlpro_jax/data/records.py", "vxlpro_jax/data/mixture.py"),  # annotation files and lists of them
    "vxlpro_jax/data/subtitles.py",
    "vxlpro_jax/data/synthetic_",  # writes generated videos
    "vxlpro_jax/data/row_log.py",  # rows that outlive a killed run
    "vxlpro_jax/data/tokenizer.py",  # reads tokenizer.json, and writes the embedded model's
    "vxlpro_jax/convert/atomic_folder.py",  # a destination appears whole or not at all
    "vxlpro_jax/convert/sources.py",  # folders and hub ids
    "vxlpro_jax/convert/jax_to_torch.py",  # config.json beside the shards
    "vxlpro_jax/parallel/targets.py",  # descriptions of devices to compile for
    "vxlpro_jax/parallel/mesh.py",  # the device list is asked there and nowhere else
    *("vxlpro_jax/infer/replies.py", "vxlpro_jax/infer/encode.py"),  # an answer tells where its seconds went
    "vxlpro_jax/infer/frame_batches.py",  # and an index too
    "vxlpro_jax/program_cache.py",  # a folder of the user's, and the switch that turns it off
    "vxlpro_jax/loading.py",  # finds out what kind of folder it was given
    "vxlpro_jax/eval/prediction_log.py",  # answers, and the files made for a run
)

MESH_AXIS_CALLS = {"PartitionSpec", "make_mesh", "psum", "pmean", "all_gather", "axis_index"}

# Tests of no single file.
TESTS_OF_THE_WHOLE = {"test_house.py", "test_golden.py"}

NAMELESS_ROOMS = re.compile(r"^(utils?|common|helpers?|misc|base_.*)\.py$")


def sources(root: Path, *folders: str) -> Iterator[tuple[str, ast.Module]]:
    """(path inside the repository, syntax tree) of every Python file in the folders, sorted."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            if not MADE_FOLDERS & set(path.relative_to(root).parts):
                yield path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"), path.name)


def imported_names(name: str, tree: ast.Module) -> Iterator[str]:
    """Dotted names of everything a file imports, wherever in the file, relative imports resolved.

    `from a import b` gives "a.b", which names the module b where b is one and a name inside a where not.
    """
    package = name.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(dotted: str) -> str:
    """The room of a dotted name inside the package; names of the face itself are of room __init__."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR_OF_ROOM else "__init__"


def check_import_direction(root: Path) -> list[str]:
    """Imports run downwards, and never from the package to what is outside the wheel."""
    found = []
    for name, tree in sources(root, "vxlpro_jax"):
        room = name.split("/")[1].removesuffix(".py")
        if room not in FLOOR_OF_ROOM:
            found.append(f"{name}: room {room!r} has no floor; give it one in FLOORS")
            continue
        for dotted in imported_names(name, tree):
            if dotted.split(".")[0] in TOP_FOLDERS - {"vxlpro_jax"}:
                found.append(f"{name} imports {dotted}: the wheel holds vxlpro_jax only")
            if dotted.split(".")[0] != "vxlpro_jax" or room_of(dotted) == room:
                continue
            other = room_of(dotted)
            below = FLOOR_OF_ROOM[other] < FLOOR_OF_ROOM[room] or (room, other) in KNOWN_SIDEWAYS
            if not below or other in NEVER_KNOWN.get(room, ()):
                found.append(f"{name} imports {dotted}: {room} may not know {other}")
    return found


def check_confined_packages(root: Path) -> list[str]:
    """Third-party packages stay in the rooms that are made for them."""
    found = []
    for name, tree in sources(root, *sorted(TOP_FOLDERS)):
        for package in sorted({dotted.split(".")[0] for dotted in imported_names(name, tree)}):
            if package in CONFINED_PACKAGES and not name.startswith(CONFINED_PACKAGES[package]):
                found.append(f"{name} imports {package}: known to {', '.join(CONFINED_PACKAGES[package])} alone")
            if package in PACKAGES_THAT_DATA_NEVER_KNOWS and name.startswith("vxlpro_jax/data/"):
                found.append(f"{name} imports {package}: data is numpy only, so that its workers start fast")
    return found


def check_captions(root: Path) -> list[str]:
    """Every file opens with a caption; in the package it names its source, but for the rooms' own __init__."""
    found = []
    for name, tree in sources(root, *sorted(TOP_FOLDERS)):
        caption = ast.get_docstring(tree) or ""
        if not caption and (tree.body or not name.endswith("__init__.py")):
            found.append(f"{name}: no caption (module docstring)")
        elif name.startswith("vxlpro_jax/") and not name.endswith("__init__.py") and "Source:" not in caption:
            found.append(f"{name}: the caption names no `Source:`")
    return found


def check_sizes(root: Path) -> list[str]:
    """No file over 400 lines, no function over 70 (tests may be longer: they tell a story)."""
    found = []
    for name, tree in sources(root, *sorted(TOP_FOLDERS)):
        num_lines = (root / name).read_text(encoding="utf-8").count("\n")
        if num_lines > 400:
            found.append(f"{name}: {num_lines} lines; 400 is the most")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not name.startswith("tests/"):
                num_lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if num_lines > 70:
                    found.append(f"{name}:{node.lineno}: {node.name} is {num_lines} lines long; 70 is the most")
    return found


def check_file_names(root: Path) -> list[str]:
    """Top folders are the known ones, no room is nameless, and no two rooms of the package share a file name."""
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    unknown = sorted(f for f in folders - TOP_FOLDERS - MADE_FOLDERS if not f.endswith(".egg-info"))
    found = [f"{folder}/: no such room at the top; known: {', '.join(sorted(TOP_FOLDERS))}" for folder in unknown]
    homes: dict[str, str] = {}
    for name, _ in sources(root, *sorted(TOP_FOLDERS)):
        file_name = name.split("/")[-1]
        if NAMELESS_ROOMS.match(file_name):
            found.append(f"{name}: a room without a name")
        if name.startswith("vxlpro_jax/") and file_name != "__init__.py":
            if file_name in homes:
                found.append(f"{name}: {homes[file_name]} has the same name")
            homes[file_name] = name
    return found


def check_tests_mirror(root: Path) -> list[str]:
    """A test file stands where the file that it tests stands, and no file with functions is out of the tests' reach.

    In reach is what a test imports, and what that imports within its own room.
    """
    found = []
    imported: set[str] = set()
    for name, tree in sources(root, "tests"):
        imported.update(imported_names(name, tree))
        folder, _, file_name = name.removeprefix("tests/").rpartition("/")
        if not file_name.startswith("test_") or file_name in TESTS_OF_THE_WHOLE or folder in {"end_to_end", "parity"}:
            continue
        subject = f"{folder}/{file_name.removeprefix('test_')}".removeprefix("/")
        if not (root / "vxlpro_jax" / subject).is_file() and not (root / subject).is_file():
            found.append(f"{name}: there is no {subject} that it would test")
    untested = {name.removesuffix(".py").replace("/", "."): (name, tree) for name, tree in sources(root, "vxlpro_jax")}
    while reached := {dotted for dotted in untested if any(f"{i}.".startswith(f"{dotted}.") for i in imported)}:
        for dotted in reached:
            room_mates = imported_names(*untested.pop(dotted))
            imported.update(other for other in room_mates if room_of(other) == room_of(dotted))
    for dotted, (name, tree) in untested.items():
        if any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree)) and not name.endswith("__init__.py"):
            found.append(f"{name}: no test imports {dotted}, nor a file of its room that does")
    return found


def check_preset_numbers(root: Path) -> list[str]:
    """Group size, stamp length and tokens per group are literals in models/presets.py alone."""
    found = []
    for name, tree in sources(root, "vxlpro_jax", "launch"):
        if name == "vxlpro_jax/models/presets.py":
            continue
        text = (root / name).read_text(encoding="utf-8")
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NUMBER and token.string.replace("_", "") in PRESET_NUMBERS:
                found.append(f"{name}:{token.start[0]}: the literal {token.string} belongs in models/presets.py")
        for node in ast.walk(tree):
            for field, value in assigned_fields(node):
                # Zero is where a count starts, no size.
                if field in PRESET_FIELDS and isinstance(value, ast.Constant) and value.value:
                    found.append(f"{name}:{value.lineno}: {field}={value.value} belongs in models/presets.py")
    return found


def assigned_fields(node: ast.AST) -> Iterator[tuple[str, ast.expr | None]]:
    """(name, value) of what a node sets: keyword arguments, assignments, defaults of parameters."""
    if isinstance(node, ast.keyword) and node.arg:
        yield node.arg, node.value
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, node.value
    elif isinstance(node, ast.Assign):
        yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.arguments):
        positional = [*node.posonlyargs, *node.args]
        defaulted = positional[len(positional) - len(node.defaults) :]
        yield from ((a.arg, d) for a, d in zip(defaulted, node.defaults, strict=True))
        yield from ((a.arg, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True))


def dotted_call(node: ast.Call) -> str:
    """The name that is called, as written: "open", "jax.devices", "path.read_text"; "" for anything else."""
    parts = []
    callee: ast.expr = node.func
    while isinstance(callee, ast.Attribute):
        parts.append(callee.attr)
        callee = callee.value
    parts.append(callee.id if isinstance(callee, ast.Name) else "")
    return ".".join(reversed(parts))


def check_worldly_calls(root: Path) -> list[str]:
    """Files, clocks, devices and flags are touched in the rooms made for it, and nowhere else in the package."""
    found = []
    for name, tree in sources(root, "vxlpro_jax"):
        if not name.startswith(WORLDLY_ROOMS):
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and WORLDLY_CALLS.match(dotted_call(node)):
                    found.append(f"{name}:{node.lineno}: {dotted_call(node)}() touches the world outside its rooms")
    return found


def check_mesh_axes(root: Path) -> list[str]:
    """A mesh axis is spoken of only in parallel/ and configs/: nobody else writes one into a spec or a collective."""
    found = []
    for name, tree in sources(root, "vxlpro_jax", "launch"):
        if name.startswith("vxlpro_jax/parallel/"):
            continue
        for dotted in imported_names(name, tree):
            if dotted.split(".")[-1] == "PartitionSpec":
                found.append(f"{name} imports {dotted}: mesh axes are spoken of in parallel/ alone")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and dotted_call(node).split(".")[-1] in MESH_AXIS_CALLS:
                names = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)]
                found.extend(f"{name}:{node.lineno}: mesh axis {axis!r} is spoken outside parallel/" for axis in names)
    return found


def check_unfinished(root: Path) -> list[str]:
    """No notes to oneself and no handler that swallows everything."""
    found = []
    for name, tree in sources(root, *sorted(TOP_FOLDERS)):
        for token in tokenize.generate_tokens(io.StringIO((root / name).read_text(encoding="utf-8")).readline):
            if token.type == tokenize.COMMENT and re.search(r"\b(TODO|FIXME|XXX|HACK)\b", token.string):
                found.append(f"{name}:{token.start[0]}: {token.string}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                if node.type is None or getattr(node.type, "id", "") in {"Exception", "BaseException"}:
                    found.append(f"{name}:{node.lineno}: catches everything; name what can happen")
    return found


CHECKS: list[Callable[[Path], list[str]]] = [
    check_import_direction,
    check_confined_packages,
    check_captions,
    check_sizes,
    check_file_names,
    check_tests_mirror,
    check_worldly_calls,
    check_preset_numbers,
    check_mesh_axes,
    check_unfinished,
]
