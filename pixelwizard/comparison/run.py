"""``compare``: read the runs, compare them, write everything, tell the tracker."""

from __future__ import annotations

from pathlib import Path

from pixelwizard.comparison.differences import Comparison, compare
from pixelwizard.comparison.page import write_page
from pixelwizard.comparison.plot import draw_pareto
from pixelwizard.comparison.tables import to_csv, to_markdown
from pixelwizard.comparison.variants import read_variants
from pixelwizard.config.compare import CompareConfig
from pixelwizard.config.schema import ConfigError
from pixelwizard.io.files import write_text
from pixelwizard.records.run_folder import LEDGER, short_hash


def comparison_of(config: CompareConfig) -> Comparison:
    """The comparison that a configuration asks for. Raises ConfigError if there is none."""
    variants, notes = read_variants([Path(run) for run in config.runs])
    return compare(
        variants,
        notes,
        quality=config.quality,
        baseline=config.baseline,
        target=config.target,
    )


def out_folder(config: CompareConfig) -> Path:
    """Where everything goes: what was asked for, the sweep, or a folder named after the runs."""
    if config.out is not None:
        return Path(config.out)
    first = Path(config.runs[0])
    if len(config.runs) == 1 and (first / LEDGER).is_file():
        return first
    return Path.cwd() / "outputs" / f"compare-{short_hash(sorted(config.runs))}"


def write_comparison(comparison: Comparison, folder: Path) -> list[str]:
    """Page, picture and tables into ``folder``; a sentence for every video that is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        missing = write_page(comparison, folder / "report")
        draw_pareto(comparison, folder / "pareto.png")
        write_text(folder / "comparison.csv", to_csv(comparison))
        write_text(folder / "comparison.md", to_markdown(comparison))
    except OSError as error:
        raise ConfigError(f"out={folder} cannot be written: {error.strerror}") from None
    return missing
