"""The page of limits is what its command prints, and says of every figure how it was found."""

from pathlib import Path

from launch.limits import FRAMES, main, page
from vxlpro_jax.parallel.devices import DEVICES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "limits.md"


def test_the_document_is_what_the_command_writes(tmp_path, capsys):
    assert main([]) == 0
    assert capsys.readouterr().out == page() == DOCUMENT.read_text(encoding="utf-8")
    assert main(["-o", str(tmp_path / "limits.md")]) == 0
    assert (tmp_path / "limits.md").read_text(encoding="utf-8") == page()


def test_every_device_and_length_is_there():
    text = page()
    assert "Every figure on this page is computed" in text
    for device in DEVICES:
        section = text.split(f"## {device.name}\n")[1].split("\n## ")[0]
        assert [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")][2:] == [
            f"{count:,}" for count in FRAMES
        ]
