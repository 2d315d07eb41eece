"""The figures of the papers, made with this library: one file per paper, one function per figure, found by discovery.

A figure is a function of the Material that returns a picture, what was measured, and which parts of the paper's claim
hold in it. Nothing is judged by hand: the verdict follows from the checks.
"""

from phosphene.figures.figure import Drawn, Figure, LeftOutError, Verdict, figure, figures, papers
from phosphene.figures.material import Material

__all__ = ["Drawn", "Figure", "LeftOutError", "Material", "Verdict", "figure", "figures", "papers"]
