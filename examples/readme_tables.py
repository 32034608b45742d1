"""Write the README's result tables from the committed result files: ``python examples/readme_tables.py [--check]``.

What stands between ``<!-- results: NAME -->`` and ``<!-- end -->`` is replaced; with ``--check`` a difference is an error.
"""

import csv
import re
import sys
from dataclasses import replace
from pathlib import Path

from dream_env.measuring import results
from dream_env.measuring.tables import markdown, results_table, rows_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "examples" / "results"


def speed_table() -> str:
    """``speed.csv`` as Markdown, one line a system."""
    with (RESULTS / "speed.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    head = ("loop", "size", "system", "per CPU second, or MiB", "ratio to the best peer")
    lines = [
        (
            row["loop"],
            row["size"],
            row["system"],
            f"{float(row['units_per_cpu_second']):,.0f}",
            row["ratio_to_best_peer"],
        )
        for row in rows
    ]
    return markdown(head, lines, text_columns=3)


def grid_table(name: str) -> str:
    """A grid's result file as Markdown, its methods called what the grid calls them."""
    return rows_table(
        replace(row, method=row.experiment.rpartition("/")[2], learner="", warm_start="") if row.trained else row
        for row in results.read(RESULTS / f"{name}.csv")
    )


def tables() -> dict[str, str]:
    """Every table by the name in its marker."""
    found = {"pong": results_table([RESULTS / "pong.csv"])}
    found |= {name: grid_table(name) for name in ("ditto", "cmil") if (RESULTS / f"{name}.csv").is_file()}
    if (RESULTS / "speed.csv").is_file():
        found["speed"] = speed_table()
    return found


def written(text: str) -> str:
    """The README with its tables made anew."""
    for name, table in tables().items():
        pattern = rf"(<!-- results: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL)
    return text


def main() -> None:
    """Rewrite or check the README."""
    path = ROOT / "README.md"
    before = path.read_text()
    after = written(before)
    if "--check" in sys.argv[1:]:
        sys.exit(
            "README.md is not what the result files say; run python examples/readme_tables.py" if after != before else 0
        )
    path.write_text(after)


if __name__ == "__main__":
    main()
