"""What a measurement ends with: its figures beside the machine and the load they were made under.

Source: ours.
"""

import json
import os
import platform
from pathlib import Path
from typing import Any

from launch.whole_file import write_whole


def tell(figures: dict[str, Any], json_file: Path | None) -> None:
    """Prints the figures with machine and load as JSON, and writes them where a file is named."""
    told = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average_at_end": [round(value, 1) for value in os.getloadavg()],
        **figures,
    }
    text = json.dumps(told, indent=1)
    print(text)
    if json_file:
        write_whole(json_file, f"{text}\n")
