"""``compare`` and ``table``: read the runs, compare them, write everything."""

from __future__ import annotations

from pathlib import Path

from pixelwizard.comparison import table_files
from pixelwizard.comparison.differences import Comparison, compare
from pixelwizard.comparison.enlarged import enlarged
from pixelwizard.comparison.page import check_own, write_page
from pixelwizard.comparison.plot import draw_pareto
from pixelwizard.comparison.scored import scored_rows
from pixelwizard.comparison.table import Table, make_table
from pixelwizard.comparison.tables import to_csv, to_markdown
from pixelwizard.comparison.variants import read_variants
from pixelwizard.config.evaluate import FILTERS, CompareConfig, TableConfig
from pixelwizard.config.schema import ConfigError, listed
from pixelwizard.io.files import write_text
from pixelwizard.io.terminal import Line, reason
from pixelwizard.records.run_folder import LEDGER, locked, short_hash

PICTURE, CSV, MARKDOWN = "pareto.png", "comparison.csv", "comparison.md"


def comparison_of(config: CompareConfig) -> Comparison:
    """The comparison that a configuration asks for. Raises ConfigError if there is none."""
    variants, notes = read_variants([Path(run) for run in config.runs])
    known = [variant.name for variant in variants]
    arms = dict.fromkeys([*config.arms, *[name for name in FILTERS if name == config.baseline]])
    made = [name for name in arms if name not in known]
    variants += [enlarged(variants, name, out_folder(config)) for name in made]
    chosen = {"quality": config.quality, "baseline": config.baseline, "target": config.target}
    return compare(variants, notes, **chosen)


def out_folder(config: CompareConfig) -> Path:
    """Where everything goes: what was asked for, the sweep, or a folder named after the runs."""
    if config.out is not None:
        return Path(config.out)
    first = Path(config.runs[0])
    if len(config.runs) == 1 and (first / LEDGER).is_file():
        return first
    return Path.cwd() / "outputs" / f"compare-{short_hash(sorted(config.runs))}"


def write_comparison(comparison: Comparison, folder: Path) -> list[str]:
    """Page, picture and tables into ``folder``; a sentence for every video that is missing.

    Raises ConfigError where the folder has files of these names that are not a comparison's, or is
    in use, or cannot be written.
    """
    report = folder / "report"
    check_own(report)
    there = [name for name in (PICTURE, CSV, MARKDOWN) if (folder / name).exists()]
    if there and not report.exists():
        raise ConfigError(
            f"out={folder} holds {listed(there)} of something else; choose another folder"
        )
    try:
        with locked(folder, key="out", file=".compare.lock"):
            missing = write_page(comparison, report)
            draw_pareto(comparison, folder / PICTURE)
            write_text(folder / CSV, to_csv(comparison))
            write_text(folder / MARKDOWN, to_markdown(comparison))
    except OSError as error:
        raise ConfigError(f"out={folder} cannot be written: {reason(error)}") from None
    return missing


def table_folder(config: TableConfig) -> Path:
    """Where a table goes: what was asked for, or a folder named after its runs."""
    if config.out is not None:
        return Path(config.out)
    return Path.cwd() / "outputs" / f"table-{short_hash(sorted(config.runs))}"


def table_of(config: TableConfig, folder: Path) -> Table:
    """The table that a configuration asks for; new scores are kept in ``folder``."""
    rows, notes = scored_rows(config, folder, Line())
    return make_table(config, rows, notes)


def write_table(table: Table, folder: Path) -> None:
    """Every form of a table. Raises ConfigError where the folder is in use or cannot be written."""
    forms = {
        "md": table_files.to_markdown,
        "tex": table_files.to_latex,
        "csv": table_files.to_csv,
        "html": table_files.to_html,
    }
    try:
        with locked(folder, key="out", file=".table.lock"):
            for suffix, form in forms.items():
                write_text(folder / f"table.{suffix}", form(table))
    except OSError as error:
        raise ConfigError(f"out={folder} cannot be written: {reason(error)}") from None
