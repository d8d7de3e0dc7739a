"""Training data as people have it: LLaVA annotation files (a JSON list, or JSONL) to checked records, and back.

Source: SPEC 13 (data JSON). A fault names file and line.
Differs: what is wrong with a record is told with its line; the released code fails on it, or trains on the next one.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vxlpro_jax.data.conversation import Turn
from vxlpro_jax.vocabulary import VIDEO_TAG

MediaKind = Literal["video", "image", "images", "text"]
_TAGS = re.compile("<image>|<video>")  # both are in use; both mean the place of the record's media
_ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
_SPACE = re.compile(r"[ \t\r\n]*")
_SHOWN = 60  # characters of a value that a fault quotes


@dataclass(frozen=True)
class Record:
    """One sample of an annotation file.

    source, line: the annotation file and the line on which the record begins, from 1. id: the record's own, or
    "file:line". media: paths of its video or pictures, below the media root unless absolute. conversation: turns that
    alternate between "human" and "gpt", one VIDEO_TAG for each of the media. scale: multiplies its time stamps (SPEC
    13), 1 unless given. relevant_s: the seconds (start, end) that its question is about, None where nobody says so.
    extra: the record as it was read.
    """

    source: str
    line: int
    id: str
    media: tuple[str, ...]
    media_kind: MediaKind
    conversation: tuple[Turn, ...]
    scale: float | None
    relevant_s: tuple[tuple[float, float], ...] | None
    extra: Mapping[str, Any]

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """(question, answer) pairs as text, without the places of the media."""
        texts = [turn["value"].replace(VIDEO_TAG, "").strip() for turn in self.conversation]
        return tuple(zip(texts[::2], texts[1::2], strict=True))


@dataclass(frozen=True)
class RecordFault:
    """Why a record, or the rest of a file, is not used."""

    source: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}"


class RecordPlace(NamedTuple):
    """Where the text of a record stands in its file: line from 1, first byte and number of bytes."""

    line: int
    offset: int
    length: int


class MalformedRecord(ValueError):
    """What is wrong with a record, in words that somebody who can mend the file understands."""


def read_records(path: str | os.PathLike, media_root: str | os.PathLike = "") -> Iterator[Record | RecordFault]:
    """Every record of the file, or its fault, in order. Raises OSError where the file cannot be read at all."""
    for raw, place in _raw_records(Path(path)):
        yield raw if isinstance(raw, RecordFault) else _checked(raw, path, place.line, media_root)


def find_records(path: str | os.PathLike) -> Iterator[RecordPlace | RecordFault]:
    """Where the records of the file stand, so that any one can be read by itself; faults of syntax on the way."""
    for raw, place in _raw_records(Path(path)):
        yield raw if isinstance(raw, RecordFault) else place


def read_record(path: str | os.PathLike, place: RecordPlace, media_root: str | os.PathLike = "") -> Record:
    """The record that stands at the place. Raises MalformedRecord where it is none (any more)."""
    with open(path, "rb") as file:
        file.seek(place.offset)
        text = file.read(place.length)
    try:
        return parse_record(json.loads(text), str(path), place.line, media_root)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MalformedRecord(f"{path}:{place.line}: no record here any more; the file has changed") from error


def write_records(
    path: str | os.PathLike, raw_records: Iterable[Mapping[str, Any]], like: str | os.PathLike | None = None
) -> int:
    """Writes records in the format of the file `like` (a JSON list or JSONL; by the suffix of path if None), beside the
    destination and then in its place. Returns how many."""
    path = Path(path)
    is_list = path.suffix == ".json" if like is None else _is_list(Path(like))
    part = path.with_name(f".part-{path.name}")
    count = 0
    with open(part, "w", encoding="utf-8") as file:
        file.write("[\n" if is_list else "")
        for raw in raw_records:
            file.write(",\n" if is_list and count else "")
            file.write(json.dumps(raw, ensure_ascii=False) + ("" if is_list else "\n"))
            count += 1
        file.write("\n]\n" if is_list else "")
    part.replace(path)
    return count


def parse_record(raw: Any, source: str, line: int, media_root: str | os.PathLike = "") -> Record:
    """The record, checked. Raises MalformedRecord with what is wrong, the value and what is accepted."""
    if not isinstance(raw, dict):
        raise MalformedRecord(f"the record is a {type(raw).__name__}; an object with 'conversations' is accepted")
    kind, media = _media(raw)
    return Record(
        source=str(source),
        line=line,
        id=str(raw["id"]) if raw.get("id") is not None else f"{Path(source).name}:{line}",
        media=tuple(os.path.join(media_root, path) for path in media),
        media_kind=kind,
        conversation=_placed(_conversation(raw), len(media)),
        scale=_scale(raw),
        relevant_s=_spans(raw),
        extra=raw,
    )


def _checked(raw: Any, path: str | os.PathLike, line: int, media_root: str | os.PathLike) -> Record | RecordFault:
    try:
        return parse_record(raw, str(path), line, media_root)
    except MalformedRecord as error:
        return RecordFault(str(path), line, str(error))


def _is_list(path: Path) -> bool:
    """True if the file's first sign is that of a JSON list."""
    with open(path, "rb") as file:
        while (head := file.read(1)) and head in b" \t\r\n\xef\xbb\xbf":
            pass
    return head == b"["


