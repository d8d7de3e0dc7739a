"""The log: what goes in comes out, numbers that are no numbers are told as such, and lost steps are cut off."""

import json

from vxlpro_jax.train.run_log import RunLog, last_logged_step, read_log


def test_lines_are_plain_json_whatever_the_numbers_are(tmp_path):
    log = RunLog(tmp_path, 0)
    log.write(1, {"loss": float("nan"), "rate": 0.5, "answer": "rot – red", "memory": None})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=lambda name: 1 / 0) == {
        "step": 1,
        "loss": None,
        "rate": 0.5,
        "answer": "rot – red",
        "memory": None,
    }


def test_a_log_goes_on_after_a_step(tmp_path):
    assert last_logged_step(tmp_path) == -1 and read_log(tmp_path) == []
    log = RunLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0 / step})
    log.close()
    assert last_logged_step(tmp_path) == 3
    RunLog(tmp_path, 2).close()
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2]
