"""Write the README's result tables from the committed result files: ``python examples/readme_tables.py [--check]``.

What stands between ``<!-- results: NAME -->`` and ``<!-- end -->`` is replaced; with ``--check`` a difference is an error. All
rows of ``speed.csv`` go to ``speed.md`` beside it.
"""

import re
import sys
from pathlib import Path

import pong_minutes

from dream_env.measuring import results
from dream_env.measuring.study import labelled
from dream_env.measuring.tables import results_table, rows_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "examples" / "results"
sys.path.append(str(ROOT / "examples" / "benchmark"))

from speed_rows import read  # noqa: E402
from speed_tables import goals, loops  # noqa: E402


def grid_table(name: str) -> str:
    """A grid's result file as Markdown, its methods called what the grid, and the figures of ``dream-env report``, call them."""
    return rows_table(labelled(results.read(RESULTS / f"{name}.csv")))


def tables() -> dict[str, str]:
    """Every table by the name in its marker."""
    found = {name: results_table([RESULTS / f"{name}.csv"]) for name in ("pong", "pong_short")}
    found |= {name: grid_table(name) for name in ("ditto", "ditto_a3c", "cmil") if (RESULTS / f"{name}.csv").is_file()}
    if (RESULTS / "pong_minutes.csv").is_file():
        found["pong_minutes"] = pong_minutes.table(pong_minutes.read(RESULTS / "pong_minutes.csv"))
    if (RESULTS / "speed.csv").is_file():
        found["speed"] = goals(read(RESULTS / "speed.csv"))
    return found


def written(text: str) -> str:
    """The README with its tables made anew."""
    for name, table in tables().items():
        pattern = rf"(<!-- results: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL)
    return text


def files() -> dict[Path, str]:
    """What each file made here should hold."""
    readme = ROOT / "README.md"
    found = {readme: written(readme.read_text())}
    if (RESULTS / "speed.csv").is_file():
        found[RESULTS / "speed.md"] = loops(read(RESULTS / "speed.csv")) + "\n"
    return found


def main() -> None:
    """Rewrite or check them."""
    for path, text in files().items():
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.is_file() or path.read_text() != text:
            sys.exit(f"{path.name} is not what the result files say; run python examples/readme_tables.py")


if __name__ == "__main__":
    main()
