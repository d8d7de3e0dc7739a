"""Plans in words and tables: every part, phase and figure is told, with how it was found."""

from vxlpro_jax.parallel.devices import device_named
from vxlpro_jax.planning.memory import GIB
from vxlpro_jax.planning.plan import Work, make_plan
from vxlpro_jax.planning.plan_text import limits_table, told

V5E = Work("video_xl_pro_3b", device_named("v5e"), 8192, whole=True)


def test_a_plan_in_lines():
    plan = make_plan(V5E)
    text = told(plan, 0.5)
    for part in plan.held:
        [line] = [line for line in text.splitlines() if line.startswith(f"  {part.name} (")]
        assert line.split()[-2:] == [f"{part.bytes / GIB:.2f}", "computed"]
    assert "of 15.75" in text and "fits: no\n  without --whole it fits\n" in text
    assert "longest video so: 5896 frames (the device's memory ends it; computed)" in text
    assert text.splitlines()[-1].startswith("beyond the 32768 rows")
    seconds = [line for line in text.splitlines() if line.startswith("  index the video")]
    assert seconds[0].split()[-3:] == ["29", "58", "computed"]  # 5.70 PFLOP at 197 TFLOP/s


def test_a_plan_that_fits_says_what_must_be_set():
    close = make_plan(Work("video_xl_pro_3b", device_named("a100-80gb"), 49152, whole=True))
    assert "fits: yes, with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95\n" in told(close, 0.5)
    assert "fits: yes\n" in told(make_plan(Work("tiny", device_named("h200"), 64)), 0.5)


def test_a_table_has_a_line_per_length():
    lines = limits_table("video_xl_pro_3b", device_named("v5e"), (128, 8192), 0.5).splitlines()
    assert len(lines) == 4 and {line.count("|") for line in lines} == {9}
    short, long = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    assert short[0] == "128" and long[0] == "8,192" and long[1] == "1.12"
    assert long[5] == "315,456" and long[7] == "does not fit" != short[7]
    assert long[3] == "31.8 / 63.6"  # 28.9 s to encode, 1.7 s to read 32,640 rows, 128 tokens of 9 ms
