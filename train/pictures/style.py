"""What all pictures have in common."""

from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#1f5fa8", "#d9730d", "#8a8f98"


def plain(axes: Axes) -> None:
    """A light grid, and no frame above and to the right."""
    axes.grid(True, color=GREY, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