def _raw_records(path: Path) -> Iterator[tuple[Any, RecordPlace]]:
    """(what the JSON says, or a RecordFault; where it stands)."""
    return _list_items(path) if _is_list(path) else _line_items(path)


def _line_items(path: Path) -> Iterator[tuple[Any, RecordPlace]]:
    offset = 0
    with open(path, "rb") as file:
        for number, text in enumerate(file, start=1):
            content = text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text
            place = RecordPlace(number, offset + len(text) - len(content), len(content))
            offset += len(text)
            if not content.strip():
                continue
            try:
                yield json.loads(content), place
            except json.JSONDecodeError as error:
                yield RecordFault(str(path), number, f"not JSON: {error.msg} at column {error.colno}"), place
            except UnicodeDecodeError as error:
                yield RecordFault(str(path), number, f"not UTF-8: {error.reason} at byte {error.start}"), place


def _list_items(path: Path) -> Iterator[tuple[Any, RecordPlace]]:
    """Item after item; after a mistake of syntax nothing tells where the next one begins, so that it is the last."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        yield RecordFault(str(path), line, f"not UTF-8: {error.reason}; the file is not read"), RecordPlace(line, 0, 0)
        return
    del content
    decoder = json.JSONDecoder()
    at = _after_space(text, text.index("[") + 1)
    line, offset, counted = 1, 0, 0  # of the place `counted` in the text
    while text[at : at + 1] != "]":
        try:
            raw, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            line += text.count("\n", counted, at)
            where = f"line {error.lineno}, column {error.colno}"
            reason = f"not JSON: {error.msg} ({where}); the file is not read beyond this record"
            yield RecordFault(str(path), line, reason), RecordPlace(line, 0, 0)
            return
        line += text.count("\n", counted, at)
        offset += len(text[counted:at].encode())
        length = len(text[at:end].encode())
        yield raw, RecordPlace(line, offset, length)
        line, offset, counted = line + text.count("\n", at, end), offset + length, end
        at = _after_space(text, end)
        if text[at : at + 1] == ",":
            at = _after_space(text, at + 1)
        elif text[at : at + 1] != "]":
            line += text.count("\n", counted, at)
            reason = "not JSON: ',' or ']' is expected after a record; the file is not read beyond it"
            yield RecordFault(str(path), line, reason), RecordPlace(line, 0, 0)
            return


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _quoted(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _media(raw: Mapping[str, Any]) -> tuple[MediaKind, list[str]]:
    image, video = raw.get("image"), raw.get("video")
    if image is not None and video is not None:
        raise MalformedRecord("it has both 'image' and 'video'; one of them is accepted")
    if image is None and video is None:
        return "text", []
    name, value = ("image", image) if video is None else ("video", video)
    paths: list[Any] = value if isinstance(value, list) and name == "image" else [value]
    if not paths or not all(isinstance(path, str) and path.strip() for path in paths):
        accepted = "a path, or a list of paths" if name == "image" else "a path"
        raise MalformedRecord(f"{name!r} is {_quoted(value)}; {accepted} is accepted")
    if name == "video":
        return "video", paths
    return ("images" if len(paths) > 1 else "image"), paths


def _conversation(raw: Mapping[str, Any]) -> list[Turn]:
    """The turns from the first human one on (SPEC 13 drops what precedes it)."""
    written = raw.get("conversations")
    if not isinstance(written, list) or not written:
        raise MalformedRecord(f"'conversations' is {_quoted(written)}; a list of turns is accepted")
    turns: list[Turn] = []
    for number, turn in enumerate(written, start=1):
        role = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
        value = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
        if not isinstance(role, str) or role not in _ROLES or not isinstance(value, str):
            accepted = 'an object {"from": "human" or "gpt", "value": text} is accepted'
            raise MalformedRecord(f"turn {number} is {_quoted(turn)}; {accepted}")
        if turns or _ROLES[role] == "human":
            turns.append({"from": _ROLES[role], "value": _TAGS.sub(VIDEO_TAG, value)})
    for number, turn in enumerate(turns):
        if turn["from"] != ("human", "gpt")[number % 2]:
            raise MalformedRecord(f"two turns of {turn['from']!r} in a row; human and gpt take turns")
    if not turns or len(turns) % 2:
        raise MalformedRecord("the last question has no answer; every human turn is followed by one of gpt")
    for number, turn in enumerate(turns[1::2], start=1):
        if VIDEO_TAG in turn["value"]:
            raise MalformedRecord(f"answer {number} holds a place for media ({VIDEO_TAG}); only questions may")
        if not turn["value"].strip():
            raise MalformedRecord(f"answer {number} is empty")
    return turns


def _placed(turns: list[Turn], num_media: int) -> tuple[Turn, ...]:
    """The turns with one tag for each of the media; untagged media stand before the first question, and several
    pictures where a single tag stands."""
    tags = sum(turn["value"].count(VIDEO_TAG) for turn in turns)
    if tags == num_media:
        return tuple(turns)
    if tags == 0:
        first = {**turns[0], "value": f"{VIDEO_TAG}\n" * num_media + turns[0]["value"]}
        return (first, *turns[1:])
    if tags == 1 and num_media > 1:
        several = "\n".join([VIDEO_TAG] * num_media)
        return tuple({**turn, "value": turn["value"].replace(VIDEO_TAG, several)} for turn in turns)
    raise MalformedRecord(
        f"{tags} places for media ({VIDEO_TAG}) and {num_media} media; one place for each, a single one, or none"
    )


def _number(value: Any) -> float | None:
    """The value if it is a finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _scale(raw: Mapping[str, Any]) -> float | None:
    if raw.get("scale") is None:
        return None
    scale = _number(raw["scale"])
    if scale is None or scale <= 0:
        raise MalformedRecord(f"'scale' is {_quoted(raw['scale'])}; a number above 0 is accepted")
    return scale


def _spans(raw: Mapping[str, Any]) -> tuple[tuple[float, float], ...] | None:
    value = raw.get("relevant_s")
    if value is None:
        return None
    spans = []
    for pair in value if isinstance(value, list) else [None]:
        ends = [_number(end) for end in pair] if isinstance(pair, list) and len(pair) == 2 else [None]
        if None in ends or not 0 <= ends[0] < ends[1]:  # type: ignore[operator]
            raise MalformedRecord(f"'relevant_s' is {_quoted(value)}; a list of [start, end] in seconds is accepted")
        spans.append((float(ends[0]), float(ends[1])))  # type: ignore[arg-type]
    return tuple(spans)
