"""The scores of a folder as files and on the terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pixelwizard.evaluation.names import FeatureNetwork
from pixelwizard.evaluation.score import Score
from pixelwizard.io.files import write_json, write_text
from pixelwizard.io.terminal import aligned, markdown
from pixelwizard.records.run_folder import SCORES

MARKDOWN = "evaluate.md"


@dataclass
class Report:
    """Values of the set and of each video, what was skipped and why, what is to be known.

    ``failed`` has the metrics that raised an error, and which; ``missing`` all that have no value,
    and why. ``recipes`` are those of the values of single videos, by the name of the metric;
    ``pseudo_values`` are the videos' shares in scores of the set, by its name and their id.
    """

    scores: list[Score] = field(default_factory=list)
    per_video: dict[str, dict[str, float]] = field(default_factory=dict)
    recipes: dict[str, str] = field(default_factory=dict)
    pseudo_values: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    networks: list[FeatureNetwork] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        found = asdict(self)
        return {"set": found.pop("scores"), **found}

    def table(self) -> str:
        """For a terminal: one line per score, then the remarks."""
        return "\n".join([*aligned(self._rows(), left=range(4)), *self._remarks()])

    def markdown(self) -> str:
        """A page with both tables."""
        names = list(dict.fromkeys(name for row in self.per_video.values() for name in row))
        videos: list[tuple[str, ...]] = [("video", *names)]
        for id, row in self.per_video.items():
            videos.append((id, *(f"{row[name]:.4g}" if name in row else "" for name in names)))
        remarks = [f"- {remark}" for remark in self._remarks()]
        sources = [f"- {n.name}: {n.source}; licence: {n.licence}" for n in self.networks]
        parts = {
            "# Scores": markdown(self._rows("`"), left=range(4)),
            "## Videos": [*markdown(videos), "", *remarks],
            "## Networks": sources,
        }
        return "\n".join(line for head in parts for line in (head, "", *parts[head], ""))

    def write(self, folder: Path, of: str) -> None:
        """Both files, each whole or not at all; ``of`` tells what was scored."""
        write_json(folder / SCORES, {**self.to_json(), "of": of})
        write_text(folder / MARKDOWN, self.markdown())

    def _rows(self, quote: str = "") -> list[tuple[str, ...]]:
        """A row per score under a head; ``quote`` goes around recipes."""
        rows: list[tuple[str, ...]] = [("metric", "value", "95 % interval", "recipe")]
        for s in self.scores:
            name = f"{s.name} ({'higher' if s.higher_is_better else 'lower'} is better)"
            interval = f"{s.low:.5g} to {s.high:.5g}" if s.videos > 1 else "-"
            rows.append((name, f"{s.value:.5g}", interval, f"{quote}{s.recipe}{quote}"))
        return rows

    def _remarks(self) -> list[str]:
        texts = dict.fromkeys(text for score in self.scores for text in score.warnings)
        warnings = [
            f"{', '.join(score.name for score in self.scores if text in score.warnings)}: {text}"
            for text in texts
        ]
        skipped = [f"skipped {name}: {why}" for name, why in self.skipped.items()]
        return [*warnings, *self.notes, *skipped]
