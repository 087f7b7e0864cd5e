"""FVD: the Fréchet distance between a video network's features of generated and real videos.

arXiv 1812.01717: the first 16 frames, stretched to the network's size.
"""

from __future__ import annotations

from pixelwizard.evaluation.frechet import FrechetDistance
from pixelwizard.evaluation.reference import OfVideos


class FrechetVideoDistance(OfVideos, FrechetDistance):
    """Distance to the real videos of ``reference``."""

    name = "fvd"
