"""Draw ``docs/demo.svg``, the picture in the README: ``.venv/bin/python docs/demo_picture.py``.

It is what ``graft demo`` prints, recorded while it really runs.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from graft import cli


def main() -> None:
    screen = Console(record=True, width=94, highlight=False, file=sys.stdout)

    def console(*, stderr: bool = False) -> Any:
        return Console(stderr=True, highlight=False) if stderr else screen

    cli.make_console = console
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / "demo"
        cli.run_demo(out=here, seed=0)
        svg = screen.export_svg(title="make demo", clear=False)
    if "Probability" not in svg:
        raise SystemExit(
            "Nothing was recorded: the demo prints to another console than the one given to it."
        )
    target = Path(__file__).parent / "demo.svg"
    target.write_text(svg.replace(folder + "/", ""))
    print(target)


if __name__ == "__main__":
    main()
