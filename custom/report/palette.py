"""The one palette of charts, pictures and pages.

The seven hues are Okabe and Ito's, told apart by colour-blind readers.
"""

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW = "#E69F00", "#56B4E9", "#F0E442"
LINE_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)  # in the order in which they show on white
CLASS_COLOURS = (ORANGE, SKY, YELLOW, PURPLE, GREEN, VERMILION, BLUE)  # in the order in which they show on grey images
WARNING = "#D62728"  # of words alone; read on white and on the dark pages of a report
BLACK, GREY, DARK_GREY, GRID = "#000000", "#888888", "#555555", "#dddddd"

# What a page colours by name (CSS variables), by day, by night and on paper.
LIGHT = {
    "paper": "#ffffff", "panel": "#f5f6f8", "ink": "#1b1f24", "faint": "#5b6470", "rule": "#d5d9df", "grid": GRID,
    "accent": "#0067a3", "blue": BLUE.lower(), "bad": "#a63a00", "bad-paper": "#fdeee4",
}  # fmt: skip
DARK = {
    "paper": "#15181c", "panel": "#1f242a", "ink": "#e6e9ed", "faint": "#a3acb8", "rule": "#3a424c", "grid": "#333a43",
    "accent": "#6cb6ea", "blue": "#4aa3df", "bad": "#ffab7a", "bad-paper": "#3a2418",
}  # fmt: skip
PRINTED = {**LIGHT, "panel": "#f2f2f2", "ink": BLACK, "faint": "#444444", "rule": "#bbbbbb"}

# Ink of a figure that follows the page's, so that it reads by night too.
PAGE_INK = {BLACK: "currentColor", GRID: "var(--grid)", DARK_GREY: "var(--faint)", BLUE.lower(): "var(--blue)"}
