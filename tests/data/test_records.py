"""Annotation files: what is read, what is told with its line, what is written back."""

import json

import pytest

from tests.golden_data_pipeline import toy_tokenizer
from vxlpro_jax.data.conversation import conversation_prompt
from vxlpro_jax.data.records import (
    MalformedRecord,
    Record,
    RecordFault,
    RecordPlace,
    find_records,
    read_record,
    read_records,
    write_records,
)

ASKED = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A card."}]


def record(**more) -> dict:
    return {"id": "a", "video": "v.mp4", "conversations": ASKED} | more


def write(path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


def only(path, raw) -> Record | RecordFault:
    write(path / "one.jsonl", json.dumps(raw) + "\n")
    (found,) = read_records(path / "one.jsonl", "/root")
    return found


def test_both_formats_say_the_same_with_their_lines(tmp_path):
    raws = [record(id=str(i), extra="ä\n€") for i in range(3)]
    lines = write(tmp_path / "a.jsonl", "\n".join(json.dumps(raw, ensure_ascii=False) for raw in raws) + "\n\n")
    listed = write(tmp_path / "a.json", json.dumps(raws, indent=1, ensure_ascii=False))
    from_lines, from_list = list(read_records(lines, "/root")), list(read_records(listed, "/root"))
    assert [dict(item.extra) for item in from_lines] == raws == [dict(item.extra) for item in from_list]
    assert [item.line for item in from_lines] == [1, 2, 3]
    assert [listed.read_text().splitlines()[item.line - 1] for item in from_list] == [" {"] * 3
    assert from_lines[0].media == ("/root/v.mp4",) and from_lines[0].media_kind == "video"
    assert from_lines[0].turns == (("What?", "A card."),)


@pytest.mark.parametrize("indent", [None, 2])
def test_any_record_can_be_read_by_itself(tmp_path, indent):
    raws = [record(id="ü" * i) for i in range(5)]
    paths = [
        write(tmp_path / "a.json", json.dumps(raws, indent=indent, ensure_ascii=False)),
        write(tmp_path / "a.jsonl", "\ufeff" + "\r\n".join(json.dumps(raw, ensure_ascii=False) for raw in raws)),
    ]
    for path in paths:
        places = list(find_records(path))
        assert [read_record(path, place).id for place in reversed(places)] == [raw["id"] for raw in reversed(raws)]
        assert [read_record(path, place).line for place in places] == [item.line for item in read_records(path)]
    with pytest.raises(MalformedRecord, match="has changed"):
        read_record(paths[0], RecordPlace(1, 3, 10))


def test_media_of_every_kind(tmp_path):
    plain = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A card."}]
    picture = only(tmp_path, {"image": "a/b.png", "conversations": ASKED})
    assert (picture.media, picture.media_kind) == (("/root/a/b.png",), "image")
    assert picture.id == "one.jsonl:1"
    several = only(tmp_path, {"image": ["a.png", "/b.png"], "conversations": ASKED})
    assert (several.media, several.media_kind) == (("/root/a.png", "/b.png"), "images")
    assert several.conversation[0]["value"] == "<image>\n<image>\nWhat?"
    text = only(tmp_path, {"conversations": plain})
    assert (text.media, text.media_kind, text.scale, text.relevant_s) == ((), "text", None, None)
    untagged = only(tmp_path, {"video": "v.mp4", "conversations": plain})
    assert untagged.conversation[0]["value"] == "<image>\nWhat?"
    tagged = only(
        tmp_path, {"video": "v.mp4", "conversations": [{"from": "human", "value": "<video>\nWhat?"}, plain[1]]}
    )
    assert tagged.conversation == untagged.conversation


def test_spans_scale_roles_and_leading_turns(tmp_path):
    found = only(tmp_path, record(scale=2, relevant_s=[[0, 1.5], [3, 4]]))
    assert found.scale == 2.0 and found.relevant_s == ((0.0, 1.5), (3.0, 4.0))
    turns = [{"role": "user", "content": "A <image> b?"}, {"role": "assistant", "content": "Yes."}]
    assert only(tmp_path, record(conversations=turns)).turns == (("A  b?", "Yes."),)
    assert only(tmp_path, record(conversations=[{"from": "gpt", "value": "Hi."}, *ASKED])).turns == (
        ("What?", "A card."),
    )


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("no object", "the record is a str"),
        ({"video": "v.mp4"}, "'conversations' is None"),
        (record(conversations=[]), "'conversations' is []"),
        (record(conversations=[{"from": "system", "value": "x"}]), "turn 1 is {'from': 'system'"),
        (record(conversations=[{"from": "human"}]), "turn 1 is"),
        (record(conversations=ASKED[:1]), "no answer"),
        (record(conversations=ASKED[1:]), "no answer"),
        (record(conversations=[ASKED[0], *ASKED]), "two turns of 'human' in a row"),
        (record(conversations=[ASKED[0], {"from": "gpt", "value": " "}]), "answer 1 is empty"),
        (record(conversations=[ASKED[0], {"from": "gpt", "value": "<image>"}]), "answer 1 holds a place"),
        (record(image="b.png"), "both 'image' and 'video'"),
        (record(video=""), "'video' is ''; a path"),
        (record(video=["v.mp4"]), "'video' is ['v.mp4']; a path"),
        ({"image": ["a.png", 3], "conversations": ASKED}, "'image' is ['a.png', 3]; a path, or a list"),
        ({"conversations": ASKED}, "1 places for media (<image>) and 0 media"),
        (record(conversations=[{"from": "human", "value": "<image><image>"}, ASKED[1]]), "2 places for media"),
        (record(scale=0), "'scale' is 0"),
        (record(scale="2"), "'scale' is '2'"),
        (record(relevant_s=[[2, 1]]), "'relevant_s' is [[2, 1]]"),
        (record(relevant_s=3), "'relevant_s' is 3"),
    ],
)
def test_faults_say_what_is_wrong(tmp_path, raw, said):
    fault = only(tmp_path, raw)
    assert isinstance(fault, RecordFault) and said in fault.reason
    assert str(fault).startswith(f"{tmp_path / 'one.jsonl'}:1: ")


