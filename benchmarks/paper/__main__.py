"""The paper's comparisons on the embedded generator: rows as JSON files, plots, and a page of tables.

python -m benchmarks.paper                       # run missing rows, then write plots and page (`make benchmark`)
python -m benchmarks.paper --fresh               # run everything again
python -m benchmarks.paper --scale 0.05          # a quick look, into outputs/benchmark
python -m benchmarks.paper --plan                # list the rows and how long they take
python -m benchmarks.paper --only 'rank-*'       # run some rows and the rows that they need
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from train.cli import parse, run_command

from .page import write_page
from .plan import Row, plan
from .results import Places, Results
from .run import run_rows, to_run
from .techniques import BY_RULES, load_rewriter

PROG = "python -m benchmarks.paper"


@dataclass(kw_only=True)
class BenchmarkArguments:
    """Run the paper's comparisons on the embedded generator."""

    scale: float = 1.0
    """Scale of the number of images and training steps: 0.05 for a quick look. Below 0.3 the numbers say little."""
    seed: int = 0
    """First training seed. The next two seeds are trained too."""
    workers: int = 2
    """Number of processes with one thread each. Use one per core."""
    only: str | None = None
    """Rows to run, as patterns separated by commas, such as base-*,rank-*. Rows that they need run too."""
    fresh: bool = False
    """Run rows again that exist already."""
    rewriter: str = BY_RULES
    """What proposes wordings in the prompt search: rules, or your own module:function, as described in
    benchmarks/paper/techniques.py."""
    save_dir: str | None = None
    """Folder for rows and plots. Default: benchmarks/results, or outputs/benchmark if the scale is not 1."""
    page: str | None = None
    """The page of tables. Default: docs/results.md, or results.md in save_dir if the scale is not 1."""
    plan: bool = False
    """List the rows and their expected seconds, and run nothing."""

    def __post_init__(self):
        if not 0 < self.scale <= 10:
            raise ValueError(f"scale is {self.scale}; it must lie in (0, 10]")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be below 0")
        load_rewriter(self.rewriter)

    @property
    def places(self) -> Places:
        return Places(Path(self.save_dir or ("benchmarks/results" if self.scale == 1 else "outputs/benchmark")))

    @property
    def page_file(self) -> Path:
        if self.page:
            return Path(self.page)
        return Path("docs/results.md") if self.scale == 1 and not self.save_dir else self.places.results / "results.md"

    def wanted(self, rows: list[Row]) -> set[str]:
        """Names of the rows that `only` selects.

        Raises:
            ValueError: a pattern selects no row.
        """
        if not self.only:
            return {row.name for row in rows}
        found: set[str] = set()
        for pattern in (part.strip() for part in self.only.split(",")):
            own = {row.name for row in rows if fnmatch(row.name, pattern)}
            if not own:
                raise ValueError(f"only: no row is called {pattern!r}; --plan shows their names")
            found |= own
        return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: those of the command line).

    Raises:
        ValueError: an argument is wrong, or rows failed; the other rows are kept.
    """
    args: BenchmarkArguments = parse(BenchmarkArguments, PROG, __doc__, argv)
    rows = plan(args.scale, args.seed, args.rewriter)
    wanted, places = args.wanted(rows), args.places
    if args.plan:
        print(listing(rows, to_run(rows, wanted, places, args.fresh), args.workers, args.scale))
        return
    try:
        errors = run_rows(rows, wanted, places, args.workers, args.fresh, print)
    except KeyboardInterrupt:
        raise SystemExit("stopped: rows that were finished stay, and the same command goes on from them") from None
    results = Results.read(rows, places, errors)
    write_page(args.page_file, places.results, results, args.scale, args.seed)
    print(f"{len(results.found)} of {len(rows)} rows: {args.page_file}")
    if errors:
        raise ValueError("; ".join(f"row {name} failed ({error})" for name, error in errors.items()))


def listing(rows: list[Row], missing: list[Row], workers: int, scale: float) -> str:
    """Rows with their expected seconds, and the sum."""
    names = {row.name for row in missing}
    lines = [
        f"{row.name:28} {scale * row.seconds:7.0f} s  {'' if row.name in names else 'there'}  {', '.join(row.needs)}"
        for row in rows
    ]
    together = sum(row.seconds for row in missing if not row.alone) / workers
    alone = sum(row.seconds for row in missing if row.alone)
    lines.append(f"{len(missing)} rows to run, about {scale * (together + alone) / 60:.0f} minutes")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