def test_broken_syntax_is_told_with_its_line(tmp_path):
    good = json.dumps(record())
    path = write(tmp_path / "a.jsonl", f"{good}\n{good[:30]}\n{good}\n")
    found = list(read_records(path))
    assert [isinstance(item, RecordFault) for item in found] == [False, True, False]
    assert found[1].line == 2 and found[1].reason.startswith("not JSON: ")
    for text, line in ((f"[\n{good},\n{good[:30]}\n]", 3), (f"[{good}\n\n{good}]", 3), (f"[{good},\n\n", 3)):
        *read, fault = read_records(write(tmp_path / "a.json", text))
        assert len(read) == 1 and isinstance(fault, RecordFault) and fault.line == line, text
        assert "not JSON" in fault.reason and "not read beyond" in fault.reason
    (tmp_path / "a.jsonl").write_bytes(good.encode() + b'\n"\xff"\n')
    assert "not UTF-8" in list(read_records(tmp_path / "a.jsonl"))[1].reason
    (tmp_path / "a.json").write_bytes(b'[\n"\xff"]')
    (fault,) = read_records(tmp_path / "a.json")
    assert fault.line == 2 and "not UTF-8" in fault.reason
    assert list(read_records(write(tmp_path / "a.json", " [ ] "))) == []
    assert list(read_records(write(tmp_path / "a.json", ""))) == []
    with pytest.raises(OSError):
        list(read_records(tmp_path / "none.json"))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_kept_records_are_written_in_the_format_they_came_in(tmp_path, name):
    raws = [record(id="ü", more={"x": [1, None]}), record(id="b")]
    text = json.dumps(raws) if name == "a.json" else "".join(json.dumps(raw) + "\n" for raw in raws)
    source = write(tmp_path / name, text)
    kept = tmp_path / "kept.anything"
    assert write_records(kept, (dict(item.extra) for item in read_records(source)), like=source) == 2
    assert [dict(item.extra) for item in read_records(kept)] == raws
    assert (kept.read_text()[0] == "[") == (name == "a.json")
    assert write_records(kept, [], like=source) == 0 and list(read_records(kept)) == []
    assert not list(tmp_path.glob(".part-*"))


def test_records_become_the_rows_of_the_reference(tmp_path, golden_dir):
    """From the line of a file to ids and labels, as the released trainer makes them of the same conversation."""
    golden = json.loads((golden_dir / "data_pipeline.json").read_text())
    tokenize = toy_tokenizer(golden)
    lines = [json.dumps({"video": "v.mp4", "conversations": row["conversation"]}) for row in golden["conversations"]]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    for row, found in zip(golden["conversations"], read_records(path), strict=True):
        assert isinstance(found, Record)
        prompt = conversation_prompt(found.conversation, tokenize, "released")
        assert prompt.ids.tolist() == row["input_ids"] and prompt.labels.tolist() == row["labels"]
